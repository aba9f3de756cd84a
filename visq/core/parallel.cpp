#include "visq/core/parallel.h"

// MKL's own switch; absent where libtorch uses another BLAS.
extern "C" void MKL_Set_Dynamic(int dynamic) __attribute__((weak));

namespace visq {

void set_threads(int threads) {
  if (threads > 0) at::set_num_threads(threads);
  // libtorch tells MKL to divide products by the number of threads even inside a parallel loop (attention's),
  // which makes their bits depend on it. With this, MKL does not divide there.
  if (MKL_Set_Dynamic != nullptr) MKL_Set_Dynamic(1);
}

}  // namespace visq

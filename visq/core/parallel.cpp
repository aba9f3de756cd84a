#include "visq/core/parallel.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <atomic>

// libtorch's loops are templates, which run on one thread where the compiler ignores OpenMP.
#ifndef _OPENMP
#error "this file has to be compiled with OpenMP"
#endif

// MKL's own switch; absent where libtorch uses another BLAS.
extern "C" void MKL_Set_Dynamic(int dynamic) __attribute__((weak));

namespace visq {

void set_threads(int threads) {
  if (threads > 0) at::set_num_threads(threads);
  // libtorch tells MKL to divide products by the number of threads even inside a parallel loop (attention's),
  // which makes their bits depend on it. With this, MKL does not divide there.
  if (MKL_Set_Dynamic != nullptr) MKL_Set_Dynamic(1);
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body) {
  // A thread's own state, which the caller's does not reach.
  const bool no_gradients = c10::InferenceMode::is_enabled();
  at::parallel_for(0, n, grain, [&](int64_t begin, int64_t end) {
    const c10::InferenceMode mode(no_gradients);
    body(begin, end);
  });
}

void parallel_jobs(int64_t n, const std::function<void(int64_t i)>& job) {
  std::atomic<int64_t> next{0};
  parallel_for(std::min<int64_t>(n, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < n; i = next++) job(i);
  });
}

}  // namespace visq

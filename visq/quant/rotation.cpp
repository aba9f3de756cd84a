#include "visq/quant/rotation.h"

#include <ATen/ATen.h>

#include "visq/quant/kv_format.h"

namespace visq {

at::Tensor rotate_columns(const at::Tensor& matrix, int64_t head_dim) {
  return hadamard_transform(matrix.reshape({matrix.size(0), -1, head_dim})).view(matrix.sizes());
}

at::Tensor rotate_rows(const at::Tensor& matrix, int64_t head_dim) {
  return rotate_columns(matrix.t(), head_dim).t().contiguous();
}

}  // namespace visq

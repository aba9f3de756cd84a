// Gradients of tiled products, as tiled products. Private to tiled*.cpp: autograd's headers are large.
#pragma once
#include <ATen/core/Tensor.h>

namespace visq {

/// Whether an operation on x is to be recorded.
bool records_gradients(const at::Tensor& x);

/// tiled_linear(), recorded. Weights may be inference tensors. @param bias  gets no gradient
at::Tensor tiled_linear_with_gradient(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace visq

#include "visq/core/tiled_gradient.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "visq/core/tiled.h"

namespace visq {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// x·weightᵀ of two matrices.
struct TiledProduct : torch::autograd::Function<TiledProduct> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight) {
    // Not save_for_backward(), which takes no inference tensors.
    context->saved_data["weight"] = weight.detach();
    if (weight.requires_grad()) context->saved_data["x"] = x.detach();
    return tiled_linear(x.detach(), weight.detach());
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const at::Tensor above = gradients.front().contiguous();
    variable_list below(2);
    if (context->needs_input_grad(0))
      below[0] = tiled_linear(above, context->saved_data["weight"].toTensor().t().contiguous());
    if (context->needs_input_grad(1))
      below[1] = tiled_matmul(above.t().contiguous(), context->saved_data["x"].toTensor().contiguous());
    return below;
  }
};

}  // namespace

bool records_gradients(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

at::Tensor tiled_linear_with_gradient(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  at::Tensor y = TiledProduct::apply(x.reshape({-1, x.size(-1)}), weight);
  if (bias.defined()) y = y + bias;
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight.size(0);
  return y.view(shape);
}

}  // namespace visq

#include "visq/nn/ops.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq::nn {

at::Tensor apply(const Linear& linear, const at::Tensor& x, const at::Tensor& adapted) {
  at::Tensor y = tiled_linear(linear.input ? linear.input(x) : x, linear.weight, linear.bias);
  if (linear.output) y = linear.output(x, y);
  const Adapter& adapter = linear.adapter;
  if (!adapter.a.defined() || !adapted.defined()) return y;
  return y + tiled_linear(tiled_linear(x, adapter.a), adapter.b) * adapter.scale * adapted;
}

at::Tensor rms_norm(const at::Tensor& x, const Norm& norm, double eps, bool plus_one) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled = wide * wide.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  if (!norm.weight.defined()) return scaled.to(x.scalar_type());
  if (plus_one) return (scaled * (norm.weight.to(at::kFloat) + 1.0)).to(x.scalar_type());
  return norm.weight * scaled.to(x.scalar_type());
}

at::Tensor layer_norm(const at::Tensor& x, const Norm& norm, double eps) {
  return at::layer_norm(x, {x.size(-1)}, norm.weight, norm.bias, eps);
}

Activation parse_activation(const std::string& name, const std::string& origin) {
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu") return Activation::gelu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "quick_gelu") return Activation::quick_gelu;
  fail("{}: activation '{}' is not supported (silu, gelu, gelu_pytorch_tanh, quick_gelu are)", origin, name);
}

namespace {

at::Tensor activate_elements(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::gelu_tanh:
      return at::gelu(x, "tanh");
    case Activation::quick_gelu:
      return x * at::sigmoid(x * 1.702);
  }
  fail("activation {} does not exist", static_cast<int>(activation));
}

}  // namespace

at::Tensor activate(Activation activation, const at::Tensor& x) {
  return tiled_map(x, [activation](const at::Tensor& part) { return activate_elements(activation, part); });
}

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const int64_t rotary = cos.size(-1), half = rotary / 2;
  const at::Tensor turned = at::cat({x.narrow(-1, half, half).neg(), x.narrow(-1, 0, half)}, -1);
  const at::Tensor rotated = (x.narrow(-1, 0, rotary) * cos.unsqueeze(1)).add_(turned.mul_(sin.unsqueeze(1)));
  if (rotary == x.size(-1)) return rotated;
  return at::cat({rotated, x.narrow(-1, rotary, x.size(-1) - rotary)}, -1);
}

at::Tensor rotate_neighbours(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const at::Tensor wide = x.to(at::kFloat), pairs = wide.unflatten(-1, {-1, 2});
  const at::Tensor turned = at::stack({pairs.select(-1, 1).neg(), pairs.select(-1, 0)}, -1).flatten(-2);
  return (wide * cos.unsqueeze(1)).add_(turned.mul_(sin.unsqueeze(1))).to(x.scalar_type());
}

}  // namespace visq::nn

#include "visq/quant/solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq {
namespace {

constexpr double kMinScale = 1e-4, kMaxScale = 1e4;

// [in] → [kv_heads, queries, head_dim]
at::Tensor by_head(const SharedHeads& heads, const at::Tensor& channels) {
  return channels.view({heads.kv_heads, heads.queries_per_kv, heads.head_dim});
}

at::Tensor expand_shared(const SharedHeads& heads, const at::Tensor& shared) {  // [kv_heads, head_dim] → [in]
  return shared.unsqueeze(1).expand({heads.kv_heads, heads.queries_per_kv, heads.head_dim}).reshape(-1);
}

// Mean over rows of |W| relative to its block's largest: how much of its block a column fills. f32 [in]
at::Tensor relative_magnitude(const std::vector<at::Tensor>& weights, int64_t block) {
  at::Tensor sum;
  int64_t rows = 0;
  for (const at::Tensor& weight : weights) {
    const at::Tensor blocks = weight.abs().view({weight.size(0), -1, block > 0 ? block : weight.size(1)});
    const at::Tensor relative = blocks / (blocks.amax(2, true) + std::numeric_limits<float>::min());
    const at::Tensor part = relative.view(weight.sizes()).sum(0);
    sum = sum.defined() ? sum + part : part;
    rows += weight.size(0);
  }
  return sum / static_cast<double>(rows);
}

at::Tensor awq_scale(const at::Tensor& magnitude, const at::Tensor& fill, double alpha) {
  at::Tensor scale = magnitude.pow(alpha) / (fill.pow(1 - alpha) + std::numeric_limits<float>::min());
  scale = scale.clamp(kMinScale, kMaxScale);
  return scale / (scale.max() * scale.min()).sqrt();
}

// The α whose scale has the smallest loss, the first of equals.
SmoothingDecision search_smoothing(const std::function<at::Tensor(double alpha)>& scale_at,
                                   const std::function<double(const at::Tensor& scale)>& loss_of,
                                   const SmoothingOptions& options) {
  SmoothingDecision decision;
  decision.loss = std::numeric_limits<double>::infinity();
  const auto loss_at = [&](double alpha) {
    at::Tensor scale = scale_at(alpha);
    if (options.powers_of_two) scale = nearest_powers_of_two(scale);
    const double loss = loss_of(scale);
    if (loss < decision.loss) {
      decision.loss = loss;
      decision.alpha = alpha;
      decision.scale = scale;
    }
    return loss;
  };
  if (options.alpha) {
    decision.losses = {loss_at(*options.alpha)};
  } else {
    for (const double alpha : smoothing_alphas()) decision.losses.push_back(loss_at(alpha));
    if (options.refine) {
      const double coarse = decision.alpha, half_step = 0.05;
      for (const double alpha : {coarse - half_step, coarse + half_step})
        if (alpha >= 0 && alpha <= 1) loss_at(alpha);
    }
  }
  if (!decision.scale.defined())
    fail("smoothing found no finite loss: the statistics hold a NaN or an infinity");
  decision.plain_loss = loss_of(at::ones_like(decision.scale));
  return decision;
}

}  // namespace

at::Tensor SharedHeads::mean(const at::Tensor& channels) const {
  return expand_shared(*this, by_head(*this, channels).mean(1));
}
at::Tensor SharedHeads::max(const at::Tensor& channels) const {
  return expand_shared(*this, by_head(*this, channels).amax(1));
}
at::Tensor SharedHeads::one_each(const at::Tensor& channels) const {
  return by_head(*this, channels).select(1, 0).reshape(-1);
}

double gram_loss(const at::Tensor& difference, const at::Tensor& gram) {
  return sum_in_order(quadratic_forms(difference, gram));
}

double sum_in_order(const at::Tensor& values) {
  const at::Tensor on_cpu = values.to(at::kCPU, at::kDouble).contiguous();
  double sum = 0;
  for (const double value : std::span(on_cpu.const_data_ptr<double>(), static_cast<size_t>(on_cpu.numel())))
    sum += value;
  return sum;
}

double relative_error(const DrawnTokens& tokens, const std::vector<at::Tensor>& weights,
                      const at::Tensor& inputs, const std::function<at::Tensor(size_t linear)>& quantized) {
  double error = 0, power = 0;
  const auto total = [&](const at::Tensor& outputs) {
    return sum_in_order(outputs.square().sum(1).mul_(tokens.counts));
  };
  for (size_t i = 0; i < weights.size(); ++i) {
    const at::Tensor outputs = tiled_linear(tokens.rows, weights[i].to(at::kFloat));
    power += total(outputs);
    error += total(tiled_linear(inputs, quantized(i)).sub_(outputs));
  }
  return power > 0 ? error / power : error;
}

at::Tensor smoothquant_scale(const at::Tensor& input_max, const at::Tensor& weight_max, double alpha) {
  const at::Tensor sigma = weight_max.pow(1 - alpha) / input_max.pow(alpha);
  return sigma.clamp(kMinScale, kMaxScale).reciprocal();
}

at::Tensor nearest_powers_of_two(const at::Tensor& scale) {
  // Half of the mantissa's range added, then the mantissa cleared.
  return scale.contiguous().view(at::kInt).add(1 << 22).bitwise_and_(0x7F800000).view(at::kFloat);
}

const std::vector<double>& smoothing_alphas() {
  static const std::vector<double> alphas = [] {
    std::vector<double> values;
    for (int i = 0; i <= 10; ++i) values.push_back(static_cast<float>(i) * 0.1f);
    return values;
  }();
  return alphas;
}

SmoothingDecision solve_awq(const std::vector<at::Tensor>& weights, const at::Tensor& magnitude,
                            const at::Tensor& gram, int64_t block, const Quantizer& quantize_weight,
                            const SmoothingOptions& options, const Quantizer& input_error) {
  if (weights.empty() || !gram.defined()) fail("AWQ needs weights and a Gram matrix");
  const std::optional<SharedHeads>& shared = options.shared;
  const at::Tensor fill = relative_magnitude(weights, block);
  const at::Tensor input = shared ? shared->mean(magnitude) : magnitude;
  const at::Tensor columns = shared ? shared->mean(fill) : fill;
  const auto loss_of = [&](const at::Tensor& scale) {
    const at::Tensor rounding = input_error ? input_error(scale) : at::Tensor();
    double loss = 0;
    for (const at::Tensor& weight : weights) {
      const at::Tensor quantized = quantize_weight(weight * scale);
      if (rounding.defined()) loss += sum_in_order(tiled_linear(rounding, quantized).square());
      loss += gram_loss(quantized.div_(scale).sub_(weight), gram);
    }
    return loss;
  };
  return search_smoothing([&](double alpha) { return awq_scale(input, columns, alpha); }, loss_of, options);
}

SmoothingDecision solve_smoothquant(const std::vector<at::Tensor>& weights, const at::Tensor& input_max,
                                    const at::Tensor& x, const Quantizer& quantize_weight,
                                    const std::function<at::Tensor(const at::Tensor& scale)>& rounded_inputs,
                                    const SmoothingOptions& options) {
  if (weights.empty()) fail("SmoothQuant needs weights");
  at::Tensor weight_max, input = input_max;
  for (const at::Tensor& weight : weights) {
    const at::Tensor columns = weight.abs().amax(0);
    weight_max = weight_max.defined() ? at::maximum(weight_max, columns) : columns;
  }
  if (options.shared) {
    input = options.shared->max(input);
    weight_max = options.shared->max(weight_max);
  }
  std::vector<at::Tensor> outputs;
  for (const at::Tensor& weight : weights) outputs.push_back(tiled_linear(x, weight));
  const auto loss_of = [&](const at::Tensor& scale) {
    const at::Tensor rounded = rounded_inputs(scale);
    double loss = 0;
    for (size_t i = 0; i < weights.size(); ++i)
      loss +=
          sum_in_order(tiled_linear(rounded, quantize_weight(weights[i] * scale)).sub_(outputs[i]).square());
    return loss;
  };
  return search_smoothing([&](double alpha) { return smoothquant_scale(input, weight_max, alpha); }, loss_of,
                          options);
}

}  // namespace visq

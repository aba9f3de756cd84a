#include "visq/quant/solver.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

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
    const at::Tensor blocks = weight.abs().view({weight.size(0), -1, block});
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
  // Summed in order: it does not depend on the number of threads.
  const at::Tensor rows = quadratic_forms(difference, gram).to(at::kCPU, at::kDouble);
  double loss = 0;
  for (const double value : std::span(rows.data_ptr<double>(), static_cast<size_t>(rows.numel())))
    loss += value;
  return loss;
}

at::Tensor smoothquant_scale(const at::Tensor& input_max, const at::Tensor& weight_max, double alpha) {
  const at::Tensor sigma = weight_max.pow(1 - alpha) / input_max.pow(alpha);
  return sigma.clamp(kMinScale, kMaxScale).reciprocal();
}

at::Tensor nearest_powers_of_two(const at::Tensor& scale) {
  // Half of the mantissa's range added, then the mantissa cleared.
  return scale.contiguous().view(at::kInt).add(1 << 22).bitwise_and_(0x7F800000).view(at::kFloat);
}

const std::vector<double>& awq_alphas() {
  static const std::vector<double> alphas = [] {
    std::vector<double> values;
    for (int i = 0; i <= 10; ++i) values.push_back(static_cast<float>(i) * 0.1f);
    return values;
  }();
  return alphas;
}

AwqDecision solve_awq(const std::vector<at::Tensor>& weights, const at::Tensor& magnitude,
                      const at::Tensor& gram, int64_t block,
                      const std::function<at::Tensor(const at::Tensor&)>& fake_quantize,
                      const AwqOptions& options) {
  const std::optional<SharedHeads>& shared = options.shared;
  if (weights.empty() || !gram.defined()) fail("AWQ needs weights and a Gram matrix");
  const auto loss_of = [&](const at::Tensor& scale) {
    double loss = 0;
    for (const at::Tensor& weight : weights)
      loss += gram_loss(fake_quantize(weight * scale).div_(scale).sub_(weight), gram);
    return loss;
  };
  const at::Tensor fill = relative_magnitude(weights, block);
  const at::Tensor input = shared ? shared->mean(magnitude) : magnitude;
  const at::Tensor columns = shared ? shared->mean(fill) : fill;

  AwqDecision decision;
  decision.plain_loss = loss_of(at::ones_like(magnitude));
  decision.loss = std::numeric_limits<double>::infinity();
  const auto loss_at = [&](double alpha) {
    at::Tensor scale = awq_scale(input, columns, alpha);
    if (options.powers_of_two) scale = nearest_powers_of_two(scale);
    const double loss = loss_of(scale);
    if (loss < decision.loss) {
      decision.loss = loss;
      decision.alpha = alpha;
      decision.scale = scale;
    }
    return loss;
  };
  for (const double alpha : awq_alphas()) decision.losses.push_back(loss_at(alpha));
  if (options.refine) {
    const double coarse = decision.alpha, half_step = 0.05;
    for (const double alpha : {coarse - half_step, coarse + half_step})
      if (alpha >= 0 && alpha <= 1) loss_at(alpha);
  }
  if (!decision.scale.defined()) fail("AWQ found no finite loss: the statistics hold a NaN or an infinity");
  return decision;
}

}  // namespace visq

#include "visq/nn/experts.h"

#include <ATen/ATen.h>

#include <tuple>

namespace visq::nn {
namespace {

/// Experts of each token and their weights, [tokens, per_token] each.
struct Routes {
  at::Tensor experts, weights;
};

Routes route(const ExpertsSpec& spec, const at::Tensor& scores) {
  if (spec.routing == ExpertsSpec::Routing::sigmoid_input) {
    const auto [best, experts] = scores.topk(spec.per_token, 1);
    return {experts, best.to(at::kFloat).sigmoid().to(scores.scalar_type())};
  }
  auto [weights, experts] = scores.softmax(1, at::kFloat).topk(spec.per_token, 1);
  if (spec.normalize) weights = weights / weights.sum(1, /*keepdim=*/true);
  return {experts, weights.to(scores.scalar_type())};
}

}  // namespace

at::Tensor gated(Activation activation, const Linear& gate, const Linear& up, const at::Tensor& x) {
  return activate(activation, apply(gate, x)).mul_(apply(up, x));
}

at::Tensor unrouted_input(const ExpertsSpec& spec, const at::Tensor& x, const at::Tensor& scores,
                          int64_t expert) {
  if (spec.routing != ExpertsSpec::Routing::sigmoid_input) return x;
  return x * scores.narrow(1, expert, 1).to(at::kFloat).sigmoid().to(x.scalar_type());
}

at::Tensor run_experts(const ExpertsSpec& spec, Activation activation, const std::vector<Expert>& experts,
                       const at::Tensor& x, const at::Tensor& scores, const ExpertObserver& observer) {
  const Routes routes = route(spec, scores);
  const bool scales_input = spec.routing == ExpertsSpec::Routing::sigmoid_input;
  const at::Tensor sum = at::zeros_like(x);
  // In the order of the experts, each token at most once in each: the order of additions is fixed.
  for (int64_t expert = 0; expert < spec.count; ++expert) {
    const at::Tensor places = routes.experts.eq(expert).nonzero();  // [rows, (token, choice)]
    if (places.size(0) == 0) continue;
    const at::Tensor rows = places.select(1, 0), choices = places.select(1, 1);
    const at::Tensor weights = routes.weights.index({rows, choices}).unsqueeze(1);
    at::Tensor input = x.index_select(0, rows);
    if (scales_input) input = input * weights;
    const Expert& own = experts[static_cast<size_t>(expert)];
    const at::Tensor hidden = gated(activation, own.gate, own.up, input);
    if (observer) observer(expert, rows, input, hidden);
    const at::Tensor output = apply(own.down, hidden);
    sum.index_add_(0, rows, scales_input ? output : output * weights);
  }
  return sum;
}

}  // namespace visq::nn

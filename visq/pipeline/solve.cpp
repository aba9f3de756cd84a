#include "visq/pipeline/solve.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"

namespace visq {
namespace {

using nn::InputGroup;
using nn::Role;

// ModelOpt smooths with α = 1, which moves all of the difficulty into the weights; half is the published
// default.
constexpr double kSmoothQuantAlpha = 0.5;

// An input that was zero throughout: any scale represents it (spec/quantization.md §5.7).
float input_scale(float amax, InputFormat format) {
  return amax > 0 ? amax / input_format_max(format) : 1.0f;
}

// As the layout stores it, so that what is computed is what is loaded.
float rounded(float value, at::ScalarType dtype) {
  return at::full({}, value, at::kFloat).to(dtype).to(at::kFloat).item<float>();
}

PackedTensor pack(const Scheme& scheme, const at::Tensor& weight, float group_amax,
                  at::ScalarType scale_dtype) {
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      return pack_fp8(weight, group_amax);
    case Codec::int8:
      return pack_int8(weight, scale_dtype);
    case Codec::int4:
      return pack_int4(weight, scheme.block, scale_dtype);
    case Codec::nvfp4:
      return pack_nvfp4(weight, group_amax);
  }
  fail("unknown codec");
}

}  // namespace

LayerSolver::LayerSolver(const Model& model, int64_t layer, const LayerStatistics* statistics)
    : model_(model), layer_(layer), statistics_(statistics) {
  const nn::DecoderSpec& decoder = model.spec().decoder;
  heads_ = {decoder.kv_heads, decoder.heads / decoder.kv_heads, decoder.head_dim};
}

at::Tensor LayerSolver::stored_weight(Role role) const {
  const std::string module = model_.names().module(model_.spec(), layer_, role);
  return model_.checkpoint().tensor(module + ".weight").to(model_.device());
}

const at::Tensor& LayerSolver::weight(Role role) {
  at::Tensor& cached = weights_[role];
  if (!cached.defined()) cached = stored_weight(role).to(at::kFloat);
  return cached;
}

const AwqDecision& LayerSolver::awq(const Scheme& scheme, InputGroup group) {
  const auto key = std::pair{scheme.block, group};
  if (const auto found = awq_.find(key); found != awq_.end()) return found->second;
  std::vector<at::Tensor> weights;
  for (const Role role : nn::members(model_.spec().decoder, group)) weights.push_back(weight(role));
  const Statistics& statistics = statistics_->of(group);
  std::optional<SharedHeads> shared;
  if (group == InputGroup::attn_out) shared = heads_;
  const auto fake_quantize = [&](const at::Tensor& scaled) {
    return dequantize(pack_int4(scaled, scheme.block));
  };
  const at::Tensor gram = statistics.gram();
  AwqDecision decision =
      solve_awq(weights, statistics.mean_magnitude(), gram, scheme.block, fake_quantize, shared,
                /*refine=*/true);
  double power = 0;  // of the unquantized output: errors are reported relative to it
  for (const at::Tensor& w : weights) power += gram_loss(w, gram);
  decision.loss /= power;
  decision.plain_loss /= power;
  return awq_.emplace(key, std::move(decision)).first->second;
}

at::Tensor LayerSolver::smoothing_scale(const Plan& plan, InputGroup group, GroupReport& report) {
  const Scheme& scheme = plan.scheme;
  if (scheme.solver == Solver::max) return {};
  if (statistics_ == nullptr) {
    report.note = "not smoothed: no calibration data";
    return {};
  }
  if (!can_fold(plan, model_.spec().decoder, layer_, group)) {
    report.note = "not smoothed: what produces its input is not quantized";
    return {};
  }
  if (scheme.solver == Solver::awq) {
    const AwqDecision& decision = awq(scheme, group);
    report.alpha = decision.alpha;
    report.plain_loss = decision.plain_loss;
    report.loss = decision.loss;
    return decision.scale;
  }
  at::Tensor weight_max;
  for (const Role role : nn::members(model_.spec().decoder, group)) {
    const at::Tensor columns = weight(role).abs().amax(0);
    weight_max = weight_max.defined() ? at::maximum(weight_max, columns) : columns;
  }
  at::Tensor input_max = statistics_->of(group).abs_max();
  if (group == InputGroup::attn_out) {
    input_max = heads_.max(input_max);
    weight_max = heads_.max(weight_max);
  }
  report.alpha = kSmoothQuantAlpha;
  return smoothquant_scale(input_max, weight_max, kSmoothQuantAlpha);
}

// The norm is stored in the model's dtype, so it cannot take 1/s exactly. What it took is what the weights
// have to undo: returns that scale.
at::Tensor LayerSolver::fold_into_norm(InputGroup group, const at::Tensor& scale, SmoothedLayer& smoothed) {
  const nn::DecoderSpec& decoder = model_.spec().decoder;
  const std::string name = model_.names().source(visq::format(
      "{}layers.{}.{}.weight", model_.spec().decoder_prefix, layer_, nn::norm_path(decoder, group)));
  const at::Tensor stored = model_.checkpoint().tensor(name);
  const double offset = decoder.norm_plus_one ? 1 : 0;  // such norms multiply by 1 + what is stored
  const at::Tensor before = stored.to(model_.device(), at::kFloat) + offset;
  const at::Tensor folded = (before / scale - offset).to(stored.scalar_type());
  smoothed.rewritten.emplace_back(name, folded.to(at::kCPU));
  const at::Tensor after = folded.to(at::kFloat) + offset;
  // A channel whose norm weight is zero carries nothing, whatever its scale.
  return at::where((before == 0) | (after == 0), at::ones_like(before), before / after);
}

void LayerSolver::fold_into_rows(const Plan& plan, const nn::RowRange& range, const at::Tensor& divisor,
                                 SmoothedLayer& smoothed) {
  const auto divided = [&](const at::Tensor& whole) {
    at::Tensor result = whole.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    const at::Tensor rows = result.narrow(0, range.begin, range.count);
    rows.div_(rows.dim() == 2 ? divisor.unsqueeze(1) : divisor);
    return result;
  };
  at::Tensor& weight = smoothed.weights.at(range.role);
  weight = divided(weight);
  const std::string bias = plan.find(layer_, range.role)->linear.module + ".bias";
  if (!model_.checkpoint().contains(bias)) return;
  const at::Tensor stored = model_.checkpoint().tensor(bias);
  smoothed.rewritten.emplace_back(bias,
                                  divided(stored.to(model_.device())).to(stored.scalar_type()).to(at::kCPU));
}

SmoothedLayer LayerSolver::smooth(const Plan& plan) {
  SmoothedLayer smoothed;
  for (const InputGroup group : nn::kInputGroups) {
    const std::vector<Role> roles = nn::members(model_.spec().decoder, group);
    if (plan.find(layer_, roles.front()) == nullptr)
      continue;  // groups are quantized whole or not at all (make_plan)
    GroupReport report;
    report.layer = layer_;
    report.group = group;
    report.solver = plan.scheme.solver;
    if (statistics_ != nullptr) {
      report.text_tokens = statistics_->of(group).text().tokens;
      report.image_tokens = statistics_->of(group).image().tokens;
    }
    at::Tensor scale = smoothing_scale(plan, group, report);
    const bool after_norm = group == InputGroup::attn_in || group == InputGroup::mlp_in;
    if (scale.defined() && after_norm) scale = fold_into_norm(group, scale, smoothed);
    for (const Role role : roles)
      smoothed.weights[role] = scale.defined() ? weight(role) * scale : stored_weight(role);
    smoothed.scales[static_cast<size_t>(group)] = scale;
    smoothed.reports.push_back(std::move(report));
  }
  if (const at::Tensor& scale = smoothed.scales[static_cast<size_t>(InputGroup::attn_out)]; scale.defined())
    fold_into_rows(plan, nn::value_rows(model_.spec().decoder), heads_.one_each(scale), smoothed);
  if (const at::Tensor& scale = smoothed.scales[static_cast<size_t>(InputGroup::mlp_out)]; scale.defined())
    fold_into_rows(plan, nn::up_rows(model_.spec().decoder), scale, smoothed);
  return smoothed;
}

void LayerSolver::pack_group(const Plan& plan, InputGroup group, const SmoothedLayer& smoothed,
                             SolvedLayer& solved) {
  const Scheme& scheme = plan.scheme;
  std::vector<const Site*> sites;
  for (const Role role : nn::members(model_.spec().decoder, group)) {
    sites.push_back(plan.find(layer_, role));
    if (sites.back() == nullptr) return;
  }
  // What a codec says of a weight, with the weight's name.
  const auto named = [&](const Site* site, const auto& work) {
    try {
      return work(smoothed.weights.at(site->role));
    } catch (const Error& e) {
      const std::string name = site->linear.module + ".weight";
      fail("{}: tensor '{}': {}", model_.checkpoint().file_of(name).string(), name, e.what());
    }
  };
  float amax = 0;
  const bool one_scale = scheme.weight == Codec::fp8_e4m3 || scheme.weight == Codec::nvfp4;  // per matrix
  if (one_scale)
    for (const Site* site : sites) amax = std::max(amax, named(site, absolute_maximum));
  std::optional<float> scale_of_input;
  if (scheme.input != InputFormat::none) {
    at::Tensor input_max = statistics_->of(group).abs_max();
    if (const at::Tensor& scale = smoothed.scales[static_cast<size_t>(group)]; scale.defined())
      input_max = input_max / scale;
    scale_of_input = input_scale(input_max.max().item<float>(), scheme.input);
  }
  float dequantized_amax = 0;
  const size_t first = solved.linears.size();
  for (const Site* site : sites) {
    const at::ScalarType scale_dtype = plan.layout->scale_dtype(site->linear.source_dtype);
    PackedLinear linear;
    linear.weight = named(site, [&](const at::Tensor& w) { return pack(scheme, w, amax, scale_dtype); });
    if (scale_of_input) linear.input_scale = rounded(*scale_of_input, scale_dtype);
    if (scheme.fp8_second_stage)
      dequantized_amax = std::max(dequantized_amax, absolute_maximum(dequantize(linear.weight)));
    solved.linears.emplace_back(site, std::move(linear));
  }
  // Engines load fused linears with one scalar scale (spec/export.md §3.8), so the group shares it.
  if (scheme.fp8_second_stage)
    for (size_t i = first; i < solved.linears.size(); ++i)
      solved.linears[i].second.second_scale = dequantized_amax > 0 ? dequantized_amax / kFp8Max : 1.0f;
}

SolvedLayer LayerSolver::solve(const Plan& plan) {
  SmoothedLayer smoothed = smooth(plan);
  SolvedLayer solved;
  for (const InputGroup group : nn::kInputGroups) pack_group(plan, group, smoothed, solved);
  if (plan.recipe.kv_cache != KvCacheFormat::none) {
    at::Tensor value_max = statistics_->value_max;
    if (const at::Tensor& scale = smoothed.scales[static_cast<size_t>(InputGroup::attn_out)]; scale.defined())
      value_max = value_max / heads_.one_each(scale);  // the cache holds what the folded v_proj produces
    solved.kv_scales = {input_scale(statistics_->key_max.max().item<float>(), InputFormat::fp8),
                        input_scale(value_max.max().item<float>(), InputFormat::fp8)};
  }
  solved.rewritten = std::move(smoothed.rewritten);
  solved.reports = std::move(smoothed.reports);
  return solved;
}

}  // namespace visq

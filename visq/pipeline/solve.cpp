#include "visq/pipeline/solve.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/quant/gptq.h"
#include "visq/quant/rotation.h"
#include "visq/quant/scale_search.h"

namespace visq {
namespace {

using nn::GroupId;
using nn::InputGroup;
using nn::LinearId;

// An input that was zero throughout: any scale represents it (spec/quantization.md §5.7).
float scale_for_input(float amax, InputFormat format) {
  return amax > 0 ? amax / input_format_max(format) : 1.0f;
}

// As the layout stores it, so that what is computed is what is loaded.
float rounded(float value, at::ScalarType dtype) {
  return at::full({}, value, at::kFloat).to(dtype).to(at::kFloat).item<float>();
}

/// @param matrix  [rows, columns]
void divide_rows(const at::Tensor& matrix, const std::pair<nn::RowRange, at::Tensor>& divisor) {
  const auto& [range, by] = divisor;
  matrix.narrow(0, range.begin, range.count).div_(by.unsqueeze(1));
}

// Whether the linears of a group share the scale of the matrix.
bool has_matrix_scale(Codec codec) { return codec == Codec::fp8_e4m3 || codec == Codec::nvfp4; }

PackedTensor pack(const Scheme& scheme, const at::Tensor& weight, float group_amax,
                  at::ScalarType scale_dtype) {
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      return pack_fp8(weight, group_amax, scale_dtype);
    case Codec::fp8_rows:
      return pack_fp8_rows(weight, scale_dtype);
    case Codec::fp8_blocks:
      return pack_fp8_blocks(weight, scale_dtype);
    case Codec::int8:
      return pack_int8(weight, scale_dtype, scheme.block);
    case Codec::int4:
      return pack_int4(weight, scheme.block, scale_dtype);
    case Codec::int4_asym:
      return pack_int4_asym(weight, scheme.block, scale_dtype);
    case Codec::nf4:
      return pack_nf4(weight);
    case Codec::nvfp4:
      return pack_nvfp4(weight, group_amax, scheme.block, scheme.nvfp4_range());
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      return pack_mx(weight, scheme.weight);
  }
  fail("unknown codec");
}

// By the scheme's solvers of scales and codes. `factor` is that of `gram`, made by the first of a group.
PackedTensor pack_solved(const Scheme& scheme, const at::Tensor& weight, float group_amax,
                         at::ScalarType scale_dtype, const at::Tensor& gram,
                         std::optional<GptqFactor>& factor) {
  if (scheme.scales == ScaleSearch::four_over_six) group_amax = four_over_six_amax(group_amax);
  PackedTensor packed = pack(scheme, weight, group_amax, scale_dtype);
  packed = search_scales(scheme.scales, packed, weight, gram, scale_dtype);
  if (scheme.rounding == Rounding::gptq) {
    if (!factor) factor = gptq_factor(gram);
    packed = gptq(weight.to(at::kFloat), *factor, packed);
  }
  return packed;
}

}  // namespace

at::Tensor SmoothedLayer::scale_of(const GroupId& id) const {
  const auto found = scales.find(id);
  return found == scales.end() ? at::Tensor() : found->second;
}

LayerSolver::LayerSolver(const Model& model, int64_t layer, const LayerStatistics* statistics,
                         const ModalitySensitivity* sensitivity)
    : model_(model),
      spec_(model.spec().decoder),
      layer_(layer),
      statistics_(statistics),
      sensitivity_(sensitivity) {
  heads_ = {spec_.kv_heads, spec_.heads / spec_.kv_heads, spec_.head_dim};
}

at::Tensor LayerSolver::stored_weight(const LinearId& id) const {
  return model_.linear_weight(layer_, id).to(model_.device());
}

at::Tensor LayerSolver::weight(const LinearId& id) const {
  // All experts together in fp32 would be the largest thing in memory, and each is needed seldom.
  if (id.expert != nn::kNoExpert) return stored_weight(id).to(at::kFloat);
  at::Tensor& cached = weights_[id];
  if (!cached.defined()) cached = stored_weight(id).to(at::kFloat);
  return cached;
}

/// Whether the norm before the group feeds a router too.
bool LayerSolver::reads_routed_norm(const GroupId& id) const {
  return id.group == InputGroup::mlp_in && spec_.is_sparse(layer_);
}

/// One for all groups that read a routed norm: they are smoothed together.
GroupId LayerSolver::smoothing_group(const GroupId& id) const {
  return reads_routed_norm(id) ? GroupId{InputGroup::mlp_in} : id;
}

/// What the engine makes of smoothed tokens. @param scale  f32 [in]
at::Tensor LayerSolver::round_inputs(const Scheme& scheme, const GroupId& id, const at::Tensor& rows,
                                     const at::Tensor& scale) const {
  const auto largest = (statistics_->of(id).abs_max() / scale).max().item<float>();
  return simulate_input(scheme.input, rows / scale, scale_for_input(largest, scheme.input));
}

// The error of a modality's outputs relative to their power, times how far such an error moves the answers,
// summed over the modalities, is what the answers will be off by. (MBQ, Li et al. 2024, takes gradients for
// it.)
ModalityWeights LayerSolver::balanced(const GroupId& id) const {
  const Statistics& statistics = statistics_->of(id);
  const auto power_of = [&](const ModalityWeights& only) {
    const DrawnTokens tokens = statistics.draw(/*held_out=*/false, only);
    double power = 0;
    for (const LinearId& linear : nn::members(spec_, layer_, id))
      power += sum_in_order(tiled_linear(tokens.rows, weight(linear)).square().sum(1).mul_(tokens.counts));
    return power;
  };
  if (statistics.text().sample.size() == 0 || statistics.image().sample.size() == 0) return {};
  const double text = power_of({1, 0}), image = power_of({0, 1});
  const double weight = sensitivity_->image / image / (sensitivity_->text / text);
  return std::isfinite(weight) && weight > 0 ? ModalityWeights{1, weight} : ModalityWeights();
}

ModalityWeights LayerSolver::modality_weights(const Plan& plan, const GroupId& id) {
  if (statistics_ == nullptr) return {};
  if (plan.recipe.modality_weight) return {1, *plan.recipe.modality_weight};
  if (sensitivity_ == nullptr) return {};
  // Groups that read the same norm are smoothed together.
  const GroupId group = smoothing_group(id);
  const auto found = balanced_.find(group);
  return found != balanced_.end() ? found->second : balanced_.emplace(group, balanced(id)).first->second;
}

LayerSolver::Smoothing LayerSolver::solve_smoothing(const Scheme& scheme, const GroupId& id,
                                                    const ModalityWeights& modalities) const {
  std::vector<at::Tensor> weights;
  for (const LinearId& linear : nn::smoothed_together(spec_, layer_, id)) weights.push_back(weight(linear));
  const Statistics& statistics = statistics_->of(id);
  SmoothingOptions options;
  options.alpha = scheme.alpha;
  options.refine = true;
  options.powers_of_two = reads_routed_norm(id);
  if (id.group == InputGroup::attn_out) options.shared = heads_;
  const auto quantize_weight = [&](const at::Tensor& scaled) {
    return dequantize(pack(scheme.unsearched(), scaled, absolute_maximum(scaled), at::kFloat));
  };
  const DrawnTokens sample = statistics.draw(/*held_out=*/false, modalities);
  const auto times_counts = [&](const at::Tensor& rows) { return rows * sample.counts.sqrt().unsqueeze(1); };
  const auto rounded = [&](const at::Tensor& scale) { return round_inputs(scheme, id, sample.rows, scale); };

  Smoothing result;
  double power = 0;  // of the unquantized output: errors are reported relative to it
  if (scheme.solver == Solver::awq) {
    const at::Tensor gram = statistics.gram(modalities);
    Quantizer input_error;
    if (scheme.rounded_inputs && scheme.input != InputFormat::none)
      input_error = [&](const at::Tensor& scale) {
        return times_counts(rounded(scale).sub_(sample.rows / scale));
      };
    result.decision = solve_awq(weights, statistics.mean_magnitude(modalities), gram, scheme.block,
                                quantize_weight, options, input_error);
    for (const at::Tensor& w : weights) power += gram_loss(w, gram);
  } else {
    const at::Tensor x = times_counts(sample.rows);
    const auto inputs = [&](const at::Tensor& scale) { return times_counts(rounded(scale)); };
    result.decision = solve_smoothquant(weights, statistics.abs_max(), x, quantize_weight, inputs, options);
    for (const at::Tensor& w : weights) power += sum_in_order(tiled_linear(x, w).square());
  }
  result.decision.loss /= power;
  result.decision.plain_loss /= power;

  const DrawnTokens held_out = statistics.draw(/*held_out=*/true, modalities);
  if (!held_out.rows.defined()) return result;
  const auto error_of = [&](const at::Tensor& scale) {
    return relative_error(held_out, weights, round_inputs(scheme, id, held_out.rows, scale),
                          [&](size_t i) { return quantize_weight(weights[i] * scale); });
  };
  const at::Tensor& scale = result.decision.scale;
  result.trial = Trial{error_of(scale), error_of(at::ones_like(scale))};
  return result;
}

const LayerSolver::Smoothing& LayerSolver::smoothing(const Scheme& scheme, const GroupId& id,
                                                     const ModalityWeights& weights) {
  const Scheme key = scheme.smoothing();
  const GroupId group = smoothing_group(id);
  for (const auto& [of_scheme, of_group, of_weights, smoothing] : smoothings_)
    if (of_scheme == key && of_group == group && of_weights == weights) return smoothing;
  smoothings_.emplace_back(key, group, weights, solve_smoothing(scheme, id, weights));
  return std::get<Smoothing>(smoothings_.back());
}

at::Tensor LayerSolver::smoothing_scale(const Plan& plan, const GroupId& id, GroupReport& report) {
  const Scheme& scheme = *plan.scheme_of(spec_, layer_, id);
  if (scheme.solver == Solver::max) return {};
  if (statistics_ == nullptr) {
    report.note = "not smoothed: no calibration data";
    return {};
  }
  if (!can_fold(plan, spec_, layer_, id)) {
    report.note = id.group == InputGroup::cross_in ? "not smoothed: reads the images, which no norm precedes"
                  : reads_routed_norm(id) ? "not smoothed: part of what reads its norm is not quantized alike"
                                          : "not smoothed: what produces its input is not quantized";
    return {};
  }
  const auto& [decision, trial] = smoothing(scheme, id, modality_weights(plan, id));
  report.alpha = decision.alpha;
  report.plain_loss = decision.plain_loss;
  report.loss = decision.loss;
  if (trial) {
    report.held_out_plain_error = trial->plain_error;
    report.held_out_error = std::min(trial->error, trial->plain_error);
    if (!trial->is_better()) {
      report.undone.push_back(solver_name(scheme.solver));
      return {};
    }
  }
  return decision.scale;
}

// The norm is stored in the model's dtype, so it cannot take 1/s exactly. What it took is what the weights
// have to undo: returns that scale.
at::Tensor LayerSolver::fold_into_norm(InputGroup group, const at::Tensor& scale,
                                       SmoothedLayer& smoothed) const {
  const std::string name = model_.names().source(visq::format(
      "{}layers.{}.{}.weight", model_.spec().decoder_prefix, layer_, nn::norm_path(spec_, group)));
  const at::Tensor stored = model_.checkpoint().tensor(name);
  const double offset = spec_.norm_plus_one ? 1 : 0;  // such norms multiply by 1 + what is stored
  const at::Tensor before = stored.to(model_.device(), at::kFloat) + offset;
  const at::Tensor folded = (before / scale - offset).to(stored.scalar_type());
  smoothed.rewritten.emplace_back(name, folded.to(at::kCPU));
  const at::Tensor after = folded.to(at::kFloat) + offset;
  // A channel whose norm weight is zero carries nothing, whatever its scale.
  return at::where((before == 0) | (after == 0), at::ones_like(before), before / after);
}

/// Changes a stored tensor in f32 and rounds it back. @param name  in the files
void LayerSolver::rewrite(const std::string& name, const std::function<void(const at::Tensor&)>& change,
                          SmoothedLayer& smoothed) const {
  const at::Tensor stored = model_.checkpoint().tensor(name);
  const at::Tensor wide = stored.to(model_.device(), at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  change(wide);
  smoothed.rewritten.emplace_back(name, wide.to(stored.scalar_type()).to(at::kCPU));
}

// Scales of routed norms are powers of two, so that the router stays what it was to the last bit.
void LayerSolver::fold_into_router(const at::Tensor& scale, SmoothedLayer& smoothed) const {
  rewrite(
      model_.names().router(model_.spec(), layer_) + ".weight",
      [&](const at::Tensor& router) { router.mul_(scale); }, smoothed);
}

void LayerSolver::fold_into_rows(const nn::RowRange& range, const at::Tensor& divisor,
                                 SmoothedLayer& smoothed) const {
  smoothed.divisors.emplace(range.linear, std::pair{range, divisor});
  const std::string bias = model_.names().module(model_.spec(), layer_, range.linear) + ".bias";
  if (!model_.checkpoint().contains(bias)) return;
  rewrite(
      bias, [&](const at::Tensor& whole) { whole.narrow(0, range.begin, range.count).div_(divisor); },
      smoothed);
}

// y += B (A x): A reads the smoothed input, and B writes to the rows that another linear's input took from.
void LayerSolver::fold_into_adapters(const LinearId& id, SmoothedLayer& smoothed) const {
  const at::Tensor scale = smoothed.scale_of({nn::group_of(spec_, layer_, id.role), id.expert});
  const auto divisor = smoothed.divisors.find(id);
  for (const AdapterSpec& adapter : model_.spec().adapters) {
    if (&adapter == model_.merged_adapter()) continue;
    const auto source = [&](const char* matrix) {
      return model_.adapter_tensor(layer_, id, adapter, matrix);
    };
    if (scale.defined())
      rewrite(
          source("lora_A"), [&](const at::Tensor& a) { a.mul_(scale); }, smoothed);
    if (divisor != smoothed.divisors.end())
      rewrite(
          source("lora_B"), [&](const at::Tensor& b) { divide_rows(b, divisor->second); }, smoothed);
  }
}

// What runs with a merged adapter must not get it twice: its B becomes zero. Linears that are not quantized
// have the adapter in them too.
void LayerSolver::rewrite_merged(const Plan& plan, const LinearId& id, SmoothedLayer& smoothed) const {
  const AdapterSpec* const merged = model_.merged_adapter();
  if (merged == nullptr) return;
  rewrite(
      model_.adapter_tensor(layer_, id, *merged, "lora_B"), [](const at::Tensor& b) { b.zero_(); }, smoothed);
  if (plan.find(layer_, id) != nullptr) return;
  smoothed.rewritten.emplace_back(model_.names().module(model_.spec(), layer_, id) + ".weight",
                                  model_.linear_weight(layer_, id));
}

// Of o the columns, of the linear that makes the values their rows. @param matrix  f32, of its width or
// height
at::Tensor LayerSolver::rotated(const LinearId& id, const at::Tensor& matrix) const {
  if (id.role == nn::Role::o) return rotate_columns(matrix, spec_.head_dim);
  const nn::RowRange range = nn::value_rows(spec_);
  at::Tensor result = matrix.clone();
  result.narrow(0, range.begin, range.count)
      .copy_(rotate_rows(matrix.narrow(0, range.begin, range.count), spec_.head_dim));
  return result;
}

// What stands beside the weights: the bias of the values, and adapters.
void LayerSolver::fold_rotation(SmoothedLayer& smoothed) const {
  smoothed.rotated = true;
  const LinearId values = nn::value_rows(spec_).linear, output{nn::Role::o};
  const auto rotate = [&](const LinearId& id, const std::string& name) {
    rewrite(
        name,
        [&](const at::Tensor& stored) {
          const at::Tensor matrix = stored.dim() == 1 ? stored.unsqueeze(1) : stored;
          stored.copy_(rotated(id, matrix).view(stored.sizes()));
        },
        smoothed);
  };
  const std::string bias = model_.names().module(model_.spec(), layer_, values) + ".bias";
  if (model_.checkpoint().contains(bias)) rotate(values, bias);
  for (const AdapterSpec& adapter : model_.spec().adapters) {
    if (&adapter == model_.merged_adapter()) continue;
    rotate(values, model_.adapter_tensor(layer_, values, adapter, "lora_B"));
    rotate(output, model_.adapter_tensor(layer_, output, adapter, "lora_A"));
  }
}

at::Tensor LayerSolver::smoothed_weight(const SmoothedLayer& smoothed, const LinearId& id) const {
  const at::Tensor scale = smoothed.scale_of({nn::group_of(spec_, layer_, id.role), id.expert});
  const auto divisor = smoothed.divisors.find(id);
  const bool is_rotated = smoothed.rotated && (id.role == nn::Role::o || id == nn::value_rows(spec_).linear);
  if (!scale.defined() && divisor == smoothed.divisors.end() && !is_rotated) return stored_weight(id);
  at::Tensor result = scale.defined() ? weight(id) * scale : weight(id).clone();
  if (is_rotated) result = rotated(id, result);
  if (divisor != smoothed.divisors.end()) divide_rows(result, divisor->second);
  return result;
}

at::Tensor LayerSolver::smoothed_gram(const SmoothedLayer& smoothed, const GroupId& id,
                                      const ModalityWeights& weights) const {
  const at::Tensor gram = statistics_->of(id).gram(weights), scale = smoothed.scale_of(id);
  if (smoothed.rotated && id.group == InputGroup::attn_out)
    return rotate_rows(rotate_columns(gram, spec_.head_dim), spec_.head_dim);
  return scale.defined() ? gram / (scale.unsqueeze(1) * scale) : gram;
}

DrawnTokens LayerSolver::smoothed_held_out(const SmoothedLayer& smoothed, const GroupId& id,
                                           const ModalityWeights& weights) const {
  if (statistics_ == nullptr) return {};
  DrawnTokens drawn = statistics_->of(id).draw(/*held_out=*/true, weights);
  if (const at::Tensor scale = smoothed.scale_of(id); scale.defined() && drawn.rows.defined())
    drawn.rows = drawn.rows / scale;
  if (smoothed.rotated && id.group == InputGroup::attn_out && drawn.rows.defined())
    drawn.rows = rotate_columns(drawn.rows, spec_.head_dim);
  return drawn;
}

SmoothedLayer LayerSolver::smooth(const Plan& plan) {
  SmoothedLayer smoothed;
  std::map<InputGroup, at::Tensor> norm_scales;  // a norm is folded into once, whoever reads it
  for (const GroupId& id : nn::groups(spec_, layer_)) {
    const Scheme* scheme = plan.scheme_of(spec_, layer_, id);
    if (scheme == nullptr) continue;
    GroupReport report;
    report.layer = layer_;
    report.group = id;
    report.solver = scheme->solver;
    if (scheme->detail() != Detail::magnitudes) report.image_weight = modality_weights(plan, id).image;
    const bool rotates = scheme->rotated && id.group == InputGroup::attn_out;
    if (rotates && can_fold(plan, spec_, layer_, id))
      fold_rotation(smoothed);
    else if (rotates)
      report.note = "not rotated: what produces its input is not quantized";
    at::Tensor scale = rotates ? at::Tensor() : smoothing_scale(plan, id, report);
    if (statistics_ != nullptr) {
      report.text_tokens = statistics_->of(id).text().tokens;
      report.image_tokens = statistics_->of(id).image().tokens;
      if (id.expert != nn::kNoExpert) {
        const ExpertStatistics& own = statistics_->experts[static_cast<size_t>(id.expert)];
        report.text_tokens = own.text_tokens;
        report.image_tokens = own.image_tokens;
        if (own.borrowed && id.group == InputGroup::mlp_out)
          report.note =
              visq::format("fewer than {} tokens: statistics of the layer's tokens", kMinExpertTokens);
      }
    }
    smoothed.reports.push_back(std::move(report));
    if (!scale.defined()) continue;
    switch (id.group) {
      case InputGroup::attn_in:
      case InputGroup::mlp_in:
        if (at::Tensor& folded = norm_scales[id.group]; !folded.defined()) {
          folded = fold_into_norm(id.group, scale, smoothed);
          if (reads_routed_norm(id)) fold_into_router(folded, smoothed);
        }
        scale = norm_scales[id.group];
        break;
      case InputGroup::cross_in:  // can_fold() says no
        break;
      case InputGroup::attn_out:
        fold_into_rows(nn::value_rows(spec_), heads_.one_each(scale), smoothed);
        break;
      case InputGroup::mlp_out:
        fold_into_rows(nn::up_rows(spec_, layer_, id.expert), scale, smoothed);
        break;
    }
    smoothed.scales.emplace(id, scale);
  }
  for (const LinearId& id : nn::linears(spec_, layer_)) {
    fold_into_adapters(id, smoothed);
    rewrite_merged(plan, id, smoothed);
  }
  return smoothed;
}

// Engines run the experts of a layer with one input scale for all of them.
std::map<std::pair<InputGroup, bool>, float> LayerSolver::largest_inputs(
    const Plan& plan, const SmoothedLayer& smoothed) const {
  std::map<std::pair<InputGroup, bool>, float> inputs;
  for (const GroupId& id : nn::groups(spec_, layer_)) {
    const Scheme* scheme = plan.scheme_of(spec_, layer_, id);
    if (scheme == nullptr || !scheme->has_input_scale()) continue;
    at::Tensor input_max = statistics_->of(id).abs_max();
    if (const at::Tensor scale = smoothed.scale_of(id); scale.defined()) input_max = input_max / scale;
    float& largest = inputs[{id.group, id.expert != nn::kNoExpert}];
    largest = std::max(largest, input_max.max().item<float>());
  }
  return inputs;
}

std::vector<SolvedLinear> pack_together(const Plan& plan, const Checkpoint& checkpoint,
                                        const std::vector<const Site*>& sites,
                                        const std::vector<at::Tensor>& weights, const Scheme& scheme,
                                        std::optional<float> input_scale, const at::Tensor& gram) {
  // What a codec says of a weight, with the weight's name.
  const auto named = [&](size_t i, const auto& work, const auto&... arguments) {
    try {
      return work(arguments...);
    } catch (const Error& e) {
      const std::string name = sites[i]->linear.module + ".weight";
      fail("{}: tensor '{}': {}", checkpoint.file_of(name).string(), name, e.what());
    }
  };
  // What is left to quantize once low-rank factors have taken their part.
  const bool by_output = scheme.low_rank > 0 && scheme.low_rank_by == LowRankBy::output;
  const at::Tensor low_rank_gram = by_output ? gram : at::Tensor();
  std::vector<LowRank> low_rank(sites.size());
  std::vector<at::Tensor> rests = weights;
  for (size_t i = 0; i < sites.size() && scheme.low_rank > 0; ++i) {
    named(i, absolute_maximum, weights[i]);
    low_rank[i] = nearest_low_rank(weights[i], low_rank_gram, scheme.low_rank, sites[i]->linear.source_dtype);
    rests[i] = weights[i] - low_rank[i].product();
  }
  float amax = 0;
  if (has_matrix_scale(scheme.weight))
    for (size_t i = 0; i < sites.size(); ++i) amax = std::max(amax, named(i, absolute_maximum, rests[i]));
  float dequantized_amax = 0;
  std::optional<GptqFactor> factor;
  std::vector<SolvedLinear> packed;
  for (size_t i = 0; i < sites.size(); ++i) {
    const at::ScalarType scale_dtype = plan.layout->scale_dtype(sites[i]->linear.source_dtype);
    PackedLinear linear;
    linear.weight = named(i, [&] { return pack_solved(scheme, rests[i], amax, scale_dtype, gram, factor); });
    if (by_output)
      low_rank[i] = refit_low_rank(low_rank[i], weights[i], dequantize(linear.weight), low_rank_gram);
    linear.low_rank = std::move(low_rank[i]);
    if (input_scale)
      linear.input_scale =
          rounded(*input_scale, plan.layout->input_scale_dtype(scheme, sites[i]->linear.source_dtype));
    if (scheme.fp8_second_stage)
      dequantized_amax = std::max(dequantized_amax, absolute_maximum(dequantize(linear.weight)));
    packed.emplace_back(sites[i], std::move(linear));
  }
  // Engines load fused linears with one scalar scale (spec/export.md §3.8), so the group shares it.
  if (scheme.fp8_second_stage)
    for (auto& [site, linear] : packed)
      linear.second_scale = dequantized_amax > 0 ? dequantized_amax / kFp8Max : 1.0f;
  return packed;
}

void LayerSolver::pack_group(const Plan& plan, const GroupId& id, const SmoothedLayer& smoothed,
                             std::optional<float> input_scale, SolvedLayer& solved) {
  std::vector<const Site*> sites;
  std::vector<at::Tensor> weights;
  for (const LinearId& linear : nn::members(spec_, layer_, id)) {
    sites.push_back(plan.find(layer_, linear));
    if (sites.back() == nullptr) return;
    weights.push_back(smoothed_weight(smoothed, linear));
  }
  const Scheme& scheme = sites.front()->linear.scheme;
  const ModalityWeights modalities = modality_weights(plan, id);
  const at::Tensor gram = scheme.packs_by_gram() ? smoothed_gram(smoothed, id, modalities) : at::Tensor();
  const auto pack_by = [&](const Scheme& solvers) {
    return pack_together(plan, model_.checkpoint(), sites, weights, solvers, input_scale, gram);
  };
  std::vector<SolvedLinear> packed = pack_by(scheme);
  if (const auto held_out = smoothed_held_out(smoothed, id, modalities);
      scheme.is_searched() && held_out.rows.defined()) {
    const at::Tensor inputs =
        simulate_input(scheme.input, held_out.rows, packed.front().second.input_scale.value_or(1));
    // A low-rank part reads the inputs as they are: both parts together are one matrix that reads both kinds.
    const bool low_rank = scheme.low_rank > 0;
    const at::Tensor read = low_rank ? at::cat({inputs, held_out.rows}, 1) : inputs;
    const auto error_of = [&](const std::vector<SolvedLinear>& linears) {
      return relative_error(held_out, weights, read, [&](size_t i) {
        const PackedLinear& linear = linears[i].second;
        const at::Tensor quantized = dequantize(linear.weight);
        return low_rank ? at::cat({quantized, linear.low_rank.product()}, 1) : quantized;
      });
    };
    std::vector<SolvedLinear> plain = pack_by(scheme.unsearched());
    const Trial trial{error_of(packed), error_of(plain)};
    GroupReport& report = *std::ranges::find(solved.reports, id, &GroupReport::group);
    if (!report.held_out_plain_error) report.held_out_plain_error = trial.plain_error;
    report.held_out_error = std::min(trial.error, trial.plain_error);
    if (!trial.is_better()) {
      report.undone.push_back(scheme.searches());
      packed = std::move(plain);
    }
  }
  std::ranges::move(packed, std::back_inserter(solved.linears));
}

KvScales LayerSolver::solve_kv_cache(const KvFormat& format, const SmoothedLayer& smoothed) const {
  if (!format.calibrated) return {unit_kv_scale(), unit_kv_scale()};
  const KvCacheStatistics& seen = statistics_->kv_cache;
  KvStatistics values = seen.values;
  if (const at::Tensor scale = smoothed.scale_of({InputGroup::attn_out}); scale.defined())
    values = values.divided_by(heads_.one_each(scale));  // the cache holds what the folded v_proj produces
  const std::string keys = model_.names().module(model_.spec(), layer_, nn::key_rows(spec_).linear);
  const at::ScalarType dtype = model_.checkpoint().info(keys + ".weight").dtype;
  return {solve_kv_scale(format, format.rotated ? seen.rotated_keys : seen.keys, dtype),
          solve_kv_scale(format, values, dtype)};
}

SolvedLayer LayerSolver::solve(const Plan& plan) {
  SmoothedLayer smoothed = smooth(plan);
  SolvedLayer solved;
  solved.reports = std::move(smoothed.reports);
  const auto inputs = largest_inputs(plan, smoothed);
  for (const GroupId& id : nn::groups(spec_, layer_)) {
    const auto largest = inputs.find({id.group, id.expert != nn::kNoExpert});
    std::optional<float> input_scale;
    if (largest != inputs.end())
      input_scale = scale_for_input(largest->second, plan.scheme_of(spec_, layer_, id)->input);
    pack_group(plan, id, smoothed, input_scale, solved);
  }
  if (plan.kv_cache != KvCacheFormat::none)
    solved.kv_scales = solve_kv_cache(kv_format(plan.kv_cache), smoothed);
  solved.rewritten = std::move(smoothed.rewritten);
  solved.scales = std::move(smoothed.scales);
  solved.divisors = std::move(smoothed.divisors);
  solved.rotated = smoothed.rotated;
  return solved;
}

}  // namespace visq

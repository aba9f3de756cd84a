#include "visq/pipeline/sensitivity.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <functional>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"
#include "visq/eval/runner.h"
#include "visq/pipeline/solve.h"
#include "visq/quant/rotation.h"

namespace visq {
namespace {

constexpr int64_t kPartRows = 2048;  // of scored samples that go through a layer together

bool needs_calibration(const SearchSpace& space) {
  return std::ranges::any_of(space.units, [](const Unit& unit) {
    return std::ranges::any_of(unit.choices,
                               [](const UnitChoice& choice) { return choice.scheme.needs_calibration(); });
  });
}

ScoreData read_score_data(const Model& model, const ScoreOptions& options) {
  const CalibrationOptions& calibration = options.calibration;
  std::vector<Sample> samples = read_samples(calibration.data, calibration.max_samples);
  std::erase_if(samples, [](const Sample& sample) { return !sample.answer; });
  if (samples.empty())
    fail(
        "{}: no sample has an answer (a last turn of the assistant), and scores are of what answers are like",
        calibration.data.string());
  // Gradients cannot flow through what inference mode has made.
  const c10::InferenceMode normal(false);
  const c10::NoGradGuard no_gradients;
  ScoreData data(model, samples, calibration.max_tokens, options.samples,
                 options.kind == ScoreKind::fisher ? 1 : kPartRows);
  if (data.samples == 0)
    fail("{}: every sample to be scored is longer than {} tokens; raise --seq-len", calibration.data.string(),
         calibration.max_tokens);
  if (data.image_tokens == 0 && !calibration.text_only)
    fail(
        "{}: none of the {} samples to be scored has an image; add samples with images, raise "
        "--score-samples, or say --text-only",
        calibration.data.string(), data.samples);
  return data;
}

/// Changes rows of what makes a linear's outputs: its weight and its low-rank part.
void change_rows(nn::Linear& linear, const nn::RowRange& range,
                 const std::function<at::Tensor(const at::Tensor&)>& change) {
  for (at::Tensor* const matrix : {&linear.weight, &linear.low_rank.b}) {
    if (!matrix->defined()) continue;
    *matrix = matrix->clone();
    at::Tensor rows = matrix->narrow(0, range.begin, range.count);
    rows.copy_(change(rows.to(at::kFloat)));
  }
}

/// Changes what a linear reads. A low-rank part reads it unquantized.
void change_input(nn::Linear& linear, const std::function<at::Tensor(const at::Tensor&)>& change) {
  // For a change that is a symmetric matrix: (x·M)·aᵀ = x·(a·M)ᵀ.
  if (at::Tensor& a = linear.low_rank.a; a.defined()) a = change(a.to(at::kFloat)).to(a.scalar_type());
  linear.input = [inner = linear.input, change](const at::Tensor& x) {
    const at::Tensor changed = change(x.to(at::kFloat)).to(x.scalar_type());
    return inner ? inner(changed) : changed;
  };
}

/// A packed linear between what stands around it in the original: smoothing and rotation undone outside of
/// it.
nn::Linear in_place(const PackedLinear& packed, const Scheme& scheme, const nn::Linear& original,
                    const SolvedLayer& solved, const nn::DecoderSpec& spec, const nn::GroupId& group,
                    const nn::LinearId& id) {
  nn::Linear linear =
      simulated_linear(packed, scheme.input, original.weight.device(), original.weight.scalar_type());
  linear.bias = original.bias;
  linear.adapter = original.adapter;
  if (const auto divisor = solved.divisors.find(id); divisor != solved.divisors.end()) {
    const auto& [range, by] = divisor->second;
    change_rows(linear, range, [&](const at::Tensor& rows) { return rows * by.unsqueeze(1); });
  }
  if (const auto scale = solved.scales.find(group); scale != solved.scales.end())
    change_input(linear, [by = scale->second](const at::Tensor& x) { return x / by; });
  // A rotation is its own inverse.
  const int64_t head = spec.head_dim;
  if (solved.rotated && id == nn::value_rows(spec).linear)
    change_rows(linear, nn::value_rows(spec),
                [head](const at::Tensor& rows) { return rotate_rows(rows, head); });
  if (solved.rotated && id.role == nn::Role::o)
    change_input(linear, [head](const at::Tensor& x) { return rotate_columns(x, head); });
  return linear;
}

/// What of a layer does not change while its variants are made.
class VariantMaker {
 public:
  VariantMaker(const Model& model, const SearchSpace& space) : model_(model), space_(space) {
    for (size_t format = 0; format < space.plans.size(); ++format)
      for (const UnitKind kind : kUnitKinds)
        if (auto plan = space.plan_alone(model, format, kind))
          alone_.push_back({format, kind, std::move(*plan)});
  }

  /// All variants of a layer. @param statistics  null: no scheme needs any
  void make(nn::DecoderLayer& layer, const LayerStatistics* statistics, Scorer& scorer) const {
    LayerSolver solver(model_, layer.index, statistics);
    for (size_t format = 0; format < space_.plans.size(); ++format) {
      const SolvedLayer solved = solver.solve(space_.plans[format]);
      for_each(layer.index, format, [&](Variant variant, const Unit& unit) {
        variant.alone = !is_alone(format, unit.kind);
        fill(variant, unit, solved, layer);
        scorer.add(std::move(variant));
      });
    }
    for (const auto& [format, kind, plan] : alone_) {
      const SolvedLayer solved = solver.solve(plan);
      for_each(layer.index, format, [&, of = kind](Variant variant, const Unit& unit) {
        if (unit.kind != of) return;
        variant.together = false;
        fill(variant, unit, solved, layer);
        scorer.add(std::move(variant));
      });
    }
  }

 private:
  struct Alone {
    size_t format;
    UnitKind kind;
    Plan plan;
  };
  const Model& model_;
  const SearchSpace& space_;
  std::vector<Alone> alone_;

  bool is_alone(size_t format, UnitKind kind) const {
    return std::ranges::any_of(alone_,
                               [&](const Alone& own) { return own.format == format && own.kind == kind; });
  }

  /// Calls body(variant, unit) for the units of a layer that have the format.
  template <class Body>
  void for_each(int64_t layer, size_t format, const Body& body) const {
    for (size_t u = 0; u < space_.units.size(); ++u) {
      const Unit& unit = space_.units[u];
      if (unit.layer != layer) continue;
      for (size_t c = 0; c < unit.choices.size(); ++c)
        if (unit.choices[c].format == format) body(Variant{u, c}, unit);
    }
  }

  void fill(Variant& variant, const Unit& unit, const SolvedLayer& solved, nn::DecoderLayer& layer) const {
    const nn::DecoderSpec& spec = model_.spec().decoder;
    for (const auto& [site, packed] : solved.linears) {
      if (std::ranges::find(unit.linears, site->id) == unit.linears.end()) continue;
      const nn::GroupId group{nn::group_of(spec, layer.index, site->id.role), site->id.expert};
      variant.linears.emplace_back(site->id, in_place(packed, site->linear.scheme, layer.linear(site->id),
                                                      solved, spec, group, site->id));
    }
  }
};

}  // namespace

const char* score_kind_name(ScoreKind kind) { return kind == ScoreKind::kl ? "kl" : "fisher"; }

ScoreKind parse_score_kind(const std::string& name) {
  for (const ScoreKind kind : {ScoreKind::kl, ScoreKind::fisher})
    if (name == score_kind_name(kind)) return kind;
  fail("--score {}: choose kl or fisher", name);
}

void Scorer::set_score(const Variant& variant, double kl) {
  ChoiceScore& score = scores_.of[variant.unit][variant.choice];
  // Rounding may leave less than nothing of a divergence.
  const double mean = std::max(kl, 0.0) / static_cast<double>(scores_.answer_tokens);
  if (variant.together) score.together = mean;
  if (variant.alone) score.alone = mean;
}

Scores measure_scores(const Model& model, const SearchSpace& space, const ScoreOptions& options) {
  Scores scores;
  scores.kind = options.kind;
  for (const Unit& unit : space.units) scores.of.emplace_back(unit.choices.size());
  ScoreData data = read_score_data(model, options);
  scores.samples = data.samples;
  scores.text_tokens = data.text_tokens;
  scores.image_tokens = data.image_tokens;
  scores.answer_tokens = data.answer_tokens;

  const Detail detail = detail_of(space.plans);
  std::optional<Calibration> calibration;
  if (needs_calibration(space)) calibration.emplace(model, options.calibration);
  const std::unique_ptr<Scorer> scorer =
      options.kind == ScoreKind::fisher ? fisher_scorer(model, data, scores) : kl_scorer(model, data, scores);
  const VariantMaker maker(model, space);
  const int64_t layers = model.spec().decoder.layers;
  Progress progress("scoring formats", layers);
  for (int64_t index = 0; index < layers; ++index) {
    check_interrupt();
    nn::DecoderLayer layer = model.load_layer(index);
    std::optional<LayerStatistics> seen;
    if (calibration) seen = calibration->run_layer(layer, detail);
    scorer->begin_layer(index);
    // A cross layer that no image reached adds nothing to any answer.
    if (!seen || seen->has_run()) maker.make(layer, seen ? &*seen : nullptr, *scorer);
    scorer->end_layer();
    progress.advance(index + 1);
  }
  scorer->finish();
  return scores;
}

}  // namespace visq

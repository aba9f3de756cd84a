#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <c10/core/GradMode.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "visq/core/log.h"
#include "visq/core/process.h"
#include "visq/pipeline/sensitivity.h"

namespace visq {
namespace {

/// Random directions a sample: the error of a score falls with the root of samples times probes.
constexpr int64_t kProbes = 2;

/// For each row p of softmax(logits) a row u with E[uuᵀ] = F = diag(p) − ppᵀ: √p∘ξ − p (√p·ξ) with random
/// signs ξ. Signs need fewer samples than labels drawn from p, which seldom show what is unlikely.
/// @param logits  [rows, vocab]
at::Tensor probe(const at::Tensor& logits, at::Generator& generator) {
  const at::Tensor p = logits.softmax(1), root = p.sqrt();
  const at::Tensor signs = at::randint(0, 2, logits.sizes(), generator, at::TensorOptions(at::kFloat))
                               .mul_(2)
                               .sub_(1)
                               .to(p.device());
  const at::Tensor scaled = root * signs;
  return scaled - p * (root * scaled).sum(1, /*keepdim=*/true);
}

at::Tensor leaf(const at::Tensor& x) { return x.detach().requires_grad_(); }

/// Gradients of Σ outputs · above with respect to the inputs; zeros of those that have no effect.
std::vector<at::Tensor> gradients(const at::Tensor& output, const std::vector<at::Tensor>& inputs,
                                  const at::Tensor& above, bool last) {
  auto found = torch::autograd::grad({output}, inputs, {above}, /*retain_graph=*/!last,
                                     /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < found.size(); ++i)
    if (!found[i].defined()) found[i] = at::zeros_like(inputs[i]);
  return found;
}

class FisherScorer final : public Scorer {
 public:
  FisherScorer(const Model& model, ScoreData& data, Scores& scores) : Scorer(model, data, scores) {
    const c10::InferenceMode normal(false);
    run_forward();
    run_backward();
  }

  void begin_layer(int64_t layer) override {
    const c10::InferenceMode normal(false);
    layer_ = model_.load_layer(layer);
  }
  void add(Variant variant) override { variants_.push_back(std::move(variant)); }

  void end_layer() override {
    const c10::InferenceMode normal(false);
    std::vector<double> sums(variants_.size(), 0);
    for (size_t sample = 0; sample < data_.parts.size(); ++sample) {
      check_interrupt();
      score_sample(sample, sums);
    }
    for (size_t v = 0; v < variants_.size(); ++v)
      set_score(variants_[v], 0.5 * sums[v] / static_cast<double>(kProbes));
    variants_.clear();
  }

  void finish() override {}

 private:
  std::vector<std::vector<at::Tensor>> inputs_;  // of each layer, of each sample: [tokens, hidden]
  /// Of the outputs of each layer, of each sample, for each probe.
  std::vector<std::vector<std::vector<at::Tensor>>> above_;
  nn::DecoderLayer layer_;
  std::vector<Variant> variants_;

  at::Tensor run(const nn::DecoderLayer& layer, size_t sample, const at::Tensor& hidden) const {
    Batch batch = data_.parts[sample].batch;
    batch.hidden = hidden;
    model_.advance(batch, layer);
    return batch.hidden;
  }

  void run_forward() {
    const c10::NoGradGuard no_gradients;
    std::vector<at::Tensor> hidden;
    for (const ScoreData::Part& part : data_.parts) hidden.push_back(part.batch.hidden);
    for (int64_t index = 0; index < model_.spec().decoder.layers; ++index) {
      check_interrupt();
      inputs_.push_back(hidden);
      const nn::DecoderLayer layer = model_.load_layer(index);
      for (size_t sample = 0; sample < hidden.size(); ++sample)
        hidden[sample] = run(layer, sample, hidden[sample]);
    }
    inputs_.push_back(std::move(hidden));
  }

  void run_backward() {
    const auto layers = static_cast<size_t>(model_.spec().decoder.layers);
    above_.resize(layers);
    for (size_t sample = 0; sample < data_.parts.size(); ++sample) {
      at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(sample);
      const at::Tensor hidden = leaf(inputs_.back()[sample]);
      const at::Tensor logits = model_.logits(hidden.index_select(0, data_.parts[sample].answer_rows));
      above_.back().emplace_back();
      for (int64_t k = 0; k < kProbes; ++k)
        above_.back().back().push_back(
            gradients(logits, {hidden}, probe(logits.detach(), generator), k + 1 == kProbes).front());
    }
    inputs_.pop_back();
    Progress progress("gradients", static_cast<int64_t>(layers));
    for (size_t index = layers - 1; index > 0; --index) {
      const nn::DecoderLayer layer = model_.load_layer(static_cast<int64_t>(index));
      for (size_t sample = 0; sample < data_.parts.size(); ++sample) {
        check_interrupt();
        const at::Tensor hidden = leaf(inputs_[index][sample]);
        const at::Tensor output = run(layer, sample, hidden);
        above_[index - 1].emplace_back();
        for (size_t k = 0; k < above_[index][sample].size(); ++k)
          above_[index - 1].back().push_back(
              gradients(output, {hidden}, above_[index][sample][k], k + 1 == above_[index][sample].size())
                  .front());
      }
      progress.advance(static_cast<int64_t>(layers - index));
    }
  }

  /// What a linear of the layer reads and gives.
  struct Seen {
    at::Tensor x, y, added;  ///< `added`: zeros that are added to y; their gradient is y's
  };

  /// Adds to each variant's sum the squares of its errors' effect along the probes.
  void score_sample(size_t sample, std::vector<double>& sums) {
    std::map<nn::LinearId, Seen> seen;
    for (const nn::LinearId& id : nn::linears(model_.spec().decoder, layer_.index))
      layer_.linear(id).output = [&seen, id](const at::Tensor& x, const at::Tensor& y) {
        Seen& own = seen[id];
        own = {x.detach(), y.detach(), leaf(at::zeros_like(y))};
        return y + own.added;
      };
    const at::Tensor output = run(layer_, sample, inputs_[static_cast<size_t>(layer_.index)][sample]);
    if (seen.empty()) return;  // a cross layer, and the sample has no image
    std::vector<at::Tensor> added;
    std::map<nn::LinearId, size_t> place;
    for (const auto& [id, own] : seen) {
      place[id] = added.size();
      added.push_back(own.added);
    }
    std::vector<std::vector<at::Tensor>> along;  // of each probe, of each linear
    const auto& above = above_[static_cast<size_t>(layer_.index)][sample];
    for (size_t k = 0; k < above.size(); ++k)
      along.push_back(gradients(output, added, above[k], k + 1 == above.size()));
    const c10::NoGradGuard no_gradients;
    for (size_t v = 0; v < variants_.size(); ++v) {
      std::vector<double> effects(above.size(), 0);
      for (const auto& [id, linear] : variants_[v].linears) {
        const auto found = seen.find(id);
        if (found == seen.end()) continue;  // an expert that no token was sent to
        const at::Tensor error = nn::apply(linear, found->second.x) - found->second.y;
        for (size_t k = 0; k < above.size(); ++k)
          effects[k] += (along[k][place.at(id)] * error).sum(at::kDouble).item<double>();
      }
      for (const double effect : effects) sums[v] += effect * effect;
    }
  }
};

}  // namespace

std::unique_ptr<Scorer> fisher_scorer(const Model& model, ScoreData& data, Scores& scores) {
  return std::make_unique<FisherScorer>(model, data, scores);
}

}  // namespace visq

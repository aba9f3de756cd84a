#include <ATen/ATen.h>

#include "visq/core/process.h"
#include "visq/pipeline/sensitivity.h"

namespace visq {
namespace {

constexpr uint64_t kMaxVariantBytes = uint64_t{4} << 30;
constexpr int64_t kLogitRows = 256;  // bounds the memory of log-probabilities

class KlScorer final : public Scorer {
 public:
  KlScorer(const Model& model, ScoreData& data, Scores& scores) : Scorer(model, data, scores) {
    for (const ScoreData::Part& part : data_.parts) clean_.push_back(part.batch.hidden);
  }

  void begin_layer(int64_t layer) override {
    // What is held would grow by as much as the last layer has added.
    if (held_bytes_ + added_bytes_ > kMaxVariantBytes) run_to_end();
    layer_ = model_.load_layer(layer);
    for (Held& held : held_) advance(held.hidden, layer_);
    added_bytes_ = 0;
  }

  void add(Variant variant) override {
    nn::DecoderLayer layer = layer_;
    for (auto& [id, linear] : variant.linears) layer.linear(id) = std::move(linear);
    variant.linears.clear();
    Held held{std::move(variant), clean_};
    advance(held.hidden, layer);
    for (const at::Tensor& hidden : held.hidden) added_bytes_ += hidden.nbytes();
    started_.push_back(std::move(held));
  }

  void end_layer() override {
    advance(clean_, layer_);
    std::ranges::move(started_, std::back_inserter(held_));
    started_.clear();
    held_bytes_ += added_bytes_;
  }

  void finish() override { run_to_end(); }

 private:
  /// Hidden states of each part of the data, on their way through the layers.
  using Hidden = std::vector<at::Tensor>;
  struct Held {
    Variant variant;
    Hidden hidden;
  };
  nn::DecoderLayer layer_;
  Hidden clean_;
  std::vector<Held> held_, started_;  // of the layers before, and of this one
  uint64_t held_bytes_ = 0, added_bytes_ = 0;

  void advance(Hidden& hidden, const nn::DecoderLayer& layer) const {
    check_interrupt();
    for (size_t i = 0; i < hidden.size(); ++i) {
      Batch batch = data_.parts[i].batch;
      batch.hidden = hidden[i];
      model_.advance(batch, layer);
      hidden[i] = batch.hidden;
    }
  }

  /// Scores what is held, and lets go of it.
  void run_to_end() {
    Hidden clean = clean_;
    for (int64_t index = layer_.index + 1; index < model_.spec().decoder.layers; ++index) {
      const nn::DecoderLayer layer = model_.load_layer(index);
      advance(clean, layer);
      for (Held& held : held_) advance(held.hidden, layer);
    }
    std::vector<double> sums(held_.size(), 0);
    for (size_t i = 0; i < clean.size(); ++i)
      for (const at::Tensor& rows : data_.parts[i].answer_rows.split(kLogitRows)) {
        const auto log_probabilities = [&](const at::Tensor& hidden) {
          return at::log_softmax(model_.logits(hidden.index_select(0, rows)), 1);
        };
        const at::Tensor theirs = log_probabilities(clean[i]), weights = theirs.exp();
        for (size_t h = 0; h < held_.size(); ++h)
          sums[h] +=
              (weights * (theirs - log_probabilities(held_[h].hidden[i]))).sum(at::kDouble).item<double>();
      }
    for (size_t h = 0; h < held_.size(); ++h) set_score(held_[h].variant, sums[h]);
    held_.clear();
    held_bytes_ = 0;
  }
};

}  // namespace

std::unique_ptr<Scorer> kl_scorer(const Model& model, ScoreData& data, Scores& scores) {
  return std::make_unique<KlScorer>(model, data, scores);
}

}  // namespace visq

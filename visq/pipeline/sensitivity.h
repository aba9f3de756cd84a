// How much each format of each unit costs: its part in the KL divergence between the model's answers before
// and after quantization.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "visq/pipeline/score_data.h"
#include "visq/pipeline/search_space.h"

namespace visq {

enum class ScoreKind {
  kl,     ///< measured: the model runs with one unit quantized
  fisher  ///< predicted to second order from gradients: ½ δᵀFδ
};
const char* score_kind_name(ScoreKind kind);
ScoreKind parse_score_kind(const std::string& name);  ///< @throws Error for another name

/// KL divergence in nats a token of an answer.
struct ChoiceScore {
  double together = 0;  ///< where smoothing can be folded into what produces the unit's inputs
  double alone = 0;     ///< where it cannot, because that is left as it is
};

struct Scores {
  ScoreKind kind = ScoreKind::fisher;
  int64_t samples = 0, text_tokens = 0, image_tokens = 0, answer_tokens = 0;
  std::vector<std::vector<ChoiceScore>> of;  ///< of each unit of a search space, of each of its choices
};

struct ScoreOptions {
  ScoreKind kind = ScoreKind::fisher;
  int64_t samples = 32;  ///< most samples to score; all of them serve calibration
  CalibrationOptions calibration;
};

/// One pass over the decoder layers, one of them in memory: calibration, the solvers' decisions for each
/// format, the scores of these.
Scores measure_scores(const Model& model, const SearchSpace& space, const ScoreOptions& options);

/// A unit in one of its choices, as an engine would compute it where everything else is as it was: linears
/// that take the place of the layer's.
struct Variant {
  size_t unit = 0, choice = 0;
  bool together = true, alone = true;  ///< which of the scores it has
  std::vector<std::pair<nn::LinearId, nn::Linear>> linears = {};
};

/// A way to score variants. Layers come in their order.
class Scorer {
 public:
  virtual ~Scorer() = default;
  virtual void begin_layer(int64_t layer) = 0;
  virtual void add(Variant variant) = 0;  ///< of the layer that has begun
  virtual void end_layer() = 0;
  virtual void finish() = 0;  ///< after the last layer: all scores are there

 protected:
  Scorer(const Model& model, ScoreData& data, Scores& scores) : model_(model), data_(data), scores_(scores) {}
  /// @param kl  summed over all tokens of answers
  void set_score(const Variant& variant, double kl);

  const Model& model_;
  ScoreData& data_;
  Scores& scores_;
};

/// Runs the variants of a layer through all later layers, along with those of the layers before as far as
/// they fit. Memory: the hidden states of all scored samples for each variant, kMaxVariantBytes of them or
/// those of one layer; then the layers that follow are read again.
std::unique_ptr<Scorer> kl_scorer(const Model& model, ScoreData& data, Scores& scores);

/// Predicts the divergence to second order: ½ δᵀFδ, where δ is what a variant does to the logits and F =
/// diag(p) − ppᵀ. Before the first layer the samples run forward, and backward layer by layer with each one
/// computed anew; then a layer's variants are scored from their outputs' errors alone. Memory: of each scored
/// token the hidden states and kProbes gradients at every layer; the variants of one layer.
/// @param data  each part one sample, made outside of inference mode
std::unique_ptr<Scorer> fisher_scorer(const Model& model, ScoreData& data, Scores& scores);

}  // namespace visq

// From the weights and statistics of one decoder layer to packed tensors and changed norms, for one scheme.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "visq/pipeline/calibrate.h"
#include "visq/pipeline/plan.h"
#include "visq/quant/solver.h"

namespace visq {

/// What a solver decided for one input group.
struct GroupReport {
  int64_t layer = 0;
  nn::GroupId group;
  Solver solver = Solver::max;
  std::optional<double> alpha;  ///< smoothing strength, where there is smoothing
  /// Output error with and without smoothing, by what the smoothing was fitted to, relative to the output.
  std::optional<double> loss, plain_loss;
  /// The same on held-out tokens, as the linears are packed, and with magnitudes and rounding to nearest
  /// alone.
  std::optional<double> held_out_error, held_out_plain_error;
  std::vector<std::string> undone;  ///< what did not lower the error on held-out tokens: "awq", "gptq"
  std::string note;                 ///< why a group was not smoothed, or not rotated
  double image_weight = 1;          ///< of an image token beside a text token, in what was minimised
  int64_t text_tokens = 0, image_tokens = 0;  ///< that reached these linears
};

/// How a decoder layer is smoothed: it computes what the original computes.
struct SmoothedLayer {
  std::map<nn::GroupId, at::Tensor> scales;  ///< f32 [in]; groups that are not smoothed have none
  /// f32 [rows]: what rows of a linear are divided by, because another linear's input took it.
  std::map<nn::LinearId, std::pair<nn::RowRange, at::Tensor>> divisors;
  /// Norms, biases and routers: source name → new value, same dtype and shape.
  std::vector<std::pair<std::string, at::Tensor>> rewritten;
  bool rotated = false;  ///< the values, and what o reads (rotation.h)
  std::vector<GroupReport> reports;

  at::Tensor scale_of(const nn::GroupId& id) const;  ///< undefined: not smoothed
};

using SolvedLinear = std::pair<const Site*, PackedLinear>;

/// Packs linears that read the same input: they share their scalar scales, because engines fuse them.
/// @param weights      [out, in] of each, as it shall be quantized
/// @param scheme       the sites' own, or the same with other solvers
/// @param input_scale  of all of them; empty: the scheme has none
/// @param gram         f32 [in, in] of their inputs; where the scheme packs by it
/// @throws Error naming the tensor when a weight holds a NaN or an infinity
std::vector<SolvedLinear> pack_together(const Plan& plan, const Checkpoint& checkpoint,
                                        const std::vector<const Site*>& sites,
                                        const std::vector<at::Tensor>& weights, const Scheme& scheme,
                                        std::optional<float> input_scale = std::nullopt,
                                        const at::Tensor& gram = {});

/// Everything a plan writes for one layer.
struct SolvedLayer {
  std::vector<SolvedLinear> linears;
  std::vector<std::pair<std::string, at::Tensor>> rewritten;
  std::optional<KvScales> kv_scales;
  std::vector<GroupReport> reports;
  // How the linears were smoothed, as in SmoothedLayer.
  std::map<nn::GroupId, at::Tensor> scales;
  std::map<nn::LinearId, std::pair<nn::RowRange, at::Tensor>> divisors;
  bool rotated = false;
};

/// Solves one decoder layer for any number of plans. They share the layer's weights (fp32, on the model's
/// device) and the smoothing decisions of schemes that are smoothed alike.
class LayerSolver {
 public:
  /// @param statistics  null: no calibration (for schemes that need none; AWQ then rounds without smoothing)
  /// @param sensitivity  null: recipes that ask for it (modality_weight: auto) count all tokens alike
  LayerSolver(const Model& model, int64_t layer, const LayerStatistics* statistics,
              const ModalitySensitivity* sensitivity = nullptr);

  SmoothedLayer smooth(const Plan& plan);
  /// [out, in] after smoothing; f32 where changed, else as stored.
  at::Tensor smoothed_weight(const SmoothedLayer& smoothed, const nn::LinearId& id) const;
  /// @throws Error naming the tensor when a weight holds a NaN or an infinity
  SolvedLayer solve(const Plan& plan);

 private:
  /// Output errors of a group on held-out tokens, relative to its output.
  struct Trial {
    double error = 0, plain_error = 0;
    bool is_better() const { return error < plain_error; }
  };
  struct Smoothing {
    SmoothingDecision decision;
    std::optional<Trial> trial;  ///< empty: no token is held out
  };

  at::Tensor stored_weight(const nn::LinearId& id) const;
  at::Tensor weight(const nn::LinearId& id) const;  // f32
  at::Tensor smoothed_gram(const SmoothedLayer& smoothed, const nn::GroupId& id,
                           const ModalityWeights& weights) const;
  DrawnTokens smoothed_held_out(const SmoothedLayer& smoothed, const nn::GroupId& id,
                                const ModalityWeights& weights) const;
  bool reads_routed_norm(const nn::GroupId& id) const;
  nn::GroupId smoothing_group(const nn::GroupId& id) const;
  at::Tensor smoothing_scale(const Plan& plan, const nn::GroupId& id, GroupReport& report);
  const Smoothing& smoothing(const Scheme& scheme, const nn::GroupId& id, const ModalityWeights& weights);
  Smoothing solve_smoothing(const Scheme& scheme, const nn::GroupId& id,
                            const ModalityWeights& weights) const;
  ModalityWeights modality_weights(const Plan& plan, const nn::GroupId& id);
  ModalityWeights balanced(const nn::GroupId& id) const;
  at::Tensor round_inputs(const Scheme& scheme, const nn::GroupId& id, const at::Tensor& rows,
                          const at::Tensor& scale) const;
  at::Tensor fold_into_norm(nn::InputGroup group, const at::Tensor& scale, SmoothedLayer& smoothed) const;
  void fold_into_router(const at::Tensor& scale, SmoothedLayer& smoothed) const;
  void fold_into_adapters(const nn::LinearId& id, SmoothedLayer& smoothed) const;
  void rewrite_merged(const Plan& plan, const nn::LinearId& id, SmoothedLayer& smoothed) const;
  void rewrite(const std::string& name, const std::function<void(const at::Tensor&)>& change,
               SmoothedLayer& smoothed) const;
  void fold_rotation(SmoothedLayer& smoothed) const;
  at::Tensor rotated(const nn::LinearId& id, const at::Tensor& matrix) const;
  void fold_into_rows(const nn::RowRange& range, const at::Tensor& divisor, SmoothedLayer& smoothed) const;
  /// Largest inputs by group, and whether it is one of routed experts; of those that store a scale of theirs.
  std::map<std::pair<nn::InputGroup, bool>, float> largest_inputs(const Plan& plan,
                                                                  const SmoothedLayer& smoothed) const;
  void pack_group(const Plan& plan, const nn::GroupId& id, const SmoothedLayer& smoothed,
                  std::optional<float> input_scale, SolvedLayer& solved);

  KvScales solve_kv_cache(const KvFormat& format, const SmoothedLayer& smoothed) const;

  const Model& model_;
  const nn::DecoderSpec& spec_;
  int64_t layer_;
  const LayerStatistics* statistics_;
  const ModalitySensitivity* sensitivity_;
  SharedHeads heads_;
  mutable std::map<nn::LinearId, at::Tensor> weights_;  // of all but routed experts, f32
  // By Scheme::smoothing().
  std::vector<std::tuple<Scheme, nn::GroupId, ModalityWeights, Smoothing>> smoothings_;
  std::map<nn::GroupId, ModalityWeights> balanced_;
};

}  // namespace visq

// From the weights and statistics of one decoder layer to packed tensors and changed norms, for one scheme.
#pragma once
#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "visq/pipeline/calibrate.h"
#include "visq/pipeline/plan.h"
#include "visq/quant/solver.h"

namespace visq {

/// What a solver decided for one input group.
struct GroupReport {
  int64_t layer = 0;
  nn::InputGroup group = nn::InputGroup::attn_in;
  Solver solver = Solver::max;
  std::optional<double> alpha;  ///< smoothing strength, where there is smoothing
  std::optional<double> loss,
      plain_loss;    ///< AWQ: output error with and without smoothing, relative to the output
  std::string note;  ///< why a group was not smoothed
  int64_t text_tokens = 0, image_tokens = 0;  ///< what its quantizers saw
};

/// A decoder layer after smoothing, before packing: computes what the original computes.
struct SmoothedLayer {
  std::map<nn::Role, at::Tensor>
      weights;  ///< [out, in], of the linears the plan quantizes; f32 where changed
  std::vector<std::pair<std::string, at::Tensor>>
      rewritten;  ///< norms and biases: source name → new value, same dtype and shape
  std::array<at::Tensor, std::size(nn::kInputGroups)>
      scales;  ///< f32 [in] per group; undefined: not smoothed
  std::vector<GroupReport> reports;
};

/// Everything a plan writes for one layer.
struct SolvedLayer {
  std::vector<std::pair<const Site*, PackedLinear>> linears;
  std::vector<std::pair<std::string, at::Tensor>> rewritten;
  std::optional<std::pair<float, float>> kv_scales;  ///< key, value
  std::vector<GroupReport> reports;
};

/// Solves one decoder layer for any number of plans. They share the layer's weights (fp32, on the model's
/// device) and the AWQ decisions, which do not depend on layout or input format.
class LayerSolver {
 public:
  /// @param statistics  null: no calibration (for schemes that need none; AWQ then rounds without smoothing)
  LayerSolver(const Model& model, int64_t layer, const LayerStatistics* statistics);

  SmoothedLayer smooth(const Plan& plan);
  /// @throws Error naming the tensor when a weight holds a NaN or an infinity
  SolvedLayer solve(const Plan& plan);

 private:
  at::Tensor stored_weight(nn::Role role) const;
  const at::Tensor& weight(nn::Role role);  // f32
  at::Tensor smoothing_scale(const Plan& plan, nn::InputGroup group, GroupReport& report);
  const AwqDecision& awq(const Scheme& scheme, nn::InputGroup group);
  at::Tensor fold_into_norm(nn::InputGroup group, const at::Tensor& scale, SmoothedLayer& smoothed);
  void fold_into_rows(const Plan& plan, const nn::RowRange& range, const at::Tensor& divisor,
                      SmoothedLayer& smoothed);
  void pack_group(const Plan& plan, nn::InputGroup group, const SmoothedLayer& smoothed, SolvedLayer& solved);

  const Model& model_;
  int64_t layer_;
  const LayerStatistics* statistics_;
  SharedHeads heads_;
  std::map<nn::Role, at::Tensor> weights_;
  std::map<std::pair<int64_t, nn::InputGroup>, AwqDecision> awq_;  // key: block, group
};

}  // namespace visq

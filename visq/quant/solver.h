// Solvers turn weights and statistics into smoothing scales. Pure functions: no files, no model, no state.
//
// Convention: s is a scale per input channel; the weight becomes W·diag(s), the input x/s. What produces the
// input absorbs 1/s, so the function of the model stays as it was.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "visq/quant/statistics.h"

namespace visq {

/// Input channels of o_proj that must share a scale, because the value row that absorbs it serves several
/// query heads: channel (kv_head, query, dim) gets the scale of (kv_head, dim).
struct SharedHeads {
  int64_t kv_heads = 1, queries_per_kv = 1, head_dim = 1;
  at::Tensor mean(const at::Tensor& channels) const;  ///< [in] → [in], each the mean of those it shares with
  at::Tensor max(const at::Tensor& channels) const;   ///< [in] → [in]
  at::Tensor one_each(const at::Tensor& channels) const;  ///< [in] → [kv_heads · head_dim]: the shared values
};

/// The output error of a linear whose weight is off by D, summed over the tokens of G = Σ x xᵀ: tr(D G Dᵀ) =
/// Σ ‖D x‖².
/// @param difference  f32 [out, in];  @param gram  f32 [in, in], symmetric
double gram_loss(const at::Tensor& difference, const at::Tensor& gram);
/// The sum of all elements, in their order, so that it does not depend on the number of threads.
double sum_in_order(const at::Tensor& values);

/// Output error of a group of quantized linears on tokens at hand, relative to their output:
/// Σ c ‖x Wᵀ − x̂ Ŵᵀ‖² / Σ c ‖x Wᵀ‖², c how many tokens each stands for.
/// @param weights  W of each linear, [out, in];  @param inputs  x̂, f32 [n, in]
/// @param quantized  number of a linear → Ŵ, f32 [out, in]
double relative_error(const DrawnTokens& tokens, const std::vector<at::Tensor>& weights,
                      const at::Tensor& inputs, const std::function<at::Tensor(size_t linear)>& quantized);

/// SmoothQuant: s = clamp(a^α / w^(1−α), 1e-4, 1e4) (spec/quantization.md §6.2, where σ = 1/s).
/// @param input_max   f32 [in]: largest |x| per channel
/// @param weight_max  f32 [in]: largest |W| per column, over all linears of the group
at::Tensor smoothquant_scale(const at::Tensor& input_max, const at::Tensor& weight_max, double alpha);

/// Each value's nearest power of two (between 2ⁿ and 2ⁿ⁺¹: the lower up to 1.5·2ⁿ): scaling by it is exact in
/// every floating type. @param scale  f32, positive and normal
at::Tensor nearest_powers_of_two(const at::Tensor& scale);

/// A smoothing scale and what it was chosen by.
struct SmoothingDecision {
  at::Tensor scale;  ///< f32 [in]
  double alpha = 0;
  std::vector<double> losses;  ///< per α that was tried first
  double loss = 0;             ///< of the chosen scale
  double plain_loss = 0;       ///< without smoothing
};

struct SmoothingOptions {
  std::optional<double> alpha = std::nullopt;        ///< this one; empty: the best of smoothing_alphas()
  std::optional<SharedHeads> shared = std::nullopt;  ///< channels that must share a scale
  bool refine = false;                               ///< also tries α half a step to either side of the best
  bool powers_of_two = false;                        ///< tries scales rounded to powers of two
};

/// 0, 0.1, …, 1 as float32 values (spec/quantization.md §6.3).
const std::vector<double>& smoothing_alphas();

using Quantizer = std::function<at::Tensor(const at::Tensor&)>;  ///< what becomes of a matrix, same shape

/// AWQ with one scale for all linears that read the same input, searched over α by the output error
/// Σ tr(D G Dᵀ), D = Q(W·s)/s − W, and that of rounded inputs, which no Gram matrix knows: Σ ‖Q(W·s) e‖² over
/// a sample of them.
/// @param weights    the group's linears, each f32 [out, in]
/// @param magnitude  f32 [in]: mean |x|
/// @param gram       f32 [in, in]
/// @param block      columns that share a weight scale
/// @param quantize_weight  W·s → its quantized values, f32 [out, in]
/// @param input_error  s → e, f32 [tokens, in]: how far rounded x/s are from x/s, times √(tokens that each
///                     stands for). Empty: inputs are not rounded, or that shall not count
/// @throws Error when no loss is finite
SmoothingDecision solve_awq(const std::vector<at::Tensor>& weights, const at::Tensor& magnitude,
                            const at::Tensor& gram, int64_t block, const Quantizer& quantize_weight,
                            const SmoothingOptions& options = {}, const Quantizer& input_error = {});

/// SmoothQuant with the α that leaves the smallest output error Σ ‖x Wᵀ − Q(x/s) Q(W·s)ᵀ‖² of a sample.
/// @param input_max  f32 [in]: largest |x| per channel, of all tokens
/// @param x          f32 [tokens, in], times √(tokens that each stands for)
/// @param rounded_inputs  s → Q(x/s) of the sample
SmoothingDecision solve_smoothquant(const std::vector<at::Tensor>& weights, const at::Tensor& input_max,
                                    const at::Tensor& x, const Quantizer& quantize_weight,
                                    const std::function<at::Tensor(const at::Tensor& scale)>& rounded_inputs,
                                    const SmoothingOptions& options = {});

}  // namespace visq

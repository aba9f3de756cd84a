// GPTQ: rounds a matrix column by column, each column making up for the errors of those before it
// (Frantar et al. 2022).
#pragma once
#include <ATen/core/Tensor.h>

#include "visq/quant/codec.h"

namespace visq {

struct GptqOptions {
  bool activation_order = true;  ///< columns with the largest inputs first
  double damping =
      0.01;  ///< of the Gram matrix's mean diagonal; ten times as much for as long as it is singular
};

/// What linears that read the same input share: the order of their columns, and R of the damped and so
/// ordered Gram matrix G = R·Rᵀ, upper triangular.
struct GptqFactor {
  at::Tensor order;   ///< int64 [in]
  at::Tensor factor;  ///< f32 [in, in]; undefined when the input was zero throughout
};

/// @param gram  f32 [in, in], symmetric
/// @throws Error when it is undefined or not finite
GptqFactor gptq_factor(const at::Tensor& gram, const GptqOptions& options = {});

/// Minimizes tr(E G Eᵀ), E = W − Q, greedily over the columns. The loss is ‖E·R‖², whose column j depends on
/// the errors of columns up to j only; so q_j is the grid's number nearest to w_j + Σ_{i<j} e_i R_ij / R_jj.
/// This is GPTQ's update without an inverse.
/// @param weight  f32 [out, in]
/// @param scales  a packing of `weight`: its scales stay, whatever the order of the columns
/// @return `weight` packed with other codes
/// @throws Error when the factor is of another width
PackedTensor gptq(const at::Tensor& weight, const GptqFactor& factor, const PackedTensor& scales);

}  // namespace visq

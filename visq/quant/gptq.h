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

/// Minimizes tr(E G Eᵀ), E = W − Q, greedily over the columns. With G = R·Rᵀ, R upper triangular, the loss is
/// ‖E·R‖², whose column j depends on the errors of columns up to j only; so q_j is the grid's number nearest
/// to w_j + Σ_{i<j} e_i R_ij / R_jj. This is GPTQ's update without an inverse.
/// @param weight  f32 [out, in];  @param gram  f32 [in, in], symmetric
/// @param scales  a packing of `weight`: its scales stay, whatever the order of the columns
/// @return `weight` packed with other codes
PackedTensor gptq(const at::Tensor& weight, const at::Tensor& gram, const PackedTensor& scales,
                  const GptqOptions& options = {});

}  // namespace visq

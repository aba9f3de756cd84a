// Scales that lose less than amax / largest code: searches block by block.
#pragma once
#include <ATen/core/Tensor.h>

#include "visq/quant/codec.h"
#include "visq/quant/scheme.h"

namespace visq {

/// Chooses every block's scale anew, by the error of its rounded weights.
/// nvfp4: among the E4M3 numbers. mse: the best of all 126 (spec/quantization.md §6.8; those that cannot win
/// are not tried, §13.3). output_error: the best from half to twice the largest magnitude (§6.10).
/// four_over_six: the largest magnitude becomes 6 or 4, whichever is nearer (§6.9); pack with
/// four_over_six_amax(). int4, int4_asym (zero points stay), int8: from 1 down to 0.5 of amax in steps of
/// 0.05 (mse; output_error is AWQ's clipping, §6.4).
/// @param packed  `weight` packed with the largest scales
/// @param gram    f32 [in, in]; output_error only: Σ x xᵀ, of which the blocks on the diagonal count
/// @param scale_dtype  of the scales of integers
PackedTensor search_scales(ScaleSearch search, const PackedTensor& packed, const at::Tensor& weight,
                           const at::Tensor& gram, at::ScalarType scale_dtype);

/// Room for block scales 1.5 times as large: scale_2 = amax / (6 · 256).
inline float four_over_six_amax(float amax) { return amax * (448.0f / 256.0f); }

}  // namespace visq

// The numbers that a quantized matrix can hold once its scales are fixed: code · step. Scale searches and
// GPTQ round to them; the codecs of codec.h choose scale and code in one go.
#pragma once
#include <ATen/core/Tensor.h>

#include "visq/quant/codec.h"

namespace visq {

/// The steps of a packed matrix.
/// @return f32 [rows or 1, columns / block]: one for each block of a row; of a matrix with one scale, [1, 1]
/// @throws Error for fp8_blocks, whose blocks span rows
at::Tensor steps_of(const PackedTensor& packed);

/// Columns that share a step.
int64_t step_columns(const PackedTensor& packed);

/// The nearest code · step of each value, ties as the codec rounds them.
/// @param values  f32; @param step  f32, broadcast to the shape of `values`
at::Tensor round_to_grid(Codec codec, const at::Tensor& values, const at::Tensor& step);

/// The same for a whole matrix. @param values  f32 [rows, columns]
at::Tensor round_to_grid(const PackedTensor& scales, const at::Tensor& values);

/// Other values under the same scales. @param values  f32 [rows, columns], rounded to the nearest codes
PackedTensor repack(const PackedTensor& scales, const at::Tensor& values);

}  // namespace visq

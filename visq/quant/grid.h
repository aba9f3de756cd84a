// The numbers that a quantized matrix can hold once its scales are fixed. Scale searches and GPTQ round to
// them; the codecs of codec.h choose scale and code in one go.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

#include "visq/quant/codec.h"

namespace visq {

/// (code − zero point) · step, where the code of nf4 stands for its level.
struct Grid {
  Codec codec = Codec::fp8_e4m3;
  at::Tensor step;        ///< f32, broadcast to the shape of the values
  at::Tensor zero_point;  ///< likewise; undefined: 0

  /// With both tensors as `view` makes them.
  Grid as(const std::function<at::Tensor(const at::Tensor&)>& view) const;
  /// The nearest number of each value, ties as the codec rounds them. @param values  f32
  at::Tensor nearest(const at::Tensor& values) const;
};

/// Columns that share a step.
int64_t step_columns(const PackedTensor& packed);

/// @return f32 [rows or 1, blocks]: a step for each block of a row; of a matrix with one scale, [1, 1]
/// @throws Error for the MX formats, whose codes are not searched
Grid grid_of_blocks(const PackedTensor& packed);
/// The same for each column: f32 [rows or 1, columns]
Grid grid_of_columns(const PackedTensor& packed);

/// Other values under the same scales. @param values  f32 [rows, columns], rounded to the nearest codes
PackedTensor repack(const PackedTensor& scales, const at::Tensor& values);

}  // namespace visq

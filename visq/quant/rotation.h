// Rotations that a model takes without noticing: heads mix tokens and not channels, so that what rotates the
// values of a head, and back in front of o, leaves the function as it was. Outliers are spread over the
// channels of a head, which helps formats with few codes (QuaRot, Ashkboos et al. 2024; SpinQuant's R2).
#pragma once
#include <ATen/core/Tensor.h>

namespace visq {

/// Each run of `head_dim` columns through hadamard_transform(): what o reads, and its weight.
/// @param matrix  f32 [rows, heads · head_dim]
at::Tensor rotate_columns(const at::Tensor& matrix, int64_t head_dim);

/// Each run of `head_dim` rows: the weight that makes the values. @param matrix  f32 [heads · head_dim,
/// columns]
at::Tensor rotate_rows(const at::Tensor& matrix, int64_t head_dim);

}  // namespace visq

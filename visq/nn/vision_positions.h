// Where the patches of an image stand: learned positions and rotations by row and column.
#pragma once
#include "visq/nn/vision.h"

namespace visq::nn {

/// What queries and keys turn by: fp32 [Σ h·w, head_dim] on the CPU, rows in image order (with spec.merge > 1
/// cell by cell), a class token behind those of its grid. Only for a spec with rope.
at::Tensor vision_angles(const VisionSpec& spec, const std::vector<Grid>& grids);

/// Rows of a square table of side² positions for patches of any aspect ratio (int64 [Σ h·w]): the visible
/// ones are spread over the whole table, the others get row 0. Source: spec/models-phi-gemma.md §3.5.
/// @param mask  bool [Σ h·w] on the CPU, or undefined
at::Tensor stretched_positions(const std::vector<Grid>& grids, const at::Tensor& mask, int64_t side);

/// The square table interpolated to each grid, corner on corner, [Σ h·w, width] in fp32.
/// Source: spec/models-llava-vila-qwen.md §9.
/// @param table  [side², width]; @param merge  patches of a cell, a side
at::Tensor resampled_positions(const std::vector<Grid>& grids, const at::Tensor& table, int64_t merge);

}  // namespace visq::nn

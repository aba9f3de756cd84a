// Tiles that see one another, each with learned vectors of its own (Mllama).
// Source: spec/models-phi-gemma.md §5.2.
#pragma once
#include "visq/nn/vision.h"

namespace visq::nn {

/// Row of the tile tables. @throws Error for a tiling that the model does not know
int64_t tiling_row(const VisionSpec& spec, const Grid& tiling);

/// Adds its vector to all rows of a tile. @param x  [images · joined_tiles · rows, width]
at::Tensor add_tile_table(const VisionSpec& spec, const TileTable& tile, const std::vector<Grid>& tilings,
                          const at::Tensor& x);
/// VisionPositions::gated. @param x  [images · joined_tiles · tokens, width]
at::Tensor add_gated_positions(const VisionSpec& spec, const VisionTower& tower,
                               const std::vector<Grid>& tilings, const at::Tensor& x);

/// Tokens of a tile, and what they are filled up to with rows of zeros: a multiple of 8. The fill counts: the
/// tokens of the image see it.
struct TileFill {
  int64_t tokens = 0, filled = 0;
  at::Tensor fill(const at::Tensor& rows) const;    ///< [tiles · tokens, n] → [tiles · filled, n]
  at::Tensor unfill(const at::Tensor& rows) const;  ///< the inverse
};
TileFill tile_fill(const VisionSpec& spec, const Grid& tile);

}  // namespace visq::nn

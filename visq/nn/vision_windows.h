// Where the patches of ragged images stand: row order, attention windows, coordinates (Qwen2.5-VL).
// Source: spec/models-llava-vila-qwen.md §7, §8.
#pragma once
#include <cstdint>
#include <utility>
#include <vector>

namespace visq::nn {

/// Height and width of an image or a tile, in patches.
using Grid = std::pair<int64_t, int64_t>;

/// A cell is a block of merge × merge patches; its patches stand in consecutive rows.
struct WindowOrder {
  std::vector<int64_t>
      cells;  ///< cells[i]: number, in image order, of the cell that stands at place i in window order
  std::vector<int64_t> restore;         ///< the inverse: place of each cell
  std::vector<int64_t> window_offsets;  ///< borders of the windows in rows (patches); empty windows left out
  std::vector<int64_t> image_offsets;   ///< borders of the images in rows
};

/// @param grids  (h, w) in patches per image, multiples of `merge`
/// @param side   side of a window in cells; 0: one window an image
WindowOrder window_order(const std::vector<Grid>& grids, int64_t merge, int64_t side);

/// (y, x) of every patch, row by row as the image processor lays them out: cell by cell, row-major inside.
std::vector<std::pair<int64_t, int64_t>> patch_coordinates(const std::vector<Grid>& grids, int64_t merge);

}  // namespace visq::nn

#include "visq/nn/vision_windows.h"

#include <algorithm>

namespace visq::nn {

WindowOrder window_order(const std::vector<Grid>& grids, int64_t merge, int64_t side) {
  WindowOrder order;
  order.window_offsets = order.image_offsets = {0};
  const int64_t cell_rows = merge * merge;
  int64_t first_cell = 0;
  for (const auto& [grid_h, grid_w] : grids) {
    const int64_t height = grid_h / merge, width = grid_w / merge;
    const int64_t step_y = side > 0 ? side : std::max<int64_t>(height, 1);
    const int64_t step_x = side > 0 ? side : std::max<int64_t>(width, 1);
    for (int64_t top = 0; top < height; top += step_y) {
      for (int64_t left = 0; left < width; left += step_x) {
        for (int64_t y = top; y < std::min(top + step_y, height); ++y)
          for (int64_t x = left; x < std::min(left + step_x, width); ++x)
            order.cells.push_back(first_cell + y * width + x);
        order.window_offsets.push_back(static_cast<int64_t>(order.cells.size()) * cell_rows);
      }
    }
    first_cell += height * width;
    order.image_offsets.push_back(first_cell * cell_rows);
  }
  order.restore.resize(order.cells.size());
  for (size_t place = 0; place < order.cells.size(); ++place)
    order.restore[static_cast<size_t>(order.cells[place])] = static_cast<int64_t>(place);
  return order;
}

std::vector<std::pair<int64_t, int64_t>> patch_coordinates(const std::vector<Grid>& grids, int64_t merge) {
  std::vector<std::pair<int64_t, int64_t>> coordinates;
  for (const auto& [height, width] : grids)
    for (int64_t top = 0; top + merge <= height; top += merge)
      for (int64_t left = 0; left + merge <= width; left += merge)
        for (int64_t y = top; y < top + merge; ++y)
          for (int64_t x = left; x < left + merge; ++x) coordinates.emplace_back(y, x);
  return coordinates;
}

}  // namespace visq::nn

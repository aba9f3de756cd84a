#include "visq/families/positions.h"

#include <algorithm>

#include "visq/core/error.h"

namespace visq {

Positions mrope_positions(std::span<const int64_t> ids, int64_t image_token_id,
                          const std::vector<std::pair<int64_t, int64_t>>& grids) {
  Positions positions;
  const auto add = [&positions](int64_t time, int64_t height, int64_t width) {
    positions.axes[0].push_back(time);
    positions.axes[1].push_back(height);
    positions.axes[2].push_back(width);
  };
  int64_t current = 0;
  size_t image = 0;
  for (size_t i = 0; i < ids.size();) {
    if (ids[i] != image_token_id) {
      add(current, current, current);
      ++current;
      ++i;
      continue;
    }
    if (image == grids.size()) fail("more image tokens than the {} images fill", grids.size());
    const auto [height, width] = grids[image++];
    const auto cells = static_cast<size_t>(height * width);
    if (cells == 0 || ids.size() - i < cells ||
        std::ranges::any_of(ids.subspan(i, cells), [&](int64_t id) { return id != image_token_id; }))
      fail("image {} needs {} image tokens in a row", image, cells);
    for (int64_t y = 0; y < height; ++y)
      for (int64_t x = 0; x < width; ++x) add(current, current + y, current + x);
    current += std::max(height, width);
    i += cells;
  }
  if (image != grids.size()) fail("{} images, but image tokens for {}", grids.size(), image);
  positions.next = current;
  return positions;
}

}  // namespace visq

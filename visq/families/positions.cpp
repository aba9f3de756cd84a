#include "visq/families/positions.h"

#include <algorithm>

#include "visq/core/error.h"

namespace visq {

Positions mrope_positions(std::span<const int64_t> ids, std::span<const int64_t> token_ids,
                          const std::vector<TokenGrid>& grids) {
  Positions positions;
  const auto add = [&positions](int64_t time, int64_t height, int64_t width) {
    positions.axes[0].push_back(time);
    positions.axes[1].push_back(height);
    positions.axes[2].push_back(width);
    positions.next = std::max({positions.next, time + 1, height + 1, width + 1});
  };
  int64_t current = 0;
  size_t image = 0;
  for (size_t i = 0; i < ids.size();) {
    if (std::ranges::find(token_ids, ids[i]) == token_ids.end()) {
      add(current, current, current);
      ++current;
      ++i;
      continue;
    }
    if (image == grids.size()) fail("more image tokens than the {} images fill", grids.size());
    const TokenGrid& grid = grids[image++];
    const auto cells = static_cast<size_t>(grid.time * grid.height * grid.width);
    if (cells == 0 || ids.size() - i < cells ||
        std::ranges::any_of(ids.subspan(i, cells), [&](int64_t id) { return id != grid.token_id; }))
      fail("image {} needs {} tokens {} in a row", image, cells, grid.token_id);
    for (int64_t t = 0; t < grid.time; ++t) {
      const int64_t time = current + static_cast<int64_t>(static_cast<float>(t) * grid.step);
      for (int64_t y = 0; y < grid.height; ++y)
        for (int64_t x = 0; x < grid.width; ++x) add(time, current + y, current + x);
    }
    current += std::max(grid.height, grid.width);
    i += cells;
  }
  if (image != grids.size()) fail("{} images, but image tokens for {}", grids.size(), image);
  return positions;
}

}  // namespace visq

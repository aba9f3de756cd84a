#include "visq/nn/vision_tiles.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"

namespace visq::nn {
namespace {

constexpr int64_t kFillMultiple = 8;  // fixed in the reference

/// Rows of a table, one an image. @param table  [tilings + 1, n] → [images, n]
at::Tensor rows_of(const VisionSpec& spec, const at::Tensor& table, const std::vector<Grid>& tilings) {
  std::vector<int64_t> rows;
  for (const Grid& tiling : tilings) rows.push_back(tiling_row(spec, tiling));
  return table.index_select(0, at::tensor(rows, at::kLong).to(table.device()));
}

}  // namespace

int64_t tiling_row(const VisionSpec& spec, const Grid& tiling) {
  const auto found = std::ranges::find(spec.tilings, tiling);
  if (found == spec.tilings.end())
    fail("an image is cut into {} x {} tiles, which 'supported_aspect_ratios' of config.json lacks",
         tiling.first, tiling.second);
  return found - spec.tilings.begin() + 1;
}

at::Tensor add_tile_table(const VisionSpec& spec, const TileTable& tile, const std::vector<Grid>& tilings,
                          const at::Tensor& x) {
  const auto images = static_cast<int64_t>(tilings.size());
  const at::Tensor vectors = rows_of(spec, tile.table, tilings) * tile.gate.tanh();
  return (x.view({images * spec.joined_tiles, -1, spec.width}) + vectors.view({-1, 1, spec.width}))
      .flatten(0, 1);
}

at::Tensor add_gated_positions(const VisionSpec& spec, const VisionTower& tower,
                               const std::vector<Grid>& tilings, const at::Tensor& x) {
  const at::Tensor share = tower.position_gate.tanh();
  const auto tiles = static_cast<int64_t>(tilings.size()) * spec.joined_tiles;
  const at::Tensor own = share * rows_of(spec, tower.tile_positions, tilings);
  return (x.view({tiles, -1, spec.width}) + (1 - share) * tower.position_table +
          own.view({tiles, -1, spec.width}))
      .flatten(0, 1);
}

at::Tensor TileFill::fill(const at::Tensor& rows) const {
  return at::constant_pad_nd(rows.view({-1, tokens, rows.size(1)}), {0, 0, 0, filled - tokens}, 0)
      .flatten(0, 1);
}

at::Tensor TileFill::unfill(const at::Tensor& rows) const {
  return rows.view({-1, filled, rows.size(1)}).narrow(1, 0, tokens).flatten(0, 1);
}

TileFill tile_fill(const VisionSpec& spec, const Grid& tile) {
  const int64_t tokens = tile.first * tile.second + (spec.class_token ? 1 : 0);
  return {tokens, (tokens + kFillMultiple - 1) / kFillMultiple * kFillMultiple};
}

}  // namespace visq::nn

#include "visq/inputs/image_geometry.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "visq/core/error.h"

namespace visq {
namespace {

double real(int64_t value) { return static_cast<double>(value); }
int64_t whole(double value) { return static_cast<int64_t>(value); }
int64_t ceil_div(int64_t value, int64_t unit) { return (value + unit - 1) / unit; }
double aspect(ImageSize size) { return real(size.width) / real(size.height); }
ImageSize transposed(ImageSize size) { return {size.width, size.height}; }
TileGrid transposed(TileGrid grid) { return {grid.columns, grid.rows}; }

/// Grids of at most `max_tiles` tiles.
std::vector<TileGrid> grids_up_to(int64_t max_tiles) {
  std::vector<TileGrid> grids;
  for (int64_t rows = 1; rows <= max_tiles; ++rows)
    for (int64_t columns = 1; rows * columns <= max_tiles; ++columns) grids.push_back({rows, columns});
  return grids;
}

/// The grid whose scale is preferred (see mllama_grid). Two grids of one scale and one area cannot be the
/// smallest: the grid that both contain has that scale too. So the order of the candidates does not matter.
template <typename Real>
TileGrid tightest_grid(ImageSize in, int64_t tile, int64_t max_tiles, bool largest) {
  const auto scale_of = [&](TileGrid grid) {
    const auto down = static_cast<Real>(grid.rows * tile) / static_cast<Real>(in.height);
    const auto across = static_cast<Real>(grid.columns * tile) / static_cast<Real>(in.width);
    return std::min(down, across);
  };
  const auto better = [&](TileGrid a, TileGrid b) {
    const Real scale_a = scale_of(a), scale_b = scale_of(b);
    if (scale_a == scale_b) return a.count() < b.count();
    if (scale_a >= 1 && scale_b >= 1) return largest ? scale_a > scale_b : scale_a < scale_b;
    return scale_a > scale_b;
  };
  const auto grids = grids_up_to(max_tiles);
  return *std::min_element(grids.begin(), grids.end(), better);
}

/// Both sides multiples of `factor`; sides times frames within the limits.
/// @param frames   in exact terms, from which the scale follows
/// @param rounded  as the limits count them
ImageSize smart_volume(ImageSize in, int64_t frames, int64_t rounded, int64_t factor, int64_t min_pixels,
                       int64_t max_pixels) {
  const auto [low, high] = std::minmax(in.height, in.width);
  if (real(high) / real(low) > 200)
    fail("an image of {}x{} pixels has an aspect ratio above 200", in.width, in.height);
  const double h = real(in.height), w = real(in.width), f = real(factor);
  const double volume = real(frames) * h * w;
  const auto multiple = [&](double steps) { return whole(steps) * factor; };
  // nearbyint rounds halves to even, as Python's round.
  const ImageSize size{multiple(std::nearbyint(h / f)), multiple(std::nearbyint(w / f))};
  if (rounded * size.area() > max_pixels) {
    const double beta = std::sqrt(volume / real(max_pixels));
    return {std::max(factor, multiple(std::floor(h / beta / f))),
            std::max(factor, multiple(std::floor(w / beta / f)))};
  }
  if (rounded * size.area() < min_pixels) {
    const double beta = std::sqrt(real(min_pixels) / volume);
    return {multiple(std::ceil(h * beta / f)), multiple(std::ceil(w * beta / f))};
  }
  return size;
}

}  // namespace

ImageSize shortest_edge_size(ImageSize in, int64_t shortest) {
  const auto [low, high] = std::minmax(in.height, in.width);
  const int64_t longer = whole(real(shortest) * real(high) / real(low));
  return in.width <= in.height ? ImageSize{longer, shortest} : ImageSize{shortest, longer};
}

ImageSize smart_size(ImageSize in, int64_t factor, int64_t min_pixels, int64_t max_pixels) {
  return smart_volume(in, 1, 1, factor, min_pixels, max_pixels);
}

ImageSize smart_video_size(ImageSize in, int64_t frames, int64_t temporal, int64_t factor, int64_t min_pixels,
                           int64_t max_pixels) {
  if (frames < temporal)
    fail("a video of {} frames is shorter than the {} that become one step in time", frames, temporal);
  if (in.height < factor || in.width < factor) {
    const double scale = std::max(real(factor) / real(in.height), real(factor) / real(in.width));
    in = {whole(real(in.height) * scale), whole(real(in.width) * scale)};
  }
  const int64_t rounded = whole(std::nearbyint(real(frames) / real(temporal))) * temporal;
  return smart_volume(in, frames, rounded, factor, min_pixels, max_pixels);
}

ImageSize best_resolution(ImageSize in, const std::vector<ImageSize>& choices) {
  ImageSize best;
  int64_t best_kept = 0, best_waste = std::numeric_limits<int64_t>::max();
  for (const ImageSize& choice : choices) {
    const double scale = std::min(real(choice.width) / real(in.width), real(choice.height) / real(in.height));
    const int64_t scaled = whole(real(in.width) * scale) * whole(real(in.height) * scale);
    const int64_t kept = std::min(scaled, in.area()), waste = choice.area() - kept;
    if (kept > best_kept || (kept == best_kept && waste < best_waste)) {
      best = choice;
      best_kept = kept;
      best_waste = waste;
    }
  }
  return best;
}

ImageSize fit_rounding_up(ImageSize in, ImageSize canvas) {
  const double across = real(canvas.width) / real(in.width), down = real(canvas.height) / real(in.height);
  if (across < down)
    return {std::min(whole(std::ceil(real(in.height) * across)), canvas.height), canvas.width};
  return {canvas.height, std::min(whole(std::ceil(real(in.width) * down)), canvas.width)};
}

TileGrid pan_and_scan_grid(ImageSize in, int64_t min_crop, int64_t max_crops, double min_ratio) {
  if (in.width < in.height)
    return transposed(pan_and_scan_grid(transposed(in), min_crop, max_crops, min_ratio));
  const double ratio = aspect(in);
  if (ratio < min_ratio) return {};
  const int64_t wanted = std::min(in.width / min_crop, whole(std::floor(ratio + 0.5)));
  const int64_t crops = std::min(max_crops, std::max<int64_t>(2, wanted));
  const bool large_enough = std::min(ceil_div(in.width, crops), in.height) >= min_crop;
  return large_enough ? TileGrid{1, crops} : TileGrid{};
}

namespace {

std::vector<TileGrid> by_tiles_then_columns(int64_t max_tiles) {
  auto grids = grids_up_to(max_tiles);
  std::stable_sort(grids.begin(), grids.end(), [](TileGrid a, TileGrid b) {
    return std::pair(a.count(), a.columns) < std::pair(b.count(), b.columns);
  });
  return grids;
}

}  // namespace

TileGrid fullest_grid(ImageSize in, int64_t tile, int64_t max_tiles) {
  constexpr double kEnough = 0.6;
  TileGrid best{1, 1};
  double best_value = -1;
  for (const TileGrid& grid : by_tiles_then_columns(max_tiles)) {
    const double share = std::min(real(grid.size({tile, tile}).area()) / real(in.area()), kEnough);
    const double own = real(grid.columns) / real(grid.rows), wanted = aspect(in);
    const double value = share * std::min(own / wanted, wanted / own);
    if (value > best_value) best_value = value, best = grid;
  }
  return best;
}

TileGrid closest_grid(ImageSize in, ImageSize tile, int64_t min_tiles, int64_t max_tiles) {
  auto grids = by_tiles_then_columns(max_tiles);
  std::erase_if(grids, [&](TileGrid grid) { return grid.count() < min_tiles; });
  TileGrid best{1, 1};
  double best_difference = std::numeric_limits<double>::infinity();
  for (const TileGrid& grid : grids) {
    const double difference = std::abs(aspect(in) - real(grid.columns) / real(grid.rows));
    const bool fills_half = real(in.area()) > 0.5 * real(grid.size(tile).area());
    if (difference < best_difference || (difference == best_difference && fills_half)) {
      best_difference = difference;
      best = grid;
    }
  }
  return best;
}

ImageSize longest_edge_size(ImageSize in, int64_t longest) {
  constexpr int64_t kLimit = 4096;
  const auto even = [](int64_t side) { return std::max<int64_t>(side + side % 2, 1); };
  const bool landscape = in.width >= in.height;
  ImageSize out = landscape ? ImageSize{even(whole(real(longest) / aspect(in))), longest}
                            : ImageSize{longest, even(whole(real(longest) * aspect(in)))};
  const double ratio = aspect(out);
  if (out.width >= out.height && out.width > kLimit)
    return {std::max<int64_t>(whole(real(kLimit) / ratio), 1), kLimit};
  if (out.height > out.width && out.height > kLimit)
    return {kLimit, std::max<int64_t>(whole(real(kLimit) * ratio), 1)};
  return out;
}

ImageSize tile_multiple_size(ImageSize in, int64_t tile) {
  const auto up = [tile](int64_t side) { return ceil_div(side, tile) * tile; };
  if (in.width >= in.height) {
    const int64_t width = up(in.width);
    return {up(whole(real(width) / aspect(in))), width};
  }
  const int64_t height = up(in.height);
  return {height, up(whole(real(height) * aspect(in)))};
}

ImageSize patch_multiple_size(ImageSize in, ImageSize limit, int64_t unit) {
  const double ratio = std::max(real(in.height) / real(limit.height), real(in.width) / real(limit.width));
  if (ratio > 1) in = {whole(std::floor(real(in.height) / ratio)), whole(std::floor(real(in.width) / ratio))};
  return {ceil_div(in.height, unit) * unit, ceil_div(in.width, unit) * unit};
}

TileGrid covering_grid(ImageSize in, int64_t tile, int64_t max_tiles) {
  const TileGrid grid{ceil_div(in.height, tile), ceil_div(in.width, tile)};
  return grid.count() <= max_tiles ? grid : closest_grid(in, {tile, tile}, 1, max_tiles);
}

ImageSize fit_truncating(ImageSize in, ImageSize canvas) {
  const double across = real(canvas.width) / real(in.width), down = real(canvas.height) / real(in.height);
  if (across < down) return {whole(real(in.height) * across), canvas.width};
  return {canvas.height, whole(real(in.width) * down)};
}

ImageSize phi3_size(ImageSize in, int64_t tile, int64_t max_tiles) {
  const double ratio = aspect(in);
  double columns = 1;
  while (columns * std::ceil(columns / ratio) <= real(max_tiles)) ++columns;
  const int64_t width = whole(columns - 1) * tile;
  return {whole(real(width) / ratio), width};
}

TileGrid mllama_grid(ImageSize in, int64_t tile, int64_t max_tiles) {
  return tightest_grid<double>(in, tile, max_tiles, /*largest=*/false);
}

ImageSize mllama_fit(ImageSize in, ImageSize canvas, int64_t tile) {
  const ImageSize target{std::clamp(in.height, tile, canvas.height),
                         std::clamp(in.width, tile, canvas.width)};
  const double across = real(target.width) / real(in.width), down = real(target.height) / real(in.height);
  const auto scaled = [](int64_t side, double scale) {
    return std::max<int64_t>(whole(std::floor(real(side) * scale)), 1);
  };
  if (across < down) return {std::min(scaled(in.height, across), target.height), target.width};
  return {target.height, std::min(scaled(in.width, down), target.width)};
}

TileGrid llama4_grid(ImageSize in, int64_t tile, int64_t max_tiles, bool largest) {
  return tightest_grid<float>(in, tile, max_tiles, largest);
}

ImageSize llama4_fit(ImageSize in, ImageSize canvas, int64_t tile, bool largest) {
  // The reference divides in double where the limit comes from the image, in float where it is the canvas (a
  // tensor).
  struct Limit {
    int64_t side;
    bool single;
    double ratio(int64_t by) const {
      return single ? static_cast<float>(side) / static_cast<float>(by) : real(side) / real(by);
    }
    int64_t times(double scale, int64_t by) const {
      const double product = single ? static_cast<float>(by) * static_cast<float>(scale) : real(by) * scale;
      return whole(std::floor(product));
    }
  };
  const auto limit = [&](int64_t side, int64_t most) {
    const int64_t wanted = std::max(side, tile);
    return largest || wanted > most ? Limit{most, true} : Limit{wanted, false};
  };
  const Limit height = limit(in.height, canvas.height), width = limit(in.width, canvas.width);
  const double across = width.ratio(in.width), down = height.ratio(in.height);
  const bool single = height.single || width.single;
  const bool width_binds = single ? static_cast<float>(across) < static_cast<float>(down) : across < down;
  const ImageSize out = width_binds
                            ? ImageSize{std::min(width.times(across, in.height), height.side), width.side}
                            : ImageSize{height.side, std::min(height.times(down, in.width), width.side)};
  return {std::max<int64_t>(out.height, 1), std::max<int64_t>(out.width, 1)};
}

}  // namespace visq

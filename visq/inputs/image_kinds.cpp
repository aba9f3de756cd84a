#include "visq/inputs/image_kinds.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/inputs/image.h"

namespace visq {
namespace {

using Tensors = std::vector<at::Tensor>;

/// Row by row; the last ones may be smaller. (LlavaNextImageProcessor's own default is tiles of 224 on
/// canvases of 336.)
Tensors pieces_of(const at::Tensor& image, ImageSize piece) {
  Tensors pieces;
  const auto [height, width] = size_of(image);
  for (int64_t y = 0; y < height; y += piece.height)
    for (int64_t x = 0; x < width; x += piece.width)
      pieces.push_back(image.narrow(1, y, std::min(piece.height, height - y))
                           .narrow(2, x, std::min(piece.width, width - x)));
  return pieces;
}

/// The rounds of fixed_size on each.
at::Tensor fixed_sizes(const ImageProcessor& p, const Tensors& images) {
  Tensors out;
  for (const at::Tensor& image : images) out.push_back(fixed_size(p, image.contiguous()));
  return at::stack(out);
}

TileGrid grid_of(ImageSize canvas, ImageSize tile) {
  return {(canvas.height + tile.height - 1) / tile.height, (canvas.width + tile.width - 1) / tile.width};
}

}  // namespace

void check_grid(const at::Tensor& image, TileGrid grid, ImageSize tile) {
  if (grid.count() > kMaxTiles || grid.size(tile).area() > kMaxImagePixels)
    fail(
        "an image of {}x{} pixels would be cut into {} tiles of {}x{}: the settings of its processor are too "
        "large",
        image.size(2), image.size(1), grid.count(), tile.width, tile.height);
}

at::Tensor resized(const ImageProcessor& p, const at::Tensor& image, ImageSize size) {
  return resize_image(image, size, p.resample, p.profile);
}

at::Tensor fixed_size(const ImageProcessor& p, const at::Tensor& image) {
  at::Tensor out = image;
  if (p.resize)
    out = resized(p, out,
                  p.resize_shortest > 0 ? shortest_edge_size(size_of(out), p.resize_shortest)
                                        : ImageSize{p.resize_height, p.resize_width});
  if (p.crop) out = center_crop(out, {p.crop_height, p.crop_width}, p.profile);
  return normalized(out, p.steps, p.profile);
}

ProcessedImage normalized_tiles(const ImageProcessor& p, const at::Tensor& tiles, TileGrid grid) {
  ProcessedImage out{normalized(tiles, p.steps, p.profile)};
  out.rows = grid.rows;
  out.columns = grid.columns;
  return out;
}

ProcessedImage process_qwen2_vl(const ImageProcessor& p, const at::Tensor& image) {
  const int64_t unit = p.patch * p.merge;
  const at::Tensor sized =
      p.resize ? resized(p, image, smart_size(size_of(image), unit, p.min_pixels, p.max_pixels)) : image;
  const auto [height, width] = size_of(sized);
  if (height % unit != 0 || width % unit != 0)
    fail("an image of {}x{} pixels is no multiple of {} and 'do_resize' is off", width, height, unit);
  const at::Tensor pixels = normalized(sized, p.steps, p.profile);
  const at::Tensor frames = pixels.unsqueeze(0).expand({p.temporal_patch, -1, -1, -1});
  return {flattened_patches(frames, p.patch, p.merge, p.temporal_patch), height / p.patch, width / p.patch};
}

ProcessedImage process_pixtral(const ImageProcessor& p, const at::Tensor& image) {
  const ImageSize limit = p.resize_longest > 0 ? ImageSize{p.resize_longest, p.resize_longest}
                                               : ImageSize{p.resize_height, p.resize_width};
  const int64_t unit = p.patch * p.merge;
  at::Tensor out = p.resize ? resized(p, image, patch_multiple_size(size_of(image), limit, unit)) : image;
  if (p.crop) out = center_crop(out, {p.crop_height, p.crop_width}, p.profile);
  const auto [height, width] = size_of(out);
  if (height % unit != 0 || width % unit != 0)
    fail("an image of {}x{} pixels is no multiple of {} and 'do_resize' is off", width, height, unit);
  return {normalized(out, p.steps, p.profile), height / p.patch, width / p.patch};
}

ProcessedImage process_anyres(const ImageProcessor& p, const at::Tensor& image) {
  const int64_t side = p.resize_shortest;
  const ImageSize base = side > 0 ? ImageSize{side, side} : ImageSize{p.resize_height, p.resize_width};
  const int64_t tile_side = p.crop_height > 0 ? p.crop_height : base.height;
  const ImageSize tile{tile_side, tile_side};
  const ImageSize canvas = best_resolution(size_of(image), p.pinpoints);
  const TileGrid grid = grid_of(canvas, tile);
  check_grid(image, grid, tile);
  const at::Tensor fitted = resized(p, image, fit_rounding_up(size_of(image), canvas));
  Tensors tiles = pieces_of(pad_centred(fitted, canvas), tile);
  tiles.insert(tiles.begin(), resized(p, image, base));
  ProcessedImage out{fixed_sizes(p, tiles)};
  out.rows = grid.rows;
  out.columns = grid.columns;
  return out;
}

ProcessedImage process_gemma3(const ImageProcessor& p, const at::Tensor& image) {
  if (!p.split) return {fixed_size(p, image)};
  const TileGrid grid = pan_and_scan_grid(size_of(image), p.min_crop, p.max_tiles, p.min_ratio);
  Tensors tiles{image};
  if (grid.count() > 0) {
    const auto [height, width] = size_of(image);
    const ImageSize slice{(height + grid.rows - 1) / grid.rows, (width + grid.columns - 1) / grid.columns};
    const Tensors slices = pieces_of(image, slice);
    tiles.insert(tiles.end(), slices.begin(), slices.end());
  }
  ProcessedImage out{fixed_sizes(p, tiles)};
  out.rows = grid.rows;
  out.columns = grid.columns;
  return out;
}

}  // namespace visq

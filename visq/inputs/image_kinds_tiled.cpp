#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/inputs/image_kinds.h"

namespace visq {
namespace {

using Tensors = std::vector<at::Tensor>;

struct Stretch {
  Resampling filter;
  ImageProfile profile;
};

/// VILA resizes with PIL's default filter, whatever the tower's processor says.
constexpr Stretch kVila{Resampling::bicubic, ImageProfile::pil};

ImageSize tile_of(const ImageProcessor& p) { return {p.resize_height, p.resize_width}; }

/// The image resized to the grid, aspect ignored, and cut. Bytes [tiles, 3, h, w]
at::Tensor stretched_tiles(const at::Tensor& image, TileGrid grid, ImageSize tile, const Stretch& stretch) {
  check_grid(image, grid, tile);
  return cut_tiles(resize_image(image, grid.size(tile), stretch.filter, stretch.profile), tile);
}

at::Tensor append(const at::Tensor& tiles, const at::Tensor& tile) {
  return at::cat({tiles, tile.unsqueeze(0)});
}

/// The tiles of a grid, then the whole image unless there is one tile.
ProcessedImage tiles_and_whole(const ImageProcessor& p, const at::Tensor& image, TileGrid grid,
                               ImageSize tile, const Stretch& stretch) {
  at::Tensor tiles = stretched_tiles(image, grid, tile, stretch);
  if (grid.count() > 1 && p.thumbnail)
    tiles = append(tiles, resize_image(image, tile, stretch.filter, stretch.profile));
  return normalized_tiles(p, tiles, grid);
}

/// InternVL's rule.
ProcessedImage dynamic_tiles(const ImageProcessor& p, const at::Tensor& image, ImageSize tile,
                             const Stretch& stretch) {
  return tiles_and_whole(p, image, closest_grid(size_of(image), tile, p.min_tiles, p.max_tiles), tile,
                         stretch);
}

/// Before the tiles, the whole image resized as floats without antialiasing: the Phi families' order.
at::Tensor global_then_tiles(const at::Tensor& pixels, ImageSize tile, Resampling filter) {
  const at::Tensor global = size_of(pixels) == tile ? pixels : resize_float(pixels, tile, filter);
  return at::cat({global.unsqueeze(0), cut_tiles(pixels, tile)});
}

/// True where a patch of the padded image shows the image itself. [rows·n, columns·n], n patches a tile
at::Tensor shown_patches(ImageSize shown, ImageSize padded, TileGrid grid, int64_t patches, int64_t patch) {
  at::Tensor mask = at::zeros({grid.rows * patches, grid.columns * patches}, at::kBool);
  const int64_t height = mask.size(0) - (padded.height - shown.height) / patch;
  const int64_t width = mask.size(1) - (padded.width - shown.width) / patch;
  mask.narrow(0, 0, height).narrow(1, 0, width).fill_(true);
  return mask;
}

at::Tensor cut_mask(const at::Tensor& mask, TileGrid grid, int64_t patches) {
  const at::Tensor tiles = mask.reshape({grid.rows, patches, grid.columns, patches})
                               .transpose(1, 2)
                               .reshape({grid.count(), patches, patches});
  return at::cat({at::ones({1, patches, patches}, at::kBool), tiles});
}

ProcessedImage with_grid(at::Tensor pixels, TileGrid grid) {
  ProcessedImage out{std::move(pixels)};
  out.rows = grid.rows;
  out.columns = grid.columns;
  return out;
}

/// VILA dynamic_s2: the squares of the smaller scales, then the closest grid of at least as many tiles as the
/// largest scale's square.
ProcessedImage multi_scale_tiles(const ImageProcessor& p, const at::Tensor& image, ImageSize tile) {
  Tensors tiles;
  for (size_t i = 0; i + 1 < p.scales.size(); ++i) {
    const int64_t side = p.scales[i] / p.scales[0];
    tiles.push_back(stretched_tiles(image, {side, side}, tile, kVila));
  }
  const int64_t side = p.scales.back() / p.scales[0];
  const TileGrid grid = closest_grid(size_of(image), tile, side * side, p.max_tiles);
  tiles.push_back(stretched_tiles(image, grid, tile, kVila));
  return normalized_tiles(p, at::cat(tiles), grid);
}

/// VILA s2: the processed image resized to each scale, as floats without antialiasing, and cut into the
/// tower's tiles. @param pixels  f32 [3, s, s], s the largest scale
ProcessedImage tiles_of_scales(const ImageProcessor& p, const at::Tensor& pixels) {
  const ImageSize tile{p.tile_side, p.tile_side};
  Tensors tiles;
  for (const int64_t scale : p.scales) {
    const ImageSize size{scale, scale};
    tiles.push_back(
        cut_tiles(size_of(pixels) == size ? pixels : resize_float(pixels, size, Resampling::bicubic), tile));
  }
  const int64_t side = p.scales.back() / p.tile_side;
  return with_grid(at::cat(tiles), {side, side});
}

}  // namespace

ProcessedImage process_internvl(const ImageProcessor& p, const at::Tensor& image) {
  if (p.split) return dynamic_tiles(p, image, tile_of(p), {p.resample, p.profile});
  return with_grid(fixed_size(p, image).unsqueeze(0), {});
}

ProcessedImage process_idefics3(const ImageProcessor& p, const at::Tensor& image) {
  const ImageSize tile{p.tile_side, p.tile_side};
  at::Tensor sized = image;
  if (p.resize)
    sized = resized(p, image,
                    p.resize_longest > 0 ? longest_edge_size(size_of(image), p.resize_longest) : tile_of(p));
  if (!p.split) return normalized_tiles(p, resized(p, sized, tile).unsqueeze(0), {});
  const ImageSize canvas = tile_multiple_size(size_of(sized), p.tile_side);
  const TileGrid grid{canvas.height / p.tile_side, canvas.width / p.tile_side};
  check_grid(image, grid, tile);
  const at::Tensor whole = resized(p, sized, canvas);
  if (grid.count() == 1) return normalized_tiles(p, whole.unsqueeze(0), {});
  return normalized_tiles(p, append(cut_tiles(whole, tile), resized(p, whole, tile)), grid);
}

ProcessedImage process_phi3_v(const ImageProcessor& p, const at::Tensor& image) {
  constexpr ImageSize tile{336, 336};
  constexpr int64_t kWhite = 255;
  const bool portrait = image.size(2) < image.size(1);
  at::Tensor out = portrait ? image.transpose(1, 2).contiguous() : image;
  out = resized(p, out, phi3_size(size_of(out), tile.width, p.max_tiles));
  const ImageSize canvas{(out.size(1) + tile.height - 1) / tile.height * tile.height, out.size(2)};
  out = pad_centred(out, canvas, {{kWhite, kWhite, kWhite}});
  if (portrait) out = out.transpose(1, 2).contiguous();
  out = normalized(out, p.steps, p.profile);
  const at::Tensor global = resize_float(out, tile, Resampling::bicubic);
  const TileGrid grid{out.size(1) / tile.height, out.size(2) / tile.width};
  return with_grid(at::cat({global.unsqueeze(0), cut_tiles(out, tile)}), grid);
}

ProcessedImage process_phi4(const ImageProcessor& p, const at::Tensor& image) {
  constexpr int64_t kLeastSide = 10, kWhite = 255;
  const ImageSize tile = tile_of(p);
  const TileGrid grid = covering_grid(size_of(image), tile.height, p.max_tiles);
  check_grid(image, grid, tile);
  const ImageSize canvas = grid.size(tile), fitted = fit_truncating(size_of(image), canvas);
  if (std::min(fitted.height, fitted.width) < kLeastSide)
    fail("an image of {}x{} pixels would be resized to {}x{}: its shape is too extreme", image.size(2),
         image.size(1), fitted.width, fitted.height);
  // The function's default filter, not the config's.
  const at::Tensor sized = resize_image(image, fitted, Resampling::bilinear, p.profile);
  const at::Tensor pixels = normalized(pad_at_end(sized, canvas, kWhite), p.steps, p.profile);
  ProcessedImage out = with_grid(global_then_tiles(pixels, tile, p.resample), grid);
  const int64_t patches = tile.height / p.patch;
  out.patch_mask = cut_mask(shown_patches(fitted, canvas, grid, patches, p.patch), grid, patches);
  return out;
}

ProcessedImage process_mllama(const ImageProcessor& p, const at::Tensor& image) {
  const ImageSize tile = tile_of(p);
  const TileGrid grid = mllama_grid(size_of(image), tile.height, p.max_tiles);
  check_grid(image, grid, tile);
  const ImageSize canvas = grid.size(tile);
  const at::Tensor fitted = resized(p, image, mllama_fit(size_of(image), canvas, tile.height));
  return normalized_tiles(p, cut_tiles(pad_at_end(fitted, canvas, 0), tile), grid);
}

ProcessedImage process_llama4(const ImageProcessor& p, const at::Tensor& image) {
  const ImageSize tile = tile_of(p);
  const TileGrid grid = llama4_grid(size_of(image), tile.height, p.max_tiles, p.largest_canvas);
  check_grid(image, grid, tile);
  const ImageSize canvas = grid.size(tile);
  const ImageSize fitted = llama4_fit(size_of(image), canvas, tile.height, p.largest_canvas);
  at::Tensor tiles = cut_tiles(pad_at_end(resized(p, image, fitted), canvas, 0), tile);
  if (grid.count() == 1) return with_grid(normalized_in_bf16(tiles, p.steps), {});
  tiles = append(tiles, resized(p, image, tile));
  return with_grid(normalized_in_bf16(tiles, p.steps), grid);
}

ProcessedImage process_nemotron(const ImageProcessor& p, const at::Tensor& image) {
  // PIL doubles the image, which torchvision then resizes; both by the default filter, not the config's.
  const ImageSize doubled{2 * image.size(1), 2 * image.size(2)};
  const at::Tensor large = resize_image(image, doubled, Resampling::bilinear, ImageProfile::pil);
  const TileGrid grid = fullest_grid(doubled, p.tile_side, p.max_tiles);
  return tiles_and_whole(p, large, grid, {p.tile_side, p.tile_side}, {Resampling::bilinear, p.profile});
}

ProcessedImage process_vila(const ImageProcessor& p, const at::Tensor& image, int64_t images_in_sample) {
  using Vila = ImageProcessor::Vila;
  const ImageSize tile = p.crop_height > 0 ? ImageSize{p.crop_height, p.crop_width} : tile_of(p);
  if (images_in_sample == 1 && p.vila == Vila::dynamic) return dynamic_tiles(p, image, tile, kVila);
  if (images_in_sample == 1 && p.vila == Vila::dynamic_s2) return multi_scale_tiles(p, image, tile);
  const at::Tensor sized = p.vila == Vila::resize ? resize_image(image, tile, kVila.filter, kVila.profile)
                           : p.vila == Vila::pad  ? pad_to_square(image, p.steps.mean)
                                                  : image;
  const at::Tensor pixels = fixed_size(p, sized);
  return p.tile_side > 0 ? tiles_of_scales(p, pixels) : ProcessedImage{pixels};
}

}  // namespace visq

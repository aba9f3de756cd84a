// Sizes and grids of the image processors: whole numbers from the size of an image, no pixels. Every function
// keeps the order of operations of the reference in double precision, so that the truncations fall alike.
// Source: spec/inputs.md §6.6, §7.
#pragma once
#include <cstdint>
#include <vector>

namespace visq {

struct ImageSize {
  int64_t height = 0, width = 0;
  bool operator==(const ImageSize&) const = default;
  int64_t area() const { return height * width; }
};

struct TileGrid {
  int64_t rows = 0, columns = 0;
  bool operator==(const TileGrid&) const = default;
  int64_t count() const { return rows * columns; }
  ImageSize size(ImageSize tile) const { return {rows * tile.height, columns * tile.width}; }
};

/// The short side becomes `shortest`, the long side is truncated to whole pixels.
ImageSize shortest_edge_size(ImageSize in, int64_t shortest);

/// Qwen2-VL: both sides multiples of `factor`, area within [min_pixels, max_pixels], aspect kept closely.
/// @throws Error when the aspect ratio is above 200
ImageSize smart_size(ImageSize in, int64_t factor, int64_t min_pixels, int64_t max_pixels);

/// Qwen3-VL's videos: as smart_size, the limits holding for all frames together. A frame smaller than
/// `factor` is enlarged first.
/// @throws Error for fewer than `temporal` frames, or an aspect ratio above 200
ImageSize smart_video_size(ImageSize in, int64_t frames, int64_t temporal, int64_t factor, int64_t min_pixels,
                           int64_t max_pixels);

/// LLaVA-NeXT: of `choices`, the one that keeps most of the image's pixels, then wastes least, then comes
/// first.
ImageSize best_resolution(ImageSize in, const std::vector<ImageSize>& choices);

/// LLaVA-NeXT: the largest size of the image's aspect inside `canvas`, the free side rounded up.
ImageSize fit_rounding_up(ImageSize in, ImageSize canvas);

/// Gemma 3 pan-and-scan: slices along the long side; {0, 0}: none.
TileGrid pan_and_scan_grid(ImageSize in, int64_t min_crop, int64_t max_crops, double min_ratio);

/// InternVL, Phi-4, VILA: of the grids with min_tiles..max_tiles tiles, the one of the closest aspect; among
/// equals (1x1, 2x2) the larger while the image fills more than half of it.
TileGrid closest_grid(ImageSize in, ImageSize tile, int64_t min_tiles, int64_t max_tiles);

/// Nemotron-VL: of the grids with up to max_tiles tiles, the one that is best in closeness of aspect times
/// share of the image's pixels, of which more than 0.6 count no more. Among equals the first by tiles, then
/// by columns; the reference's order is that of a Python set, which is the same for up to 16 tiles.
TileGrid fullest_grid(ImageSize in, int64_t tile, int64_t max_tiles);

/// Idefics3: the long side becomes `longest`, the other is truncated, then made even; neither above 4096.
ImageSize longest_edge_size(ImageSize in, int64_t longest);

/// Idefics3: both sides rounded up to multiples of `tile`, the short one after scaling with the long one.
ImageSize tile_multiple_size(ImageSize in, int64_t tile);

/// Pixtral: shrunk into `limit` (rounding down), then both sides rounded up to multiples of `unit`.
ImageSize patch_multiple_size(ImageSize in, ImageSize limit, int64_t unit);

/// Phi-4: as many tiles as the image touches, or the closest grid when those are more than `max_tiles`.
TileGrid covering_grid(ImageSize in, int64_t tile, int64_t max_tiles);

/// Phi-4: the largest size of the image's aspect inside `canvas`, the free side truncated.
ImageSize fit_truncating(ImageSize in, ImageSize canvas);

/// Phi-3 for a landscape or square image: its width the most tiles that `max_tiles` allow; the height
/// truncated.
ImageSize phi3_size(ImageSize in, int64_t tile, int64_t max_tiles);

/// Mllama: the smallest enlargement of at least 1, else the least reduction; among equals the smallest area.
TileGrid mllama_grid(ImageSize in, int64_t tile, int64_t max_tiles);
/// Mllama: not below one tile, not above the canvas, aspect kept, the free side rounded down but at least 1.
ImageSize mllama_fit(ImageSize in, ImageSize canvas, int64_t tile);

/// Llama 4: as Mllama in single precision; `largest`: the largest enlargement instead of the smallest.
TileGrid llama4_grid(ImageSize in, int64_t tile, int64_t max_tiles, bool largest);
ImageSize llama4_fit(ImageSize in, ImageSize canvas, int64_t tile, bool largest);

}  // namespace visq

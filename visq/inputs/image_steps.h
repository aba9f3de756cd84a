// What the image processors do to pixels between decoding and the tower, besides resizing.
// Source: spec/inputs.md §6.5, §6.6.
#pragma once
#include <ATen/core/Tensor.h>

#include <vector>

#include "visq/inputs/image_resample.h"

namespace visq {

/// `fill` per channel, the colour of the padding.
struct PadColor {
  int64_t fill[3] = {0, 0, 0};
};

/// [3, height, width] in the middle of a canvas of `size`; an odd row or column goes to the end.
at::Tensor pad_centred(const at::Tensor& image, ImageSize size, PadColor color = {});

/// Centred on a square of its longer side, coloured int(mean · 255).
at::Tensor pad_to_square(const at::Tensor& image, const std::vector<double>& mean);

/// [3, height, width] at the top left of a canvas of `size`, the rest filled.
at::Tensor pad_at_end(const at::Tensor& image, ImageSize size, int64_t fill);

/// Cuts the middle. A smaller image is padded with black, an odd row or column at the end (tv) or at the
/// start (pil).
at::Tensor center_crop(const at::Tensor& image, ImageSize crop, ImageProfile profile);

/// Steps that turn bytes into floats.
struct Normalization {
  bool rescale = true, normalize = true;
  double rescale_factor = 1.0 / 255;
  bool as_to_tensor = false;  ///< torchvision's ToTensor and Normalize: divides by 255, in single precision
  std::vector<double> mean, std;  ///< of the channels
};

/// f32 of the shape of `image` (uint8 [..., 3, height, width]).
at::Tensor normalized(const at::Tensor& image, const Normalization& steps, ImageProfile profile);

/// As `normalized`, rounded to bfloat16 after each operation, as Llama 4 does it.
at::Tensor normalized_in_bf16(const at::Tensor& image, const Normalization& steps);

/// [3, rows·h, columns·w] → [rows·columns, 3, h, w], row by row.
at::Tensor cut_tiles(const at::Tensor& image, ImageSize tile);

/// Rows of flattened patches, ordered so that the `merge`² patches of one token are neighbours.
/// Row: channel, frame, patch row, patch column. Rows of the first `temporal` frames come first.
/// @param frames  [n · temporal, 3, height, width], the latter multiples of patch · merge
at::Tensor flattened_patches(const at::Tensor& frames, int64_t patch, int64_t merge, int64_t temporal);

}  // namespace visq

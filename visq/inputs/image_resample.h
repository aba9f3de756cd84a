// Antialiased resizing of 8-bit images, as the two pipelines of the reference do it. Never through float:
// overshoot of the bicubic and Lanczos filters would survive and differ by tens of steps. Source:
// spec/inputs.md §6.4.
#pragma once
#include <ATen/core/Tensor.h>

#include "visq/inputs/image_geometry.h"

namespace visq {

/// Which pipeline of the reference: torchvision (its default) or Pillow and NumPy.
enum class ImageProfile { tv, pil };

/// PIL's codes, as configs give them.
enum class Resampling { lanczos = 1, bilinear = 2, bicubic = 3 };

/// Height and width of an image [..., height, width].
ImageSize size_of(const at::Tensor& image);

/// @param image  uint8 [3, height, width]
/// @return uint8 [3, size.height, size.width]; the image itself when it has that size
/// @throws Error when the size is empty or beyond kMaxImagePixels
at::Tensor resize_image(const at::Tensor& image, ImageSize size, Resampling filter, ImageProfile profile);

/// Pillow 13: fixed-point weights with 22 bits, two passes that each round to 8 bits. Until Pillow 12.3 the
/// horizontal pass always came first.
at::Tensor resize_as_pillow(const at::Tensor& image, ImageSize size, Resampling filter);

/// Not antialiased, f32 [..., height, width]: the global view of the Phi families (cubic with a = -0.75).
at::Tensor resize_float(const at::Tensor& image, ImageSize size, Resampling filter);

}  // namespace visq

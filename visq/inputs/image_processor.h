// RGB pixels → the tensor that the vision tower reads, as the checkpoint's preprocessor_config.json says.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <vector>

namespace visq {

/// One image, ready for the tower.
struct ProcessedImage {
  /// Fixed size: f32 [3, h, w]. Tiles: f32 [tiles, 3, h, w], in the order of the reference processor.
  /// Patches: f32 [grid_h·grid_w, 3·t·p·p].
  at::Tensor pixels;
  int64_t grid_h = 0;  ///< patches; 0 for the other kinds
  int64_t grid_w = 0;
  int64_t rows = 0;  ///< grid of tiles that the image was cut into; 0: it was not
  int64_t columns = 0;
  int64_t height = 0;  ///< pixels of the original
  int64_t width = 0;
  at::Tensor patch_mask{};  ///< bool [tiles, h/patch, w/patch]: true where a patch shows the image;
                            ///< undefined: everywhere
};

/// The `tv` profile: equal bit for bit to the torchvision backend of the reference processors (spec/inputs.md
/// §6.4–7.4).
class ImageProcessor {
 public:
  enum class Kind { clip, siglip, llava, qwen2_vl };

  /// Reads preprocessor_config.json, or processor_config.json:image_processor. @throws Error for another
  /// processor type
  static ImageProcessor load(const std::filesystem::path& directory);

  /// @param image  uint8 [3, height, width]
  /// @throws Error when the aspect ratio is beyond what the processor accepts
  ProcessedImage process(const at::Tensor& image) const;

  Kind kind = Kind::clip;
  bool resize = true, crop = false, rescale = true, normalize = true, pad_square = false;
  int64_t resize_shortest = 0;  ///< >0: shortest edge; else resize_height × resize_width
  int64_t resize_height = 0, resize_width = 0;
  int64_t crop_height = 0, crop_width = 0;
  int resample = 3;  ///< PIL code: 1 lanczos, 2 bilinear, 3 bicubic
  double rescale_factor = 1.0 / 255;
  std::vector<double> mean, std;
  int64_t patch = 14, temporal_patch = 2, merge = 2, min_pixels = 0, max_pixels = 0;  ///< qwen2_vl only
};

}  // namespace visq

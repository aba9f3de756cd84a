// RGB pixels → the tensor that the vision tower reads, as the checkpoint's preprocessor_config.json says.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/image_resample.h"
#include "visq/inputs/image_steps.h"

namespace visq {

/// One image or one video, ready for the tower.
struct ProcessedImage {
  /// Fixed size: f32 [3, h, w]. Tiles: f32 [tiles, 3, h, w], in the order of the reference processor.
  /// Patches: f32 [grid_t·grid_h·grid_w, 3·t·p·p].
  at::Tensor pixels = {};
  int64_t grid_h = 0;  ///< patches; 0 for the other kinds
  int64_t grid_w = 0;
  int64_t rows = 0;  ///< grid of tiles that the image was cut into; 0: it was not
  int64_t columns = 0;
  int64_t height = 0;  ///< pixels of the original
  int64_t width = 0;
  /// bool [tiles, h/patch, w/patch]: true where a patch shows the image; undefined: everywhere
  at::Tensor patch_mask = {};
  int64_t grid_t = 1;  ///< steps in time, each of several frames of a video
  int64_t frames = 0;  ///< that the video has; 0: it is an image
  double fps = 0;      ///< of the video

  bool is_video() const { return frames > 0; }
};

/// Equal bit for bit to the reference processors in the chosen profile (spec/inputs.md §6, §7).
class ImageProcessor {
 public:
  /// What `process` returns for each; "tiles" are always [tiles, 3, h, w], even one.
  enum class Kind {
    clip,             ///< fixed size
    siglip,           ///< fixed size; PaliGemma too
    llava,            ///< fixed size
    llava_next,       ///< tiles: the whole image, then rows·columns
    llava_onevision,  ///< as llava_next; of several images in a sample each is one padded tile, rows = 0
    qwen2_vl,         ///< patches; Qwen2.5-VL and Qwen3-VL too
    gemma3,    ///< fixed size; with do_pan_and_scan tiles: the whole image, then its slices (0 or more)
    internvl,  ///< tiles: rows·columns, then the whole image unless there is one tile
    idefics3,  ///< tiles: rows·columns, then the whole image; or one tile, rows = 0; SmolVLM too
    pixtral,   ///< fixed channels, own size: [3, grid_h·patch, grid_w·patch]; Mistral 3 too
    phi3_v,    ///< tiles: the whole image, then rows·columns, without zero tiles up to num_crops + 1
    phi4,      ///< tiles: the whole image, then rows·columns; patch_mask is false on padding
    mllama,    ///< tiles: rows·columns, without zero tiles up to max_image_tiles
    llama4,    ///< as idefics3
    nemotron,  ///< tiles: rows·columns, then the whole image unless there is one tile, or `thumbnail` is off
    vila,      ///< fixed size, or tiles as in `Vila`; with s2 tiles: the square grids of all scales
  };
  /// config.json:image_aspect_ratio of VILA. Only the only image of a sample is tiled.
  enum class Vila {
    plain,       ///< fixed size
    resize,      ///< fixed size, aspect ignored
    pad,         ///< fixed size, padded to a square first
    dynamic,     ///< tiles: rows·columns, then the whole image unless there is one tile
    dynamic_s2,  ///< tiles: the square grids of all scales but the last, then rows·columns of the last
  };

  /// Reads preprocessor_config.json, or processor_config.json:image_processor; of a VILA checkpoint
  /// config.json and vision_tower/preprocessor_config.json. Kinds that the reference has in one profile only
  /// (Phi-3 and VILA: pil; Phi-4, Llama 4 and Nemotron-VL: tv) use that one. @throws Error for another
  /// processor type
  static ImageProcessor load(const std::filesystem::path& directory, ImageProfile profile = ImageProfile::tv);

  /// @param config  what preprocessor_config.json would say
  /// @param origin  whose it is, for errors
  static ImageProcessor parse(const Json& config, const std::string& origin,
                              ImageProfile profile = ImageProfile::tv);

  /// @param image             uint8 [3, height, width]
  /// @param images_in_sample  LLaVA-OneVision and VILA cut only a sample's single image into tiles
  /// @throws Error when the shape is beyond what the processor accepts, or would give too many tiles
  ProcessedImage process(const at::Tensor& image, int64_t images_in_sample = 1) const;

  Kind kind = Kind::clip;
  ImageProfile profile = ImageProfile::tv;
  bool resize = true, crop = false, pad_square = false;
  int64_t resize_shortest = 0;  ///< >0: shortest edge; else resize_height × resize_width
  int64_t resize_height = 0, resize_width = 0;
  int64_t resize_longest = 0;  ///< idefics3, pixtral
  int64_t crop_height = 0, crop_width = 0;
  Resampling resample = Resampling::bicubic;
  Normalization steps;
  int64_t patch = 14, merge = 1;                               ///< qwen2_vl, pixtral; phi4: patch
  int64_t temporal_patch = 2, min_pixels = 0, max_pixels = 0;  ///< qwen2_vl
  bool split = false;                                          ///< gemma3, internvl, idefics3: cut into tiles
  int64_t min_tiles = 1, max_tiles = 1;                        ///< limits of the grid
  std::vector<ImageSize> pinpoints;                            ///< llava_next, llava_onevision: sizes to cut
  int64_t tile_side =
      0;  ///< idefics3, nemotron; vila: of the tiles of `scales`, where the whole image is cut (s2)
  int64_t min_crop = 256;       ///< gemma3: pixels of a slice
  double min_ratio = 1.2;       ///< gemma3: aspect from which it slices
  bool largest_canvas = false;  ///< llama4: enlarge as far as possible
  bool thumbnail = true;        ///< nemotron
  Vila vila = Vila::plain;
  std::vector<int64_t> scales;  ///< vila dynamic_s2 and s2: pixels, ascending
};

}  // namespace visq

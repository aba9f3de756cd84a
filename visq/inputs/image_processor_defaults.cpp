#include <algorithm>
#include <iterator>

#include "visq/core/error.h"
#include "visq/inputs/image_processor_config.h"

namespace visq {
namespace {

using Kind = ImageProcessor::Kind;

const std::vector<double> kClipMean{0.48145466, 0.4578275, 0.40821073};
const std::vector<double> kClipStd{0.26862954, 0.26130258, 0.27577711};
const std::vector<double> kHalf{0.5, 0.5, 0.5};

struct Name {
  const char* type;
  Kind kind;
};

constexpr Name kNames[] = {
    {"CLIPImageProcessor", Kind::clip},
    {"SiglipImageProcessor", Kind::siglip},
    {"LlavaImageProcessor", Kind::llava},
    {"LlavaNextImageProcessor", Kind::llava_next},
    {"LlavaOnevisionImageProcessor", Kind::llava_onevision},
    {"Qwen2VLImageProcessor", Kind::qwen2_vl},
    {"Gemma3ImageProcessor", Kind::gemma3},
    {"GotOcr2ImageProcessor", Kind::internvl},
    {"Idefics3ImageProcessor", Kind::idefics3},
    {"SmolVLMImageProcessor", Kind::idefics3},
    {"PixtralImageProcessor", Kind::pixtral},
    {"Phi3VImageProcessor", Kind::phi3_v},
    {"Phi4MultimodalImageProcessor", Kind::phi4},
    {"Phi4MMImageProcessor", Kind::phi4},  // the checkpoint's own code; the same steps
    {"MllamaImageProcessor", Kind::mllama},
    {"Llama4ImageProcessor", Kind::llama4},
    {"LlamaNemotronNanoVLImageProcessor", Kind::nemotron},
};

bool has_clip_colours(Kind kind) {
  constexpr Kind kinds[] = {Kind::clip,     Kind::llava,    Kind::llava_next, Kind::llava_onevision,
                            Kind::qwen2_vl, Kind::internvl, Kind::pixtral,    Kind::phi3_v};
  return std::find(std::begin(kinds), std::end(kinds), kind) != std::end(kinds);
}

/// k·side × l·side for k, l in 1..6.
std::vector<ImageSize> square_pinpoints(int64_t side) {
  std::vector<ImageSize> sizes;
  for (int64_t k = 1; k <= 6; ++k)
    for (int64_t l = 1; l <= 6; ++l) sizes.push_back({k * side, l * side});
  return sizes;
}

void set_square(ImageProcessor& p, int64_t side) { p.resize_height = p.resize_width = side; }

void set_shortest_and_crop(ImageProcessor& p, int64_t side) {
  p.crop = true;
  p.resize_shortest = p.crop_height = p.crop_width = side;
}

}  // namespace

Kind image_processor_kind(std::string type, const std::string& origin) {
  if (type.ends_with("Fast")) type.resize(type.size() - 4);
  for (const Name& name : kNames)
    if (type == name.type) return name.kind;
  fail("{}: image processor '{}' is not supported", origin, type);
}

ImageProcessor image_processor_defaults(Kind kind) {
  ImageProcessor p;
  p.kind = kind;
  p.steps.mean = has_clip_colours(kind) ? kClipMean : kHalf;
  p.steps.std = has_clip_colours(kind) ? kClipStd : kHalf;
  switch (kind) {
    case Kind::clip:
    case Kind::llava:
      set_shortest_and_crop(p, 224);
      break;
    case Kind::llava_next:
      set_shortest_and_crop(p, 224);
      p.pinpoints = {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
      break;
    case Kind::llava_onevision:
      set_square(p, 384);
      p.pinpoints = square_pinpoints(384);
      break;
    case Kind::qwen2_vl:
      p.merge = 2;
      p.min_pixels = 56 * 56;
      p.max_pixels = 28 * 28 * 1280;
      break;
    case Kind::siglip:
    case Kind::vila:
      set_square(p, 224);
      break;
    case Kind::gemma3:
      set_square(p, 224);
      p.resample = Resampling::bilinear;
      p.max_tiles = 4;
      break;
    case Kind::internvl:
      set_square(p, 384);
      p.max_tiles = 12;
      break;
    case Kind::idefics3:
      p.resample = Resampling::lanczos;
      p.split = true;
      p.tile_side = 364;
      p.resize_longest = 4 * 364;
      break;
    case Kind::pixtral:
      p.patch = 16;
      p.resize_longest = 1024;
      break;
    case Kind::phi3_v:
      p.steps.as_to_tensor = true;
      p.resample = Resampling::bilinear;
      p.max_tiles = 16;
      break;
    case Kind::phi4:
      set_square(p, 448);
      p.max_tiles = 36;
      break;
    case Kind::mllama:
      set_square(p, 224);
      p.resample = Resampling::bilinear;
      p.max_tiles = 4;
      break;
    case Kind::nemotron:
      p.steps.rescale = p.steps.normalize = false;
      p.tile_side = 512;
      p.max_tiles = 12;
      break;
    case Kind::llama4:
      set_square(p, 336);
      p.resample = Resampling::bilinear;
      p.max_tiles = 16;
      break;
  }
  return p;
}

bool integer_size_is_square(Kind kind) {
  constexpr Kind by_short_side[] = {Kind::clip,  Kind::siglip,     Kind::vila,
                                    Kind::llava, Kind::llava_next, Kind::llava_onevision};
  return std::find(std::begin(by_short_side), std::end(by_short_side), kind) == std::end(by_short_side);
}

ImageProfile available_profile(Kind kind, ImageProfile wanted) {
  if (kind == Kind::phi3_v || kind == Kind::vila) return ImageProfile::pil;
  if (kind == Kind::phi4 || kind == Kind::llama4 || kind == Kind::nemotron) return ImageProfile::tv;
  return wanted;
}

}  // namespace visq

#include "visq/inputs/image_processor_config.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/inputs/image_kinds.h"

namespace visq {
namespace {

namespace fs = std::filesystem;
using Kind = ImageProcessor::Kind;

constexpr int64_t kMaxSide = 65'500;
constexpr int64_t kMaxPatch = 256;
constexpr size_t kMaxPinpoints = 1024;

struct Config {
  Json json;
  std::string origin;
  Json processor = {};  // processor_config.json; null without one
};

bool is_set(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) && !object.at(key).is_null();
}

/// The settings nested in processor_config.json win over preprocessor_config.json.
Config read_config(const fs::path& directory) {
  const fs::path nested = directory / "processor_config.json";
  const Json processor = fs::exists(nested) ? read_json(nested) : Json();
  if (is_set(processor, "image_processor"))
    return {processor.at("image_processor"), nested.string() + ": image_processor", processor};
  const fs::path plain = directory / "preprocessor_config.json";
  return {read_json(plain), plain.string(), processor};
}

Kind read_kind(const Config& config) {
  auto type = get_or<std::string>(config.json, "image_processor_type", "", config.origin);
  if (type.empty()) {
    type = get_or<std::string>(config.json, "feature_extractor_type", "", config.origin);
    if (const auto at = type.find("FeatureExtractor"); at != std::string::npos)
      type.replace(at, std::string::npos, "ImageProcessor");
  }
  if (type.empty()) fail("{}: 'image_processor_type' is missing", config.origin);
  return image_processor_kind(type, config.origin);
}

int64_t require_in(const Json& object, const std::string& key, int64_t low, int64_t high,
                   const std::string& origin) {
  const auto value = require<int64_t>(object, key, origin);
  if (value < low || value > high) fail("{}: '{}' is {}, outside {}..{}", origin, key, value, low, high);
  return value;
}

void take_in(const Json& object, const char* key, int64_t low, int64_t high, const std::string& origin,
             int64_t& value) {
  if (is_set(object, key)) value = require_in(object, key, low, high, origin);
}

bool has_exactly(const Json& object, std::initializer_list<const char*> keys) {
  size_t present = 0;
  for (const auto& [key, value] : object.items()) present += !value.is_null();
  return present == keys.size() &&
         std::all_of(keys.begin(), keys.end(), [&](const char* key) { return is_set(object, key); });
}

/// `size`: an integer, {shortest_edge}, {height, width}, or, where the kind has one, {longest_edge}.
void read_size(const Config& config, ImageProcessor& p) {
  if (!is_set(config.json, "size")) return;
  const Json& size = config.json.at("size");
  const std::string origin = config.origin + ": size";
  const bool may_be_longest = p.kind == Kind::idefics3 || p.kind == Kind::pixtral;
  p.resize_shortest = p.resize_height = p.resize_width = p.resize_longest = 0;
  if (size.is_number_integer()) {
    const int64_t side = require_in(config.json, "size", 1, kMaxSide, config.origin);
    if (integer_size_is_square(p.kind)) {
      p.resize_height = p.resize_width = side;
    } else {
      p.resize_shortest = side;
    }
  } else if (may_be_longest && size.is_object() && has_exactly(size, {"longest_edge"})) {
    p.resize_longest = require_in(size, "longest_edge", 1, kMaxSide, origin);
  } else if (!may_be_longest && size.is_object() && has_exactly(size, {"shortest_edge"})) {
    p.resize_shortest = require_in(size, "shortest_edge", 1, kMaxSide, origin);
  } else if (size.is_object() && has_exactly(size, {"height", "width"})) {
    p.resize_height = require_in(size, "height", 1, kMaxSide, origin);
    p.resize_width = require_in(size, "width", 1, kMaxSide, origin);
  } else {
    fail("{} is {}: expected {{{}}} or {{height, width}}", origin, json_excerpt(size),
         may_be_longest ? "longest_edge" : "shortest_edge");
  }
}

void read_crop(const Config& config, ImageProcessor& p) {
  p.crop = get_or(config.json, "do_center_crop", p.crop, config.origin);
  if (is_set(config.json, "crop_size")) {
    const Json& size = config.json.at("crop_size");
    const std::string origin = config.origin + ": crop_size";
    if (size.is_number_integer()) {
      p.crop_height = p.crop_width = require_in(config.json, "crop_size", 1, kMaxSide, config.origin);
    } else if (size.is_object() && has_exactly(size, {"height", "width"})) {
      p.crop_height = require_in(size, "height", 1, kMaxSide, origin);
      p.crop_width = require_in(size, "width", 1, kMaxSide, origin);
    } else {
      fail("{} is {}: expected {{height, width}}", origin, json_excerpt(size));
    }
  }
  if (p.crop && p.crop_height == 0) fail("{}: 'do_center_crop' needs 'crop_size'", config.origin);
}

/// Bounds of the area: top-level min_pixels and max_pixels override size.shortest_edge and size.longest_edge.
void read_area(const Config& config, ImageProcessor& p) {
  constexpr int64_t limit = int64_t{1} << 40;
  const auto take = [&](const char* edge, const char* pixels, int64_t& value) {
    if (is_set(config.json, pixels)) {
      value = require_in(config.json, pixels, 1, limit, config.origin);
    } else if (is_set(config.json, "size")) {
      value = require_in(config.json.at("size"), edge, 1, limit, config.origin + ": size");
    }
  };
  take("shortest_edge", "min_pixels", p.min_pixels);
  take("longest_edge", "max_pixels", p.max_pixels);
}

void read_patches(const Config& config, ImageProcessor& p) {
  read_area(config, p);
  take_in(config.json, "patch_size", 1, kMaxPatch, config.origin, p.patch);
  take_in(config.json, "temporal_patch_size", 1, kMaxPatch, config.origin, p.temporal_patch);
  take_in(config.json, "merge_size", 1, kMaxPatch, config.origin, p.merge);
}

/// PixtralProcessor replaces the image processor's patch_size by its own, times its spatial_merge_size; other
/// processors do not.
void read_pixtral_patch(const Config& config, ImageProcessor& p) {
  const Json& json = config.json;
  if (is_set(json, "patch_size") && json.at("patch_size").is_object()) {
    const std::string origin = config.origin + ": patch_size";
    p.patch = require_in(json.at("patch_size"), "height", 1, kMaxPatch, origin);
    if (require_in(json.at("patch_size"), "width", 1, kMaxPatch, origin) != p.patch)
      fail("{} is not square", origin);
  } else {
    take_in(json, "patch_size", 1, kMaxPatch, config.origin, p.patch);
  }
  const std::string origin = "processor_config.json";
  if (get_or<std::string>(config.processor, "processor_class", "PixtralProcessor", origin) !=
      "PixtralProcessor")
    return;
  take_in(config.processor, "patch_size", 1, kMaxPatch, origin, p.patch);
  take_in(config.processor, "spatial_merge_size", 1, kMaxPatch, origin, p.merge);
}

void read_pinpoints(const Config& config, ImageProcessor& p) {
  const auto pairs =
      get_or(config.json, "image_grid_pinpoints", std::vector<std::vector<int64_t>>{}, config.origin);
  if (pairs.empty()) return;
  if (pairs.size() > kMaxPinpoints)
    fail("{}: 'image_grid_pinpoints' has {} sizes, more than {}", config.origin, pairs.size(), kMaxPinpoints);
  p.pinpoints.clear();
  for (const auto& pair : pairs) {
    if (pair.size() != 2 || *std::ranges::min_element(pair) < 1 || *std::ranges::max_element(pair) > kMaxSide)
      fail("{}: 'image_grid_pinpoints' holds a size that is not [height, width] within 1..{}", config.origin,
           kMaxSide);
    p.pinpoints.push_back({pair[0], pair[1]});
  }
}

/// The keys that say how many tiles there may be, and whether there are any.
void read_tiles(const Config& config, ImageProcessor& p) {
  const auto limit = [&](const char* key, int64_t& value) {
    take_in(config.json, key, 1, kMaxTiles, config.origin, value);
  };
  const auto flag = [&](const char* key, bool& value) {
    value = get_or(config.json, key, value, config.origin);
  };
  switch (p.kind) {
    case Kind::gemma3:
      flag("do_pan_and_scan", p.split);
      limit("pan_and_scan_max_num_crops", p.max_tiles);
      take_in(config.json, "pan_and_scan_min_crop_size", 1, kMaxSide, config.origin, p.min_crop);
      p.min_ratio = get_or(config.json, "pan_and_scan_min_ratio_to_activate", p.min_ratio, config.origin);
      break;
    case Kind::internvl:
      flag("crop_to_patches", p.split);
      // InternVLProcessor asks for it whatever the file says.
      if (get_or<std::string>(config.json, "processor_class", "", config.origin) == "InternVLProcessor" ||
          get_or<std::string>(config.processor, "processor_class", "", config.origin) == "InternVLProcessor")
        p.split = true;
      limit("min_patches", p.min_tiles);
      limit("max_patches", p.max_tiles);
      break;
    case Kind::idefics3:
      flag("do_image_splitting", p.split);
      if (is_set(config.json, "max_image_size"))
        p.tile_side = require_in(config.json.at("max_image_size"), "longest_edge", 1, kMaxSide,
                                 config.origin + ": max_image_size");
      break;
    case Kind::phi3_v:
      limit("num_crops", p.max_tiles);
      break;
    case Kind::phi4:
      limit("dynamic_hd", p.max_tiles);
      take_in(config.json, "patch_size", 1, kMaxPatch, config.origin, p.patch);
      break;
    case Kind::mllama:
      limit("max_image_tiles", p.max_tiles);
      break;
    case Kind::nemotron:
      limit("max_num_tiles", p.max_tiles);
      take_in(config.json, "image_size", 1, kMaxSide, config.origin, p.tile_side);
      flag("use_thumbnail", p.thumbnail);
      break;
    case Kind::llama4:
      limit("max_patches", p.max_tiles);
      flag("resize_to_max_canvas", p.largest_canvas);
      break;
    default:
      break;
  }
}

void read_channels(const Config& config, const char* key, std::vector<double>& values) {
  values = get_or(config.json, key, values, config.origin);
  if (values.size() != 3) fail("{}: '{}' has {} values, expected 3", config.origin, key, values.size());
}

void read_steps(const Config& config, Normalization& steps) {
  steps.rescale = get_or(config.json, "do_rescale", steps.rescale, config.origin);
  steps.normalize = get_or(config.json, "do_normalize", steps.normalize, config.origin);
  steps.rescale_factor = get_or(config.json, "rescale_factor", steps.rescale_factor, config.origin);
  if (!(steps.rescale_factor > 0)) fail("{}: 'rescale_factor' must be positive", config.origin);
  read_channels(config, "image_mean", steps.mean);
  read_channels(config, "image_std", steps.std);
  if (std::any_of(steps.std.begin(), steps.std.end(), [](double value) { return !(value > 0); }))
    fail("{}: 'image_std' must be positive", config.origin);
}

void read_resample(const Config& config, ImageProcessor& p) {
  const int code = get_or(config.json, "resample", static_cast<int>(p.resample), config.origin);
  if (code < 1 || code > 3)
    fail("{}: 'resample' is {}: only 1 (lanczos), 2 (bilinear) and 3 (bicubic) are supported", config.origin,
         code);
  p.resample = static_cast<Resampling>(code);
}

/// Of most kinds do_pad pads the images of a batch to one size; these two pad the image itself.
void read_pad(const Config& config, ImageProcessor& p) {
  if (p.kind == Kind::llava) p.pad_square = get_or(config.json, "do_pad", false, config.origin);
  if ((p.kind == Kind::clip || p.kind == Kind::siglip) && get_or(config.json, "do_pad", false, config.origin))
    fail("{}: 'do_pad' is only supported for LlavaImageProcessor", config.origin);
}

/// What the reference class or the arithmetic here cannot do.
void check(const Config& config, const ImageProcessor& p) {
  const bool square_tiles = p.kind == Kind::phi4 || p.kind == Kind::mllama || p.kind == Kind::llama4;
  if (square_tiles && (p.resize_height == 0 || p.resize_height != p.resize_width))
    fail("{}: 'size' must be {{height, width}} with equal values", config.origin);
  if (p.kind == Kind::internvl && p.resize_height == 0)
    fail("{}: 'size' must be {{height, width}}", config.origin);
  if ((p.kind == Kind::mllama || p.kind == Kind::llama4) && !p.resize)
    fail("{}: 'do_resize' must be true", config.origin);
  if (p.kind == Kind::nemotron && (!p.steps.rescale || p.steps.normalize))
    fail("{}: 'do_rescale' must be true and 'do_normalize' false: the tower normalizes the pixels itself",
         config.origin);
  if (p.kind == Kind::llama4 && p.steps.normalize && !p.steps.rescale)
    fail("{}: 'do_normalize' needs 'do_rescale'", config.origin);
  if (p.kind == Kind::phi4 && p.resize_height % p.patch != 0)
    fail("{}: 'size' is no multiple of 'patch_size' ({})", config.origin, p.patch);
  if (p.kind == Kind::phi4 && p.resample == Resampling::lanczos)
    fail("{}: 'resample' must be 2 (bilinear) or 3 (bicubic)", config.origin);
}

ImageProcessor parse_config(const Config& config, ImageProfile profile) {
  if (!config.json.is_object()) fail("{}: not a JSON object", config.origin);
  ImageProcessor p = image_processor_defaults(read_kind(config));
  p.profile = available_profile(p.kind, profile);
  p.resize = get_or(config.json, "do_resize", p.resize, config.origin);
  read_steps(config, p.steps);
  read_resample(config, p);
  read_pad(config, p);
  if (p.kind == Kind::qwen2_vl) {
    read_patches(config, p);
  } else {
    read_size(config, p);
    read_crop(config, p);
  }
  if (p.kind == Kind::pixtral) read_pixtral_patch(config, p);
  if (p.kind == Kind::llava_next || p.kind == Kind::llava_onevision) read_pinpoints(config, p);
  read_tiles(config, p);
  check(config, p);
  return p;
}

ImageProcessor::Vila read_vila_mode(const Json& json, const std::string& origin) {
  using Vila = ImageProcessor::Vila;
  const auto name = get_or<std::string>(json, "image_aspect_ratio", "", origin);
  if (name == "resize") return Vila::resize;
  if (name == "pad") return Vila::pad;
  if (name == "dynamic") return Vila::dynamic;
  if (name == "dynamic_s2") return Vila::dynamic_s2;
  return Vila::plain;
}

/// "448,896,1344" → ascending numbers.
std::vector<int64_t> parse_scales(const std::string& text, const std::string& origin) {
  std::vector<int64_t> scales;
  for (size_t start = 0; start <= text.size();) {
    const size_t end = std::min(text.find(',', start), text.size());
    const std::string item = text.substr(start, end - start);
    const bool digits =
        !item.empty() && item.size() < 6 && item.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || std::stoll(item) == 0)
      fail("{}: 's2_scales' is '{}': expected numbers like 448,896,1344", origin, text.substr(0, 60));
    scales.push_back(std::stoll(item));
    start = end + 1;
  }
  std::sort(scales.begin(), scales.end());
  return scales;
}

constexpr const char* kVilaTower = "vision_tower";

bool is_vila(const fs::path& directory) {
  const fs::path tower = directory / kVilaTower;
  return fs::exists(tower / "config.json") || fs::exists(tower / "preprocessor_config.json");
}

/// What VILA's code makes for InternViT, whatever the files say.
ImageProcessor intern_processor() {
  ImageProcessor p;
  p.resize_height = p.resize_width = 448;
  p.steps.as_to_tensor = true;
  p.steps.mean = {0.485, 0.456, 0.406};
  p.steps.std = {0.229, 0.224, 0.225};
  return p;
}

ImageProcessor tower_processor(const fs::path& tower) {
  const fs::path config = tower / "config.json";
  if (fs::exists(config) &&
      get_or<std::string>(read_json(config), "model_type", "", config.string()) == kVilaInternTower)
    return intern_processor();
  const fs::path file = tower / "preprocessor_config.json";
  ImageProcessor p = parse_config({read_json(file), file.string()}, ImageProfile::pil);
  if (p.kind != Kind::clip && p.kind != Kind::siglip)
    fail("{}: VILA's towers have a CLIPImageProcessor or a SiglipImageProcessor", file.string());
  return p;
}

/// s2: the processor makes images of the largest scale.
void read_vila_s2(const Json& json, const std::string& origin, ImageProcessor& p) {
  p.scales = read_vila_scales(json, origin);
  p.tile_side = read_vila_tile(json, origin);
  const int64_t side = p.scales.back();
  if (p.resize_shortest > 0) {
    p.resize_shortest = side;
  } else {
    p.resize_height = p.resize_width = side;
  }
  if (p.crop_height > 0) p.crop_height = p.crop_width = side;
}

/// The tower's own processor, and the root's settings of what happens before it.
ImageProcessor load_vila(const fs::path& directory) {
  const fs::path tower = directory / kVilaTower;
  ImageProcessor p = tower_processor(tower);
  p.kind = Kind::vila;
  p.profile = available_profile(p.kind, ImageProfile::pil);
  const fs::path root = directory / "config.json";
  const Json json = read_json(root);
  p.vila = read_vila_mode(json, root.string());
  p.max_tiles = 12;
  take_in(json, "min_tiles", 1, kMaxTiles, root.string(), p.min_tiles);
  take_in(json, "max_tiles", 1, kMaxTiles, root.string(), p.max_tiles);
  if (p.vila == ImageProcessor::Vila::dynamic_s2) p.scales = read_vila_scales(json, root.string());
  if (get_or<bool>(json, "s2", false, root.string())) read_vila_s2(json, root.string(), p);
  if (p.vila != ImageProcessor::Vila::plain && p.vila != ImageProcessor::Vila::pad && p.crop_height == 0 &&
      p.resize_height == 0)
    fail("{}: 'size' must be {{height, width}}", tower.string());
  return p;
}

}  // namespace

std::vector<int64_t> read_vila_scales(const Json& config, const std::string& origin) {
  return parse_scales(require<std::string>(config, "s2_scales", origin), origin);
}

int64_t read_vila_tile(const Json& config, const std::string& origin) {
  const std::vector<int64_t> scales = read_vila_scales(config, origin);
  int64_t tile = scales.back();
  take_in(config, "s2_max_split_size", 1, kMaxSide, origin, tile);
  int64_t tiles = 0;
  for (const int64_t scale : scales) {
    if (scale % tile != 0)
      fail("{}: scale {} of 's2_scales' is no multiple of {} ('s2_max_split_size'), which is not supported",
           origin, scale, tile);
    tiles += scale / tile * (scale / tile);
  }
  if (tiles > kMaxTiles)
    fail("{}: the scales of 's2_scales' are {} tiles of {} pixels ('s2_max_split_size'), more than {}",
         origin, tiles, tile, kMaxTiles);
  return tile;
}

ImageProcessor ImageProcessor::load(const fs::path& directory, ImageProfile profile) {
  // Before the root's files: those that VILA has there configure its own code.
  if (is_vila(directory)) return load_vila(directory);
  return parse_config(read_config(directory), profile);
}

ImageProcessor ImageProcessor::parse(const Json& config, const std::string& origin, ImageProfile profile) {
  return parse_config({config, origin}, profile);
}

}  // namespace visq

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/inputs/image_processor.h"

namespace visq {
namespace {

namespace fs = std::filesystem;
using Kind = ImageProcessor::Kind;

constexpr int64_t kMaxSide = 65'500;
constexpr int64_t kMaxPatch = 256;

const std::vector<double> kClipMean{0.48145466, 0.4578275, 0.40821073};
const std::vector<double> kClipStd{0.26862954, 0.26130258, 0.27577711};
const std::vector<double> kHalf{0.5, 0.5, 0.5};

struct Config {
  Json json;
  std::string origin;
};

/// The settings nested in processor_config.json win over preprocessor_config.json.
Config read_config(const fs::path& directory) {
  const fs::path nested = directory / "processor_config.json";
  if (fs::exists(nested)) {
    const Json file = read_json(nested);
    if (file.is_object() && file.contains("image_processor"))
      return {file.at("image_processor"), nested.string() + ": image_processor"};
  }
  const fs::path plain = directory / "preprocessor_config.json";
  return {read_json(plain), plain.string()};
}

Kind read_kind(const Config& config) {
  auto type = get_or<std::string>(config.json, "image_processor_type", "", config.origin);
  if (type.empty()) {
    type = get_or<std::string>(config.json, "feature_extractor_type", "", config.origin);
    if (const auto at = type.find("FeatureExtractor"); at != std::string::npos)
      type.replace(at, std::string::npos, "ImageProcessor");
  }
  if (type.ends_with("Fast")) type.resize(type.size() - 4);
  if (type == "CLIPImageProcessor") return Kind::clip;
  if (type == "SiglipImageProcessor") return Kind::siglip;
  if (type == "LlavaImageProcessor") return Kind::llava;
  if (type == "Qwen2VLImageProcessor") return Kind::qwen2_vl;
  if (type.empty()) fail("{}: 'image_processor_type' is missing", config.origin);
  fail("{}: image processor '{}' is not supported", config.origin, type);
}

int64_t require_in(const Json& object, const std::string& key, int64_t low, int64_t high,
                   const std::string& origin) {
  const auto value = require<int64_t>(object, key, origin);
  if (value < low || value > high) fail("{}: '{}' is {}, outside {}..{}", origin, key, value, low, high);
  return value;
}

bool has_exactly(const Json& object, std::initializer_list<const char*> keys) {
  size_t present = 0;
  for (const auto& [key, value] : object.items()) present += !value.is_null();
  return present == keys.size() && std::all_of(keys.begin(), keys.end(), [&](const char* key) {
           return object.contains(key) && !object.at(key).is_null();
         });
}

bool is_set(const Json& object, const char* key) { return object.contains(key) && !object.at(key).is_null(); }

/// `size` of the fixed-size kinds: an integer (the short side), {shortest_edge} or {height, width}.
void read_size(const Config& config, ImageProcessor& p) {
  if (!is_set(config.json, "size")) return;
  const Json& size = config.json.at("size");
  const std::string origin = config.origin + ": size";
  p.resize_shortest = p.resize_height = p.resize_width = 0;
  if (size.is_number_integer()) {
    p.resize_shortest = require_in(config.json, "size", 1, kMaxSide, config.origin);
  } else if (size.is_object() && has_exactly(size, {"shortest_edge"})) {
    p.resize_shortest = require_in(size, "shortest_edge", 1, kMaxSide, origin);
  } else if (size.is_object() && has_exactly(size, {"height", "width"})) {
    p.resize_height = require_in(size, "height", 1, kMaxSide, origin);
    p.resize_width = require_in(size, "width", 1, kMaxSide, origin);
  } else {
    fail("{} is {}: expected {{shortest_edge}} or {{height, width}}", origin, size.dump().substr(0, 60));
  }
}

void read_crop(const Config& config, ImageProcessor& p) {
  if (!is_set(config.json, "crop_size")) return;
  const Json& size = config.json.at("crop_size");
  const std::string origin = config.origin + ": crop_size";
  if (size.is_number_integer()) {
    p.crop_height = p.crop_width = require_in(config.json, "crop_size", 1, kMaxSide, config.origin);
  } else if (size.is_object() && has_exactly(size, {"height", "width"})) {
    p.crop_height = require_in(size, "height", 1, kMaxSide, origin);
    p.crop_width = require_in(size, "width", 1, kMaxSide, origin);
  } else {
    fail("{} is {}: expected {{height, width}}", origin, size.dump().substr(0, 60));
  }
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

void read_channels(const Config& config, const char* key, std::vector<double>& values) {
  values = get_or(config.json, key, values, config.origin);
  if (values.size() != 3) fail("{}: '{}' has {} values, expected 3", config.origin, key, values.size());
}

/// What the reference classes assume where a file says nothing.
ImageProcessor defaults_of(Kind kind) {
  ImageProcessor p;
  p.kind = kind;
  p.mean = kind == Kind::siglip ? kHalf : kClipMean;
  p.std = kind == Kind::siglip ? kHalf : kClipStd;
  if (kind == Kind::clip || kind == Kind::llava) {
    p.crop = true;
    p.resize_shortest = p.crop_height = p.crop_width = 224;
  } else if (kind == Kind::siglip) {
    p.resize_height = p.resize_width = 224;
  } else {
    p.min_pixels = 56 * 56;
    p.max_pixels = 28 * 28 * 1280;
  }
  return p;
}

void read_patches(const Config& config, ImageProcessor& p) {
  const auto take = [&](const char* key, int64_t& value) {
    if (is_set(config.json, key)) value = require_in(config.json, key, 1, kMaxPatch, config.origin);
  };
  take("patch_size", p.patch);
  take("temporal_patch_size", p.temporal_patch);
  take("merge_size", p.merge);
}

}  // namespace

ImageProcessor ImageProcessor::load(const fs::path& directory) {
  const Config config = read_config(directory);
  if (!config.json.is_object()) fail("{}: not a JSON object", config.origin);
  ImageProcessor p = defaults_of(read_kind(config));
  const auto read_flag = [&](const char* key, bool& value) {
    value = get_or(config.json, key, value, config.origin);
  };
  read_flag("do_resize", p.resize);
  read_flag("do_rescale", p.rescale);
  read_flag("do_normalize", p.normalize);
  if (p.kind == Kind::llava) {
    read_flag("do_pad", p.pad_square);
  } else if (p.kind != Kind::qwen2_vl && get_or(config.json, "do_pad", false, config.origin)) {
    fail("{}: 'do_pad' is only supported for LlavaImageProcessor", config.origin);
  }
  if (p.kind != Kind::qwen2_vl) read_flag("do_center_crop", p.crop);

  p.resample = get_or(config.json, "resample", p.resample, config.origin);
  if (p.resample != 2 && p.resample != 3)
    fail("{}: 'resample' is {}: only 2 (bilinear) and 3 (bicubic) are supported", config.origin, p.resample);
  p.rescale_factor = get_or(config.json, "rescale_factor", p.rescale_factor, config.origin);
  if (!(p.rescale_factor > 0)) fail("{}: 'rescale_factor' must be positive", config.origin);
  read_channels(config, "image_mean", p.mean);
  read_channels(config, "image_std", p.std);
  if (std::any_of(p.std.begin(), p.std.end(), [](double value) { return !(value > 0); }))
    fail("{}: 'image_std' must be positive", config.origin);

  if (p.kind == Kind::qwen2_vl) {
    read_area(config, p);
    read_patches(config, p);
  } else {
    read_size(config, p);
    read_crop(config, p);
    if (p.crop && p.crop_height == 0) fail("{}: 'do_center_crop' needs 'crop_size'", config.origin);
  }
  return p;
}

}  // namespace visq

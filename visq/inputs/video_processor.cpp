#include "visq/inputs/video_processor.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/inputs/image.h"
#include "visq/inputs/image_kinds.h"

// Source: transformers 5.23, models/{qwen2_vl,qwen3_vl}/video_processing_*.py.

namespace visq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPerFrame = "Qwen2VLVideoProcessor";
constexpr const char* kPerVideo = "Qwen3VLVideoProcessor";

struct Config {
  Json json;
  std::string origin;
};

Config read_config(const fs::path& directory) {
  const fs::path whole = directory / "processor_config.json";
  if (fs::exists(whole)) {
    const Json json = read_json(whole);
    if (json.is_object() && json.contains("video_processor"))
      return {json.at("video_processor"), whole.string() + ": video_processor"};
  }
  fs::path file = directory / "video_preprocessor_config.json";
  if (!fs::exists(file)) file = directory / "preprocessor_config.json";
  return {read_json(file), file.string()};
}

/// A file that is older than video processors names an image processor: its twin is meant, if there is one.
std::string read_class(const Config& config, const std::string& otherwise) {
  const auto name = get_or<std::string>(config.json, "video_processor_type", "", config.origin);
  if (name == kPerFrame || name == kPerVideo) return name;
  if (!name.empty())
    fail("{}: video processor '{}' is not supported; supported are {} and {}", config.origin, name, kPerFrame,
         kPerVideo);
  const auto image = get_or<std::string>(config.json, "image_processor_type", "", config.origin);
  return image == "Qwen2VLImageProcessor" ? kPerFrame : otherwise;
}

/// The attributes of the class, as a file would say them.
Json defaults_of(const std::string& name) {
  if (name == kPerFrame)
    return {{"size", {{"shortest_edge", 128 * 28 * 28}, {"longest_edge", 768 * 28 * 28}}}};
  return {{"size", {{"shortest_edge", 128 * 32 * 32}, {"longest_edge", 768 * 32 * 32}}},
          {"patch_size", 16},
          {"image_mean", {0.5, 0.5, 0.5}},
          {"image_std", {0.5, 0.5, 0.5}}};
}

}  // namespace

VideoProcessor VideoProcessor::load(const fs::path& directory, const std::string& otherwise) {
  const Config config = read_config(directory);
  if (!config.json.is_object()) fail("{}: not a JSON object", config.origin);
  const std::string name = read_class(config, otherwise);
  if (get_or(config.json, "cap_pixels_per_frame", false, config.origin))
    fail("{}: 'cap_pixels_per_frame' is not supported; set it to false", config.origin);
  Json settings = defaults_of(name);
  for (const auto& [key, value] : config.json.items())
    if (!value.is_null()) settings[key] = value;
  if (name == kPerVideo)
    settings.erase("min_pixels"), settings.erase("max_pixels");  // which it does not know
  settings["image_processor_type"] = "Qwen2VLImageProcessor";
  VideoProcessor processor;
  processor.frame = ImageProcessor::parse(settings, config.origin);
  processor.all_frames = name == kPerVideo;
  return processor;
}

ImageSize VideoProcessor::target_size(ImageSize in, int64_t frames) const {
  const int64_t unit = frame.patch * frame.merge;
  ImageSize size = in;
  if (frame.resize && all_frames)
    size = smart_video_size(in, frames, frame.temporal_patch, unit, frame.min_pixels, frame.max_pixels);
  else if (frame.resize)
    size = smart_size(in, unit, frame.min_pixels, frame.max_pixels);
  if (size.height % unit != 0 || size.width % unit != 0)
    fail("a frame of {}x{} pixels is no multiple of {} and 'do_resize' is off", in.width, in.height, unit);
  if (size.area() > kMaxVideoPixels / frames)
    fail("{} frames of {}x{} pixels, resized to {}x{}, are more than a sample can hold: give fewer frames",
         frames, in.width, in.height, size.width, size.height);
  return size;
}

ProcessedImage VideoProcessor::process(const Video& video) const {
  std::vector<at::Tensor> frames;
  ImageSize original, target;
  for (const fs::path& path : video.frames) {
    const at::Tensor image = read_image(path);
    const ImageSize size = size_of(image);
    if (frames.empty()) {
      original = size;
      target = target_size(size, static_cast<int64_t>(video.frames.size()));
    } else if (size != original) {
      fail("{}: a frame of {}x{} pixels in a video whose first frame has {}x{}", path.string(), size.width,
           size.height, original.width, original.height);
    }
    frames.push_back(resized(frame, image, target));
  }
  while (static_cast<int64_t>(frames.size()) % frame.temporal_patch != 0) frames.push_back(frames.back());
  const at::Tensor pixels = normalized(at::stack(frames), frame.steps, frame.profile);
  ProcessedImage out{flattened_patches(pixels, frame.patch, frame.merge, frame.temporal_patch),
                     target.height / frame.patch, target.width / frame.patch};
  out.height = original.height;
  out.width = original.width;
  out.grid_t = static_cast<int64_t>(frames.size()) / frame.temporal_patch;
  out.frames = static_cast<int64_t>(video.frames.size());
  out.fps = video.fps;
  return out;
}

}  // namespace visq

// Frames of a video → the patches that the vision tower reads, as the checkpoint's
// video_preprocessor_config.json says.
#pragma once
#include <filesystem>
#include <string>

#include "visq/inputs/image_processor.h"
#include "visq/inputs/samples.h"

namespace visq {

/// Pixels of all frames of a video behind the resizing: what the token budget of a sample can hold.
inline constexpr int64_t kMaxVideoPixels = int64_t{1} << 26;

/// Equal bit for bit to Qwen2VLVideoProcessor and Qwen3VLVideoProcessor with do_sample_frames off: the frames
/// are those that the model shall see. The reference has one profile of these, with torchvision.
class VideoProcessor {
 public:
  /// Reads processor_config.json:video_processor, else video_preprocessor_config.json, else
  /// preprocessor_config.json.
  /// @param otherwise  class name, where the file names none that has a video processor of its own
  /// @throws Error for another class, or for settings that are not supported
  static VideoProcessor load(const std::filesystem::path& directory, const std::string& otherwise);

  /// Reads the frames, resizes all to one size, repeats the last until all steps in time are full.
  /// @param video  within its limits (check_video)
  /// @throws Error naming the file for a frame that cannot be read or has another size than the first; when
  /// the
  ///         video is too short, too large or of an extreme shape
  ProcessedImage process(const Video& video) const;

  ImageProcessor frame;     ///< Kind::qwen2_vl
  bool all_frames = false;  ///< the limits of pixels hold for all frames together, not for each

 private:
  ImageSize target_size(ImageSize in, int64_t frames) const;
};

}  // namespace visq

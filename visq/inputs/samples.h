// Calibration and evaluation data: JSON lines of chat messages with text, images and videos.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace visq {

/// Most frames of a video: what the reference's samplers give at most.
inline constexpr size_t kMaxFrames = 768;
/// Frames a second that the reference assumes of frames that come without a rate.
inline constexpr double kDefaultFps = 24;

/// A video is pictures in order: the frames that the model shall see, at their own rate.
struct Video {
  std::vector<std::filesystem::path> frames;  ///< 1..kMaxFrames; resolved as `ContentPart::image`
  double fps = kDefaultFps;                   ///< frames a second, within 0.001..1000
};

struct ContentPart {
  enum class Kind { text, image, video };
  Kind kind = Kind::text;
  std::string text = {};             ///< for Kind::text
  std::filesystem::path image = {};  ///< for Kind::image: resolved, inside the data file's folder
  Video video = {};                  ///< for Kind::video
};

struct Message {
  std::string role;  ///< "system", "user" or "assistant"
  std::vector<ContentPart> content;
};

struct Sample {
  std::vector<Message> messages;      ///< without the reference answer
  std::optional<std::string> answer;  ///< text of the last assistant turn, when that ends the conversation
  std::string category;               ///< empty when the line has none
  std::string origin;                 ///< "questions.jsonl:17"
  int64_t image_count() const;        ///< images and videos
};

/// @throws Error beginning with `origin` for a video outside the limits of Video
void check_video(const Video& video, const std::string& origin);

/// Reads one object a line: {"messages": [{"role", "content": string | [{"type":"text","text"} |
/// {"type":"image","image": path relative to the file} | {"type":"video","frames": such paths, "fps"?}]}],
/// "category"?}. Video files are not decoded.
/// @param limit  reads at most so many samples; 0: all
/// @throws Error naming file and line: no JSON, no messages, unknown role or part type, a video without
/// frames or
///         with too many, a path of an image or a frame that is absolute, leaves the folder (also by symbolic
///         link) or does not exist, a line longer than 16 MiB
std::vector<Sample> read_samples(const std::filesystem::path& file, int64_t limit = 0);

}  // namespace visq

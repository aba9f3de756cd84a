#include "visq/inputs/samples.h"

#include <fstream>
#include <system_error>

#include "visq/core/error.h"
#include "visq/core/json.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLineBytes = 16u << 20;

/// Reads up to the next newline without ever holding more than kMaxLineBytes. Returns false at the end of the
/// file.
bool read_line(std::istream& in, std::string& line, const std::string& origin) {
  line.clear();
  std::streambuf& buffer = *in.rdbuf();
  int c = buffer.sbumpc();
  if (c == std::char_traits<char>::eof()) return false;
  for (; c != std::char_traits<char>::eof() && c != '\n'; c = buffer.sbumpc()) {
    if (line.size() == kMaxLineBytes) fail("{}: the line is longer than {} MiB", origin, kMaxLineBytes >> 20);
    line.push_back(static_cast<char>(c));
  }
  return true;
}

bool is_blank(const std::string& line) { return line.find_first_not_of(" \t\r") == std::string::npos; }

/// Whether `path` lies in `folder`; both canonical, so symbolic links are already followed.
bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [end, rest] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end() && rest != path.end();
}

/// @param what  "image" or "frame", for errors
fs::path resolve_picture(const char* what, const std::string& name, const fs::path& folder,
                         const std::string& origin) {
  if (name.starts_with("http://") || name.starts_with("https://"))
    fail("{}: {} '{}' is a URL: download it and give a path relative to the data file", origin, what, name);
  if (name.empty() || name.find('\0') != std::string::npos)
    fail("{}: the path of an image or a frame is empty or malformed", origin);
  const fs::path path(name);
  if (path.is_absolute())
    fail("{}: {} '{}' is an absolute path: give it relative to the data file", origin, what, name);
  for (const fs::path& part : path)
    if (part == "..") fail("{}: {} '{}' leaves the folder of the data file", origin, what, name);
  std::error_code code;
  const fs::path resolved = fs::canonical(folder / path, code);
  if (code || !fs::is_regular_file(resolved, code)) fail("{}: {} '{}' does not exist", origin, what, name);
  if (!is_inside(resolved, folder))
    fail("{}: {} '{}' leaves the folder of the data file by a symbolic link", origin, what, name);
  return resolved;
}

ContentPart parse_video(const Json& part, const fs::path& folder, const std::string& origin) {
  if (!part.contains("frames"))
    fail(
        "{}: a video has no 'frames': video files are not decoded, so write the frames as pictures "
        "(ffmpeg -i video.mp4 -vf fps=2 frames/%04d.png) and list their paths",
        origin);
  ContentPart out{.kind = ContentPart::Kind::video};
  out.video.fps = get_or(part, "fps", kDefaultFps, origin);
  const auto names = require<std::vector<std::string>>(part, "frames", origin);
  out.video.frames.assign(names.begin(), names.end());
  check_video(out.video, origin);
  for (fs::path& frame : out.video.frames) frame = resolve_picture("frame", frame.string(), folder, origin);
  return out;
}

ContentPart parse_part(const Json& part, const fs::path& folder, const std::string& origin) {
  if (!part.is_object()) fail("{}: a content part is not an object", origin);
  const auto type = require<std::string>(part, "type", origin);
  if (type == "text") return {.text = require<std::string>(part, "text", origin)};
  if (type == "image") {
    const auto name = require<std::string>(part, "image", origin);
    return {.kind = ContentPart::Kind::image, .image = resolve_picture("image", name, folder, origin)};
  }
  if (type == "video") return parse_video(part, folder, origin);
  fail("{}: unknown content type '{}': expected 'text', 'image' or 'video'", origin, type);
}

Message parse_message(const Json& object, const fs::path& folder, const std::string& origin) {
  if (!object.is_object()) fail("{}: a message is not an object", origin);
  Message message{require<std::string>(object, "role", origin), {}};
  if (message.role != "system" && message.role != "user" && message.role != "assistant")
    fail("{}: unknown role '{}': expected 'system', 'user' or 'assistant'", origin, message.role);
  const auto content = object.find("content");
  if (content == object.end()) fail("{}: a message has no 'content'", origin);
  if (content->is_string()) {
    message.content.push_back({.text = content->get<std::string>()});
  } else if (content->is_array()) {
    for (const Json& part : *content) message.content.push_back(parse_part(part, folder, origin));
  } else {
    fail("{}: 'content' is neither a string nor a list", origin);
  }
  return message;
}

/// Moves a closing assistant turn from the messages to the answer: the model is asked to produce it.
void take_answer(Sample& sample) {
  if (sample.messages.back().role != "assistant") return;
  std::string answer;
  for (const ContentPart& part : sample.messages.back().content) {
    if (part.kind != ContentPart::Kind::text)
      fail("{}: the last assistant turn holds an image or a video", sample.origin);
    answer += part.text;
  }
  sample.messages.pop_back();
  sample.answer = std::move(answer);
}

Sample parse_sample(const std::string& line, const fs::path& folder, const std::string& origin) {
  const Json object = parse_json(line, origin);
  if (!object.is_object()) fail("{}: the line is not a JSON object", origin);
  const auto messages = object.find("messages");
  if (messages == object.end() || !messages->is_array() || messages->empty())
    fail("{}: 'messages' is missing or empty", origin);
  Sample sample;
  sample.origin = origin;
  sample.category = get_or<std::string>(object, "category", "", origin);
  for (const Json& message : *messages) sample.messages.push_back(parse_message(message, folder, origin));
  take_answer(sample);
  if (sample.messages.empty()) fail("{}: 'messages' holds nothing but an assistant turn", origin);
  return sample;
}

}  // namespace

int64_t Sample::image_count() const {
  int64_t count = 0;
  for (const Message& message : messages)
    for (const ContentPart& part : message.content) count += part.kind != ContentPart::Kind::text;
  return count;
}

void check_video(const Video& video, const std::string& origin) {
  if (video.frames.empty()) fail("{}: a video has no frames", origin);
  if (video.frames.size() > kMaxFrames)
    fail("{}: a video has {} frames, more than {}: leave some out", origin, video.frames.size(), kMaxFrames);
  if (!(video.fps >= 0.001 && video.fps <= 1000))
    fail("{}: 'fps' of a video is {}, outside 0.001..1000", origin, video.fps);
}

std::vector<Sample> read_samples(const fs::path& file, int64_t limit) {
  std::error_code code;
  if (!fs::is_regular_file(file, code)) fail("{}: no such file", file.string());
  std::ifstream in(file, std::ios::binary);
  if (!in) fail("{}: cannot be read", file.string());
  const fs::path folder = fs::canonical(fs::absolute(file).parent_path());
  const std::string name = file.filename().string();

  std::vector<Sample> samples;
  std::string line;
  for (int64_t number = 1; limit == 0 || static_cast<int64_t>(samples.size()) < limit; ++number) {
    const std::string origin = visq::format("{}:{}", name, number);
    if (!read_line(in, line, origin)) break;
    if (!is_blank(line)) samples.push_back(parse_sample(line, folder, origin));
  }
  return samples;
}

}  // namespace visq

// Calibration and evaluation data: JSON lines of chat messages with text and images.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace visq {

struct ContentPart {
  enum class Kind { text, image };
  Kind kind = Kind::text;
  std::string text;             ///< for Kind::text
  std::filesystem::path image;  ///< for Kind::image: resolved, inside the data file's folder
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
  int64_t image_count() const;
};

/// Reads one object a line: {"messages": [{"role", "content": string | [{"type":"text","text"} |
/// {"type":"image","image": path relative to the file}]}], "category"?}.
/// @param limit  reads at most so many samples; 0: all
/// @throws Error naming file and line: no JSON, no messages, unknown role or part type, an image path that is
///         absolute, leaves the folder (also by symbolic link) or does not exist, a line longer than 16 MiB
std::vector<Sample> read_samples(const std::filesystem::path& file, int64_t limit = 0);

}  // namespace visq

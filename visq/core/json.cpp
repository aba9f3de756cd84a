#include "visq/core/json.h"

#include <fstream>

namespace visq {

Json parse_json(std::string_view text, const std::string& origin) {
  try {
    return Json::parse(text, [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxJsonDepth) fail("{}: JSON nests deeper than {} levels", origin, kMaxJsonDepth);
      return true;
    });
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not valid JSON ({})", origin, e.what());
  }
}

std::string read_text(const std::filesystem::path& path, size_t max_bytes) {
  std::error_code code;
  if (!std::filesystem::is_regular_file(path, code)) fail("{}: no such file", path.string());
  const auto size = std::filesystem::file_size(path, code);
  if (code) fail("{}: {}", path.string(), code.message());
  if (size > max_bytes) fail("{}: {} bytes, more than the {} allowed", path.string(), size, max_bytes);
  std::ifstream in(path, std::ios::binary);
  std::string text(size, '\0');
  if (!in.read(text.data(), static_cast<std::streamsize>(size))) fail("{}: cannot be read", path.string());
  return text;
}

Json read_json(const std::filesystem::path& path, size_t max_bytes) {
  return parse_json(read_text(path, max_bytes), path.string());
}

}  // namespace visq

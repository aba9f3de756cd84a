#include "visq/core/json.h"

#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <type_traits>
#include <utility>

namespace visq {
namespace {

// Whether a value is of an integer type; the library itself would cut off fractions and high bits.
template <typename T>
bool holds_integer(const Json& value) {
  if (value.is_number_unsigned()) return std::in_range<T>(value.get<uint64_t>());
  if (value.is_number_integer()) return std::in_range<T>(value.get<int64_t>());
  constexpr double limit = std::numeric_limits<int32_t>::max();
  const double number = value.is_number_float() ? value.get<double>() : limit + 0.5;
  return std::abs(number) <= limit && number == std::trunc(number);
}

}  // namespace

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

std::string json_text(const Json& value, int indent) { return value.dump(indent); }

std::string json_excerpt(const Json& value) { return json_text(value).substr(0, 60); }

template <typename T>
T get_or(const Json& object, const std::string& key, T fallback, const std::string& origin) {
  if (!object.is_object()) return fallback;
  const auto it = object.find(key);
  if (it == object.end() || it->is_null()) return fallback;
  try {
    if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
      if (holds_integer<T>(*it)) return it->template get<T>();
    } else {
      return it->template get<T>();
    }
  } catch (const nlohmann::json::exception&) {
  }
  fail("{}: '{}' has an unexpected type: {}", origin, key, json_excerpt(*it));
}

template <typename T>
T require(const Json& object, const std::string& key, const std::string& origin) {
  if (!object.is_object() || !object.contains(key) || object.at(key).is_null())
    fail("{}: '{}' is missing", origin, key);
  return get_or<T>(object, key, T{}, origin);
}

#define VISQ_JSON_TYPE(...)                                                                      \
  template __VA_ARGS__ get_or(const Json&, const std::string&, __VA_ARGS__, const std::string&); \
  template __VA_ARGS__ require<__VA_ARGS__>(const Json&, const std::string&, const std::string&)
VISQ_JSON_TYPE(bool);
VISQ_JSON_TYPE(int);
VISQ_JSON_TYPE(int64_t);
VISQ_JSON_TYPE(double);
VISQ_JSON_TYPE(std::string);
VISQ_JSON_TYPE(Json);
VISQ_JSON_TYPE(std::vector<int64_t>);
VISQ_JSON_TYPE(std::vector<double>);
VISQ_JSON_TYPE(std::vector<std::string>);
VISQ_JSON_TYPE(std::vector<Json>);
VISQ_JSON_TYPE(std::vector<std::vector<int64_t>>);
#undef VISQ_JSON_TYPE

int64_t require_count(const Json& object, const std::string& key, const std::string& origin) {
  const auto value = require<int64_t>(object, key, origin);
  if (value < 0 || value > int64_t{1} << 40) fail("{}: '{}' is {}", origin, key, value);
  return value;
}

}  // namespace visq

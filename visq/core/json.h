// JSON from untrusted files: bounded size and depth, typed access whose errors name the file and the key.
#pragma once
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "visq/core/error.h"

namespace visq {

/// Keeps the order of keys, so that a file that is read, extended and written stays readable.
using Json = nlohmann::ordered_json;

inline constexpr size_t kMaxConfigBytes = 4u << 20;
inline constexpr size_t kMaxTokenizerBytes = 200u << 20;
inline constexpr int kMaxJsonDepth = 64;

/// @throws Error naming `origin` when `text` is not JSON or nests deeper than kMaxJsonDepth
Json parse_json(std::string_view text, const std::string& origin);

/// @throws Error when the file is missing, larger than `max_bytes`, or not JSON
std::string read_text(const std::filesystem::path& path, size_t max_bytes);
Json read_json(const std::filesystem::path& path, size_t max_bytes = kMaxConfigBytes);

/// @param indent  spaces a level; −1: all in one line
std::string json_text(const Json& value, int indent = -1);
/// The beginning of it, for errors.
std::string json_excerpt(const Json& value);

// Defined for bool, int, int64_t, double, std::string, Json and lists of the latter five and of lists of
// int64_t (json.cpp): compiled there once, because the JSON library is most of a small file's compile time.

/// The value of `key`, or `fallback` when the key is absent or null.
/// @throws Error naming `origin` and the key when the value has another type; an integer may be written
/// as 3.0, not 3.5
template <typename T>
T get_or(const Json& object, const std::string& key, T fallback, const std::string& origin);

/// The value of `key`. @throws Error naming `origin` and the key when it is absent, null or of another type
template <typename T>
T require(const Json& object, const std::string& key, const std::string& origin);

/// A number of things. @throws Error when it is negative or beyond 2^40 as well
int64_t require_count(const Json& object, const std::string& key, const std::string& origin);

}  // namespace visq

// Internal to visq/inputs: the bijection between bytes and printable characters of byte-level BPE.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace visq {

std::string to_byte_level(std::string_view bytes);

/// Nothing when a character stands for no byte.
std::optional<std::string> from_byte_level(std::string_view text);

}  // namespace visq

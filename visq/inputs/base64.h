// Internal to visq/inputs: bytes written as text.
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace visq {

/// The bytes of RFC 4648's base64 with its padding; nothing when `text` is malformed.
std::optional<std::string> from_base64(std::string_view text);

}  // namespace visq

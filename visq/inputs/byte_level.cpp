#include "visq/inputs/byte_level.h"

#include <array>

#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr char32_t kFirstStandIn = 0x100;

constexpr bool is_printable(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

/// Printable bytes stand for themselves, the others take U+0100 and on, in order.
constexpr std::array<char32_t, 256> kCharOfByte = [] {
  std::array<char32_t, 256> table{};
  char32_t next = kFirstStandIn;
  for (int byte = 0; byte < 256; ++byte)
    table[byte] = is_printable(byte) ? static_cast<char32_t>(byte) : next++;
  return table;
}();

constexpr std::array<int, 0x144> kByteOfChar = [] {
  std::array<int, 0x144> table{};
  table.fill(-1);
  for (int byte = 0; byte < 256; ++byte) table[kCharOfByte[byte]] = byte;
  return table;
}();

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char byte : bytes) append_utf8(out, kCharOfByte[static_cast<unsigned char>(byte)]);
  return out;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_char(text, i);
    if (c >= kByteOfChar.size() || kByteOfChar[c] < 0) return std::nullopt;
    out.push_back(static_cast<char>(kByteOfChar[c]));
  }
  return out;
}

}  // namespace visq

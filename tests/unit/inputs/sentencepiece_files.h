// Builds tokenizer.model files for the tests.
#pragma once
#include <cstdint>
#include <string>

namespace visq::test {

inline std::string varint(uint64_t value) {
  std::string out;
  for (; value > 0x7F; value >>= 7) out.push_back(static_cast<char>((value & 0x7F) | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

inline std::string number(uint32_t field, int64_t value) {
  return varint(field << 3) + varint(static_cast<uint64_t>(value));
}

inline std::string block(uint32_t field, const std::string& bytes) {
  return varint(field << 3 | 2) + varint(bytes.size()) + bytes;
}

/// @param type  1 normal, 2 unknown, 3 control, 4 user-defined, 6 byte
inline std::string piece(const std::string& text, int64_t type = 1) {
  const std::string score = varint(2 << 3 | 5) + std::string(4, '\x7F');
  return block(1, block(1, text) + score + number(3, type));
}

inline std::string trainer_spec(const std::string& fields) { return block(2, fields); }

}  // namespace visq::test

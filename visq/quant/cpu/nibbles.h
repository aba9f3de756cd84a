// Eight 4-bit codes, one a byte or eight a 32-bit word. Little-endian: column 0 is the lowest byte and the
// lowest nibble.
#pragma once
#include <bit>
#include <cstdint>

namespace visq {

static_assert(std::endian::native == std::endian::little, "checkpoint tensors are little-endian");

/// @param bytes  eight codes; the high nibble of each byte is zero
inline uint32_t join_nibbles(uint64_t bytes) {
  uint64_t x = (bytes | bytes >> 4) & 0x00FF00FF00FF00FF;
  x = (x | x >> 8) & 0x0000FFFF0000FFFF;
  return static_cast<uint32_t>(x | x >> 16);
}

inline uint64_t split_nibbles(uint32_t word) {
  uint64_t x = word;
  x = (x | x << 16) & 0x0000FFFF0000FFFF;
  x = (x | x << 8) & 0x00FF00FF00FF00FF;
  return (x | x << 4) & 0x0F0F0F0F0F0F0F0F;
}

}  // namespace visq

// Codes of 4 and 6 bits, one a byte or without gaps. Little-endian: column 0 is the lowest byte and the
// lowest bits.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace visq {

static_assert(std::endian::native == std::endian::little, "checkpoint tensors are little-endian");

/// Eight 4-bit codes. @param bytes  the high nibble of each is zero
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

/// Four 6-bit codes in the low 24 bits. @param bytes  the two high bits of each are zero
inline uint32_t join_sixes(uint32_t bytes) {
  return (bytes & 0x3F) | (bytes >> 2 & 0xFC0) | (bytes >> 4 & 0x3F000) | (bytes >> 6 & 0xFC0000);
}

inline uint32_t split_sixes(uint32_t word) {
  return (word & 0x3F) | (word & 0xFC0) << 2 | (word & 0x3F000) << 4 | (word & 0xFC0000) << 6;
}

/// n codes, one a byte → n · kBits / 8 bytes. @param n  multiple of 8
template <int kBits>
void join_codes(const uint8_t* bytes, int64_t n, uint8_t* packed) {
  static_assert(kBits == 4 || kBits == 6 || kBits == 8);
  if constexpr (kBits == 8) std::memcpy(packed, bytes, static_cast<size_t>(n));
  if constexpr (kBits == 4)
    for (int64_t i = 0; i < n; i += 8) {
      uint64_t eight;
      std::memcpy(&eight, bytes + i, sizeof(eight));
      const uint32_t word = join_nibbles(eight);
      std::memcpy(packed + i / 2, &word, sizeof(word));
    }
  if constexpr (kBits == 6)
    for (int64_t i = 0; i < n; i += 4) {
      uint32_t four;
      std::memcpy(&four, bytes + i, sizeof(four));
      const uint32_t word = join_sixes(four);
      std::memcpy(packed + i / 4 * 3, &word, 3);
    }
}

/// And back.
template <int kBits>
void split_codes(const uint8_t* packed, int64_t n, uint8_t* bytes) {
  static_assert(kBits == 4 || kBits == 6 || kBits == 8);
  if constexpr (kBits == 8) std::memcpy(bytes, packed, static_cast<size_t>(n));
  if constexpr (kBits == 4)
    for (int64_t i = 0; i < n; i += 8) {
      uint32_t word;
      std::memcpy(&word, packed + i / 2, sizeof(word));
      const uint64_t eight = split_nibbles(word);
      std::memcpy(bytes + i, &eight, sizeof(eight));
    }
  if constexpr (kBits == 6)
    for (int64_t i = 0; i < n; i += 4) {
      uint32_t word = 0;
      std::memcpy(&word, packed + i / 4 * 3, 3);
      const uint32_t four = split_sixes(word);
      std::memcpy(bytes + i, &four, sizeof(four));
    }
}

}  // namespace visq

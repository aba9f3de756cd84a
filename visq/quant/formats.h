// Number formats: their names and what their codes and scales are made of.
#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>

namespace visq {

/// A number format, and which values share a scale: fp8_e4m3 all of the matrix, fp8_rows a row, fp8_blocks a
/// block of 128 × 128, int8 a row or a block of one, the others a block of a row. int4_asym is int4 with a
/// zero point a block. nf4 has 16 levels at quantiles of the normal distribution, and scales that are coded
/// themselves. The MX formats (OCP Microscaling) share a power of two and differ in their elements: mxfp4
/// E2M1, mxfp6 E3M2, mxfp8 E4M3, mxint8 integers.
enum class Codec {
  fp8_e4m3,
  fp8_rows,
  fp8_blocks,
  int8,
  int4,
  int4_asym,
  nf4,
  nvfp4,
  mxfp4,
  mxfp6,
  mxfp8,
  mxint8
};
const char* codec_name(Codec codec);
inline bool is_mx(Codec codec) { return codec >= Codec::mxfp4; }

inline constexpr float kFp8Max = 448.0f;
inline constexpr float kNvfp4Max = 6.0f * 448.0f;
inline constexpr int64_t kNvfp4Block = 16;
inline constexpr int64_t kMxBlock = 32;
inline constexpr int64_t kNf4Block = 64;
inline constexpr int64_t kNf4NestedBlock = 256;  ///< scales of nf4 that share a scale
inline constexpr int64_t kFp8Block = 128;        ///< rows and columns of a block of fp8_blocks

/// Largest element of an MX format: 6, 28, 448, 127.
float mx_max(Codec codec);
/// Bits of an element of an MX format, and the type of its codes' tensor.
int64_t mx_bits(Codec codec);
at::ScalarType mx_dtype(Codec codec);

}  // namespace visq

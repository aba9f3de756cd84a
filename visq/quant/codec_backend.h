// What a device must be able to do for the codecs: the kernels behind quant/codec.h. The CPU's are
// quant/cpu/codec_cpu.cpp, every other device's are the ATen expressions of quant/codec_aten.cpp (which also
// run on the CPU); equal inputs give equal bytes. Arguments have been checked by codec.cpp: contiguous, f32,
// bf16 or f16, shapes that divide.
#pragma once
#include <ATen/core/Tensor.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "visq/quant/formats.h"

namespace visq {

struct PackedTensor;

struct EncodedMatrix {
  at::Tensor codes, scale;
  bool finite = true;  ///< false: the weight holds a NaN or an infinity, and codes and scale mean nothing
  at::Tensor zero_point = {}, scale_2 = {};  ///< as PackedTensor has them, of the formats that have them
};

struct CodecBackend {
  /// Largest |x|; 0 when `x` is empty; a NaN or an infinity when `x` holds one.
  float (*absolute_maximum)(const at::Tensor& x);

  at::Tensor (*encode_fp8)(const at::Tensor& weight, float scale);
  /// Blocks of block_rows × block_columns share a scale; those at the lower and right edge may be smaller.
  /// scale: f32 [row blocks, column blocks]
  EncodedMatrix (*encode_fp8_blocks)(const at::Tensor& weight, int64_t block_rows, int64_t block_columns,
                                     at::ScalarType scale_dtype);
  /// @param code_max  127 or 7: codes are clamped to [−code_max − 1, code_max]; scale: f32 [rows, columns /
  /// block]
  EncodedMatrix (*encode_int)(const at::Tensor& weight, int64_t block, int code_max,
                              at::ScalarType scale_dtype);
  /// Between −8 and 7, with a zero point for every block.
  EncodedMatrix (*encode_int4_asym)(const at::Tensor& weight, int64_t block, at::ScalarType scale_dtype);
  EncodedMatrix (*encode_nvfp4)(const at::Tensor& weight, int64_t block, float scale_2);
  EncodedMatrix (*encode_mx)(const at::Tensor& weight, Codec codec);

  at::Tensor (*decode_fp8)(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype);
  at::Tensor (*decode_fp8_blocks)(const at::Tensor& codes, const at::Tensor& scale, int64_t block_rows,
                                  int64_t block_columns, at::ScalarType dtype);
  /// @param scale  f32 [rows] or [rows, blocks]
  at::Tensor (*decode_int)(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype);
  at::Tensor (*decode_nvfp4)(const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& scale_2,
                             at::ScalarType dtype);
  at::Tensor (*decode_mx)(const at::Tensor& codes, const at::Tensor& scale, Codec codec,
                          at::ScalarType dtype);

  at::Tensor (*simulate_fp8)(const at::Tensor& x, float scale);
  /// @param x  [..., columns]: one scale for each of the leading indices
  at::Tensor (*simulate_fp8_tokens)(const at::Tensor& x);
  at::Tensor (*simulate_int8)(const at::Tensor& x, float scale);
  at::Tensor (*simulate_int8_tokens)(const at::Tensor& x);  ///< likewise
  at::Tensor (*simulate_nvfp4)(const at::Tensor& x, float scale);
  at::Tensor (*simulate_mx)(const at::Tensor& x, Codec codec);

  at::Tensor (*int4_to_row_pairs)(const at::Tensor& codes);
  at::Tensor (*int4_from_row_pairs)(const at::Tensor& bytes);
  at::Tensor (*int4_to_words)(const at::Tensor& codes);
  at::Tensor (*int4_from_words)(const at::Tensor& words);
};

/// The nearest E2M1 number of each value. f32 → f32
at::Tensor nearest_fp4(const at::Tensor& x);
/// The codes of the nearest E2M1 numbers, two a byte, even column in the low nibble.
/// f32 [rows, columns] → uint8 [rows, columns / 2]
at::Tensor pack_fp4(const at::Tensor& x);

/// NF4 on any device (codec_nf4.cpp). decode_nf4: columns are a multiple of 64.
EncodedMatrix encode_nf4(const at::Tensor& weight);
at::Tensor decode_nf4(const PackedTensor& packed, at::ScalarType dtype);
/// f32 [rows, columns / 64]: what the levels of each block are multiplied by.
at::Tensor nf4_magnitudes(const PackedTensor& packed);
/// f32 → the nearest levels, likewise; → their codes, two to a byte, [rows, columns / 2].
at::Tensor nearest_nf4(const at::Tensor& values);
at::Tensor pack_nf4_codes(const at::Tensor& values);

const CodecBackend& cpu_codecs();
const CodecBackend& aten_codecs();

/// An amax below this counts as this, so that no scale underflows to zero (ModelOpt: `export_amax`,
/// spec/quantization.md §5.7). The smallest normal number, 2^-126.
inline constexpr float kSmallestAmax = std::numeric_limits<float>::min();

/// The positive numbers of a dtype that a scale may be stored in.
struct ScaleRange {
  float smallest, largest;
};
inline ScaleRange scale_range(at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return {0x1p-24f, 65504.0f};
    case at::kBFloat16:
      return {0x1p-133f, 0x1.FEp+127f};
    default:
      return {std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max()};
  }
}

/// amax / code_max, rounded to a value of `dtype`; 1 when amax is 0.
inline float scale_for(float amax, float code_max, at::ScalarType dtype) {
  if (amax == 0.0f) return 1.0f;
  const ScaleRange range = scale_range(dtype);
  const float scale = std::clamp(std::max(amax, kSmallestAmax) / code_max, range.smallest, range.largest);
  if (dtype == at::kHalf) return c10::Half(scale);
  if (dtype == at::kBFloat16) return c10::BFloat16(scale);
  return scale;
}

/// Of a block of int4_asym that reaches from `low` ≤ 0 to `high` ≥ 0. One that reaches so far that a rounded
/// end could be beyond the largest float is coded as int4 is.
inline constexpr float kLargestRange = 0x1p127f;
struct ZeroPoint {
  float scale, zero;
};
inline ZeroPoint zero_point_for(float low, float high, at::ScalarType dtype) {
  const float range = high - low;
  if (range >= kLargestRange) return {scale_for(std::max(high, -low), 7.0f, dtype), 0.0f};
  const float scale = scale_for(range, 15.0f, dtype);
  return {scale, std::clamp(std::nearbyint(-8.0f - low / scale), -8.0f, 7.0f)};
}

}  // namespace visq

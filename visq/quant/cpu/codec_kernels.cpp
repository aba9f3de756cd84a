// Compiled once for every vector width below; the first call picks the widest one that this CPU has.
#include "visq/quant/cpu/codec_kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <type_traits>

#include "visq/quant/codec_backend.h"
#include "visq/quant/cpu/nibbles.h"

// AVX-512, AVX2 and the portable fallback (x86), NEON (Arm): what lies between costs compile time and serves
// no machine that runs these models.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "visq/quant/cpu/codec_kernels.cpp"
#include <hwy/foreach_target.h>
// clang-format off: must come after foreach_target.h
#include <hwy/highway.h>
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace visq::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: an NVFP4 block is a whole number of vectors on every target.
using D = hn::CappedTag<float, 16>;
using DI = hn::Rebind<int32_t, D>;
using DU = hn::Rebind<uint32_t, D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
constexpr D d;
constexpr DI di;
constexpr DU du;
constexpr int64_t kBlock = 16;
constexpr int64_t kMostLanes = 16;

int64_t lanes() { return static_cast<int64_t>(hn::Lanes(d)); }

// Loads to f32, stores from f32.

HWY_INLINE VI bits_of(V v) { return hn::BitCast(di, v); }
HWY_INLINE V from_bits(VI v) { return hn::BitCast(d, v); }
HWY_INLINE VI magnitude_bits(V v) { return hn::And(bits_of(v), hn::Set(di, 0x7FFFFFFF)); }
HWY_INLINE VI sign_bits(V v) { return hn::AndNot(hn::Set(di, 0x7FFFFFFF), bits_of(v)); }

template <class T>
HWY_INLINE VI load_16_bits(const T* p) {
  const hn::Rebind<uint16_t, D> d16;
  return hn::BitCast(di, hn::PromoteTo(du, hn::LoadU(d16, reinterpret_cast<const uint16_t*>(p))));
}

template <class T>
HWY_INLINE void store_16_bits(VI v, T* p) {
  const hn::Rebind<uint16_t, D> d16;
  hn::StoreU(hn::TruncateTo(d16, hn::BitCast(du, v)), d16, reinterpret_cast<uint16_t*>(p));
}

HWY_INLINE V load(const float* p) { return hn::LoadU(d, p); }
HWY_INLINE V load(const c10::BFloat16* p) { return from_bits(hn::ShiftLeft<16>(load_16_bits(p))); }
HWY_INLINE V load(const c10::Half* p) {
  const VI h = load_16_bits(p);
  const VI exponent = hn::And(h, hn::Set(di, 0x7C00));
  // Move exponent and mantissa into place and correct the bias: 127 − 15.
  const VI normal = hn::Add(hn::ShiftLeft<13>(hn::And(h, hn::Set(di, 0x7FFF))), hn::Set(di, 112 << 23));
  // Subnormal: the mantissa under the exponent 2^-14, minus the leading 1 that it does not have.
  const V subnormal = hn::Sub(from_bits(hn::Add(normal, hn::Set(di, 1 << 23))), hn::Set(d, 0x1p-14f));
  const VI not_finite = hn::Add(normal, hn::Set(di, 112 << 23));
  VI magnitude = hn::IfThenElse(hn::Eq(exponent, hn::Zero(di)), bits_of(subnormal), normal);
  magnitude = hn::IfThenElse(hn::Eq(exponent, hn::Set(di, 0x7C00)), not_finite, magnitude);
  return from_bits(hn::Or(magnitude, hn::ShiftLeft<16>(hn::And(h, hn::Set(di, 0x8000)))));
}

HWY_INLINE void store(V v, float* p) { hn::StoreU(v, d, p); }
HWY_INLINE void store(V v, c10::BFloat16* p) {
  const VU bits = hn::BitCast(du, v);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const VU rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu)));  // half to even
  const VU nan = hn::Or(bits, hn::Set(du, 0x400000u));                   // rounding could carry out of a NaN
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  store_16_bits(hn::BitCast(di, hn::ShiftRight<16>(hn::IfThenElse(is_nan, nan, rounded))), p);
}
HWY_INLINE void store(V v, c10::Half* p) {
  const VI a = magnitude_bits(v);
  const VI odd = hn::And(hn::ShiftRight<13>(a), hn::Set(di, 1));
  const VI rebiased = hn::Sub(hn::Add(a, hn::Add(odd, hn::Set(di, 0xFFF))), hn::Set(di, 112 << 23));
  const VI normal = hn::ShiftRight<13>(rebiased);  // half to even
  // Below 2^-14: an addition rounds to a multiple of 2^-24, the ulp of 1/2.
  const VI half = bits_of(hn::Set(d, 0.5f));
  const VI subnormal = hn::Sub(bits_of(hn::Add(from_bits(a), from_bits(half))), half);
  VI h = hn::IfThenElse(hn::Lt(a, hn::Set(di, 113 << 23)), subnormal, normal);
  h = hn::IfThenElse(hn::Gt(a, hn::Set(di, (143 << 23) - 1)), hn::Set(di, 0x7C00), h);  // from 2^16 on
  h = hn::IfThenElse(hn::Gt(a, hn::Set(di, 0x7F800000)), hn::Set(di, 0x7E00), h);
  const VI sign = hn::BitCast(di, hn::ShiftRight<16>(hn::BitCast(du, sign_bits(v))));
  store_16_bits(hn::Or(h, sign), p);
}

HWY_INLINE VI load_bytes(const uint8_t* p) {
  return hn::PromoteTo(di, hn::LoadU(hn::Rebind<uint8_t, D>(), p));
}
HWY_INLINE VI load_bytes(const int8_t* p) { return hn::PromoteTo(di, hn::LoadU(hn::Rebind<int8_t, D>(), p)); }
HWY_INLINE VI load(const uint8_t* p) { return load_bytes(p); }
HWY_INLINE VI load(const int8_t* p) { return load_bytes(p); }
/// The low byte of each lane.
template <class Byte>
HWY_INLINE void store(VI v, Byte* p) {
  static_assert(sizeof(Byte) == 1);
  const hn::Rebind<uint8_t, D> d8;
  hn::StoreU(hn::TruncateTo(d8, hn::BitCast(du, v)), d8, reinterpret_cast<uint8_t*>(p));
}

/// out[i] = step(in[i]); the tail goes through a padded copy, so nothing beyond the n elements is touched.
template <class In, class Out, class Step>
HWY_INLINE void transform(const In* in, int64_t n, Out* out, const Step& step) {
  const int64_t width = lanes();
  int64_t i = 0;
  for (; i + width <= n; i += width) store(step(load(in + i)), out + i);
  if (i >= n) return;
  In padded_in[kMostLanes] = {};
  Out padded_out[kMostLanes];
  std::memcpy(padded_in, in + i, static_cast<size_t>(n - i) * sizeof(In));
  store(step(load(padded_in)), padded_out);
  std::memcpy(out + i, padded_out, static_cast<size_t>(n - i) * sizeof(Out));
}

/// Calls `body` with `x` as a pointer to numbers of `dtype`.
template <class Body>
HWY_INLINE void with_type(at::ScalarType dtype, const void* x, const Body& body) {
  if (dtype == at::kBFloat16) return body(static_cast<const c10::BFloat16*>(x));
  if (dtype == at::kHalf) return body(static_cast<const c10::Half*>(x));
  body(static_cast<const float*>(x));
}
template <class Body>
HWY_INLINE void with_type(at::ScalarType dtype, void* x, const Body& body) {
  if (dtype == at::kBFloat16) return body(static_cast<c10::BFloat16*>(x));
  if (dtype == at::kHalf) return body(static_cast<c10::Half*>(x));
  body(static_cast<float*>(x));
}

// Small floating-point formats.

/// kMantissa stored mantissa bits, smallest normal number 2^kExponent, largest number kMax.
template <int kMantissa, int kExponent, int kMax>
struct Format {
  static constexpr int mantissa = kMantissa, exponent = kExponent, max = kMax;
};
using E4M3 = Format<3, -6, 448>;
using E2M1 = Format<1, 0, 6>;

struct Rounded {
  VI code;  ///< without sign
  V value;  ///< the absolute value that the code stands for
};

/// |v| to the nearest number of the format, ties to even, saturating (also NaN). Adding the power of two
/// whose ulp is the format's step at |v| lets the adder round; the low bits of the sum count steps.
template <class F>
HWY_INLINE Rounded round_to(V v) {
  constexpr int kShift = 23 - F::mantissa;
  const VI max = bits_of(hn::Set(d, static_cast<float>(F::max)));
  const VI smallest_exponent = hn::Set(di, (F::exponent + 127) << 23);
  const VI a = hn::Min(magnitude_bits(v), max);
  const VI exponent = hn::Max(hn::And(a, hn::Set(di, 0x7F800000)), smallest_exponent);
  const VI magic = hn::Add(exponent, hn::Set(di, kShift << 23));
  const V sum = hn::Add(from_bits(a), from_bits(magic));
  const VI steps = hn::Sub(bits_of(sum), magic);
  const VI first_code = hn::ShiftRight<kShift>(hn::Sub(exponent, smallest_exponent));
  return {hn::Add(first_code, steps), hn::Sub(sum, from_bits(magic))};
}

/// The absolute value of a code without sign. No f32 denormal takes part, whatever the CPU does with those.
template <class F>
HWY_INLINE V value_of(VI code) {
  constexpr int kShift = 23 - F::mantissa;
  const VI normal = hn::Add(hn::ShiftLeft<kShift>(code), hn::Set(di, (F::exponent + 126) << 23));
  const V subnormal = hn::Sub(from_bits(hn::Add(normal, hn::Set(di, 1 << 23))),
                              from_bits(hn::Set(di, (F::exponent + 127) << 23)));
  const auto is_subnormal = hn::Lt(code, hn::Set(di, 1 << F::mantissa));
  return from_bits(hn::IfThenElse(is_subnormal, bits_of(subnormal), normal));
}

HWY_INLINE V with_sign(V magnitude, VI sign) { return from_bits(hn::Or(bits_of(magnitude), sign)); }
HWY_INLINE V keep_nan(V v, V result) { return hn::IfThenElse(hn::IsNaN(v), v, result); }

template <int kBit>
HWY_INLINE VI sign_at(VI sign) {  // from bit 31
  return hn::BitCast(di, hn::ShiftRight<31 - kBit>(hn::BitCast(du, sign)));
}

HWY_INLINE VI fp8_code(V v) { return hn::Or(round_to<E4M3>(v).code, sign_at<7>(sign_bits(v))); }
HWY_INLINE V fp8_value(VI code) {
  const VI magnitude = hn::And(code, hn::Set(di, 0x7F));
  const VI nan = hn::Set(di, 0x7FC00000);
  const VI value =
      hn::IfThenElse(hn::Eq(magnitude, hn::Set(di, 0x7F)), nan, bits_of(value_of<E4M3>(magnitude)));
  return with_sign(from_bits(value), hn::ShiftLeft<24>(hn::And(code, hn::Set(di, 0x80))));
}

/// The sign of v < 0: adding 0 makes −0 positive (spec/quantization.md §1.2).
HWY_INLINE VI fp4_sign(V v) { return sign_bits(hn::Add(v, hn::Zero(d))); }

/// To the nearest integer of [low, high], ties to even. Beside 1.5·2^23 the ulp is 1, and the low byte of the
/// sum is the integer's two's complement.
constexpr float kIntMagic = 0x1.8p23f;
HWY_INLINE V round_to_int(V v, float low, float high) {
  return hn::Add(hn::Min(hn::Max(v, hn::Set(d, low)), hn::Set(d, high)), hn::Set(d, kIntMagic));
}

template <class T>
HWY_INLINE float largest_magnitude(const T* x, int64_t n) {
  const int64_t width = lanes();
  VI largest = hn::Zero(di);  // of f32 bit patterns: NaN > infinity > numbers
  int64_t i = 0;
  for (; i + width <= n; i += width) largest = hn::Max(largest, magnitude_bits(load(x + i)));
  if (i < n) {
    T padded[kMostLanes] = {};
    std::memcpy(padded, x + i, static_cast<size_t>(n - i) * sizeof(T));
    largest = hn::Max(largest, magnitude_bits(load(padded)));
  }
  return std::bit_cast<float>(hn::GetLane(hn::MaxOfLanes(di, largest)));
}

// NVFP4.

/// What up to 16 neighbouring blocks of 16 values are divided by, computed together.
struct BlockScales {
  float divisor[16];  ///< f32(block scale) · scale_2; NaN when the block holds one
  uint8_t code[16];   ///< the block scale, E4M3
};

template <class T>
HWY_INLINE void scale_blocks(const T* x, int64_t blocks, float scale_2, BlockScales& scales) {
  float magnitude[16] = {};
  for (int64_t b = 0; b < blocks; ++b) magnitude[b] = largest_magnitude(x + b * kBlock, kBlock);
  for (int64_t i = 0; i < 16; i += lanes()) {
    V t = hn::Div(load(magnitude + i), hn::Set(d, 6.0f * scale_2));
    t = hn::IfThenElse(hn::Eq(t, hn::Zero(d)), hn::Set(d, 1.0f), t);
    const Rounded scale = round_to<E4M3>(hn::Max(t, hn::Set(d, 0x1p-9f)));
    store(scale.code, scales.code + i);
    store(hn::Mul(keep_nan(t, scale.value), hn::Set(d, scale_2)), scales.divisor + i);
  }
}

template <class T>
HWY_INLINE void encode_nvfp4_blocks(const T* x, int64_t n, float scale_2, uint8_t* codes,
                                    uint8_t* scale_codes) {
  for (int64_t blocks = n / kBlock; blocks > 0; blocks -= 16) {
    const int64_t count = std::min<int64_t>(blocks, 16);
    BlockScales scales;
    scale_blocks(x, count, scale_2, scales);
    std::memcpy(scale_codes, scales.code, static_cast<size_t>(count));
    for (int64_t b = 0; b < count; ++b) {
      uint8_t bytes[kBlock];
      for (int64_t i = 0; i < kBlock; i += lanes()) {
        const V v = hn::Div(load(x + i), hn::Set(d, scales.divisor[b]));
        store(hn::Or(round_to<E2M1>(v).code, sign_at<3>(fp4_sign(v))), bytes + i);
      }
      uint64_t halves[2];
      std::memcpy(halves, bytes, sizeof(halves));
      const uint32_t words[2] = {join_nibbles(halves[0]), join_nibbles(halves[1])};
      std::memcpy(codes, words, sizeof(words));
      x += kBlock;
      codes += kBlock / 2;
    }
    scale_codes += count;
  }
}

template <class T>
HWY_INLINE void simulate_nvfp4_blocks(const T* x, int64_t n, float scale_2, T* y) {
  for (int64_t blocks = n / kBlock; blocks > 0; blocks -= 16) {
    const int64_t count = std::min<int64_t>(blocks, 16);
    BlockScales scales;
    scale_blocks(x, count, scale_2, scales);
    for (int64_t b = 0; b < count; ++b) {
      const V divisor = hn::Set(d, scales.divisor[b]);
      for (int64_t i = 0; i < kBlock; i += lanes()) {
        const V v = hn::Div(load(x + i), divisor);
        store(hn::Mul(with_sign(round_to<E2M1>(v).value, fp4_sign(v)), divisor), y + i);
      }
      x += kBlock;
      y += kBlock;
    }
  }
}

template <class T>
HWY_INLINE void decode_nvfp4_blocks(const uint8_t* codes, const uint8_t* scale_codes, int64_t n,
                                    float scale_2, T* y) {
  for (int64_t block = 0; block < n / kBlock; block += 16) {
    const int64_t count = std::min<int64_t>(n / kBlock - block, 16);
    float factor[16];
    transform(scale_codes + block, count, factor,
              [&](VI code) HWY_ATTR { return hn::Mul(fp8_value(code), hn::Set(d, scale_2)); });
    for (int64_t b = 0; b < count; ++b) {
      uint32_t words[2];
      std::memcpy(words, codes, sizeof(words));
      const uint64_t halves[2] = {split_nibbles(words[0]), split_nibbles(words[1])};
      uint8_t bytes[kBlock];
      std::memcpy(bytes, halves, sizeof(halves));
      for (int64_t i = 0; i < kBlock; i += lanes()) {
        const VI code = load(bytes + i);
        const V magnitude = value_of<E2M1>(hn::And(code, hn::Set(di, 7)));
        const VI sign = hn::ShiftLeft<28>(hn::And(code, hn::Set(di, 8)));
        store(hn::Mul(with_sign(magnitude, sign), hn::Set(d, factor[b])), y + i);
      }
      codes += kBlock / 2;
      y += kBlock;
    }
  }
}

}  // namespace

// The functions of the header, for one vector width.

float absolute_maximum_here(const void* x, at::ScalarType dtype, int64_t n) {
  float result = 0;
  with_type(dtype, x, [&](const auto* p) HWY_ATTR { result = largest_magnitude(p, n); });
  return result;
}

void encode_fp8_here(const void* x, at::ScalarType dtype, int64_t n, float scale, uint8_t* codes) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    transform(p, n, codes, [&](V v) HWY_ATTR { return fp8_code(hn::Div(v, hn::Set(d, scale))); });
  });
}

float encode_int_row_here(const void* x, at::ScalarType dtype, int64_t columns, int64_t block, int code_max,
                          at::ScalarType scale_dtype, float* scales, int8_t* codes) {
  const float high = static_cast<float>(code_max);
  float largest = 0;
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    for (int64_t begin = 0; begin < columns; begin += block) {
      const float amax = largest_magnitude(p + begin, block);
      const float scale = scale_for(amax, high, scale_dtype);
      *scales++ = scale;
      largest = amax <= largest ? largest : amax;  // a NaN stays: no comparison with it holds
      if (largest != largest) return;
      transform(p + begin, block, codes + begin, [&](V v) HWY_ATTR {
        return bits_of(round_to_int(hn::Div(v, hn::Set(d, scale)), -high - 1.0f, high));
      });
    }
  });
  return largest;
}

void encode_nvfp4_here(const void* x, at::ScalarType dtype, int64_t n, float scale_2, uint8_t* codes,
                       uint8_t* scales) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR { encode_nvfp4_blocks(p, n, scale_2, codes, scales); });
}

void decode_fp8_here(const uint8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  with_type(dtype, x, [&](auto* p) HWY_ATTR {
    transform(codes, n, p, [&](VI code) HWY_ATTR { return hn::Mul(fp8_value(code), hn::Set(d, scale)); });
  });
}

void decode_int_here(const int8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  with_type(dtype, x, [&](auto* p) HWY_ATTR {
    transform(codes, n, p,
              [&](VI code) HWY_ATTR { return hn::Mul(hn::ConvertTo(d, code), hn::Set(d, scale)); });
  });
}

void decode_nvfp4_here(const uint8_t* codes, const uint8_t* scales, int64_t n, float scale_2,
                       at::ScalarType dtype, void* x) {
  with_type(dtype, x, [&](auto* p) HWY_ATTR { decode_nvfp4_blocks(codes, scales, n, scale_2, p); });
}

void simulate_fp8_here(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    transform(p, n, static_cast<T*>(y), [&](V x_lanes) HWY_ATTR {
      const V v = hn::Div(x_lanes, hn::Set(d, scale));
      const V rounded = with_sign(round_to<E4M3>(v).value, sign_bits(v));
      return keep_nan(v, hn::Mul(rounded, hn::Set(d, scale)));
    });
  });
}

void simulate_int8_here(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    transform(p, n, static_cast<T*>(y), [&](V x_lanes) HWY_ATTR {
      const V v = hn::Div(x_lanes, hn::Set(d, scale));
      const V code = hn::Sub(round_to_int(v, -128.0f, 127.0f), hn::Set(d, kIntMagic));
      return keep_nan(v, hn::Mul(code, hn::Set(d, scale)));
    });
  });
}

void simulate_nvfp4_here(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    simulate_nvfp4_blocks(p, n, scale, static_cast<T*>(y));
  });
}

}  // namespace visq::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace visq::kernels {

HWY_EXPORT(absolute_maximum_here);
HWY_EXPORT(encode_fp8_here);
HWY_EXPORT(encode_int_row_here);
HWY_EXPORT(encode_nvfp4_here);
HWY_EXPORT(decode_fp8_here);
HWY_EXPORT(decode_int_here);
HWY_EXPORT(decode_nvfp4_here);
HWY_EXPORT(simulate_fp8_here);
HWY_EXPORT(simulate_int8_here);
HWY_EXPORT(simulate_nvfp4_here);

float absolute_maximum(const void* x, at::ScalarType dtype, int64_t n) {
  return HWY_DYNAMIC_DISPATCH(absolute_maximum_here)(x, dtype, n);
}

void encode_fp8(const void* x, at::ScalarType dtype, int64_t n, float scale, uint8_t* codes) {
  HWY_DYNAMIC_DISPATCH(encode_fp8_here)(x, dtype, n, scale, codes);
}

float encode_int_row(const void* x, at::ScalarType dtype, int64_t columns, int64_t block, int code_max,
                     at::ScalarType scale_dtype, float* scales, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(encode_int_row_here)(x, dtype, columns, block, code_max, scale_dtype, scales,
                                                   codes);
}

void encode_nvfp4(const void* x, at::ScalarType dtype, int64_t n, float scale_2, uint8_t* codes,
                  uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(encode_nvfp4_here)(x, dtype, n, scale_2, codes, scales);
}

void decode_fp8(const uint8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  HWY_DYNAMIC_DISPATCH(decode_fp8_here)(codes, n, scale, dtype, x);
}

void decode_int(const int8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  HWY_DYNAMIC_DISPATCH(decode_int_here)(codes, n, scale, dtype, x);
}

void decode_nvfp4(const uint8_t* codes, const uint8_t* scales, int64_t n, float scale_2, at::ScalarType dtype,
                  void* x) {
  HWY_DYNAMIC_DISPATCH(decode_nvfp4_here)(codes, scales, n, scale_2, dtype, x);
}

void simulate_fp8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_fp8_here)(x, dtype, n, scale, y);
}

void simulate_int8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_int8_here)(x, dtype, n, scale, y);
}

void simulate_nvfp4(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_nvfp4_here)(x, dtype, n, scale, y);
}

}  // namespace visq::kernels
#endif  // HWY_ONCE

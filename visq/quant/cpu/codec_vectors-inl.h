// What the kernels share: loads to and stores from vectors of f32, and rounding to small formats. Included
// once for every vector width.
#include <c10/core/ScalarType.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <bit>
#include <cstdint>
#include <cstring>

// clang-format off: the guard is turned over for each width
#if defined(VISQ_CODEC_VECTORS_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef VISQ_CODEC_VECTORS_INL_H
#undef VISQ_CODEC_VECTORS_INL_H
#else
#define VISQ_CODEC_VECTORS_INL_H
#endif
// clang-format on

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace visq::kernels::HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

// At most 16 lanes: a block of 16 or 32 values is a whole number of vectors on every target.
using D = hn::CappedTag<float, 16>;
using DI = hn::Rebind<int32_t, D>;
using DU = hn::Rebind<uint32_t, D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
constexpr D d;
constexpr DI di;
constexpr DU du;
constexpr int64_t kMostLanes = 16;

HWY_INLINE int64_t lanes() { return static_cast<int64_t>(hn::Lanes(d)); }

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
using E3M2 = Format<2, -2, 28>;
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

struct Extremes {
  float low, high;
};
/// The smallest and the largest of finite values and 0.
template <class T>
HWY_INLINE Extremes extremes_with_zero(const T* x, int64_t n) {
  const int64_t width = lanes();
  V low = hn::Zero(d), high = hn::Zero(d);
  const auto take = [&](V v) HWY_ATTR {
    low = hn::Min(low, v);
    high = hn::Max(high, v);
  };
  int64_t i = 0;
  for (; i + width <= n; i += width) take(load(x + i));
  if (i < n) {
    T padded[kMostLanes] = {};
    std::memcpy(padded, x + i, static_cast<size_t>(n - i) * sizeof(T));
    take(load(padded));
  }
  return {hn::GetLane(hn::MinOfLanes(d, low)), hn::GetLane(hn::MaxOfLanes(d, high))};
}

}  // namespace
}  // namespace visq::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif

// The formats whose blocks of 16 or 32 values have a scale of 8 bits: NVFP4 and the MX formats. Compiled once
// for every vector width of targets.h.
#include <algorithm>
#include <type_traits>

#include "visq/quant/cpu/codec_kernels.h"
#include "visq/quant/cpu/narrow_codes.h"
#include "visq/quant/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "visq/quant/cpu/block_kernels.cpp"
#include <hwy/foreach_target.h>
// clang-format off: must come after foreach_target.h
#include "visq/quant/cpu/codec_vectors-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace visq::kernels::HWY_NAMESPACE {
namespace {

// Elements: what a scaled value becomes on disk and back (`code`, `value`), and what an engine makes of an
// input (`rounded`).

template <class F, int kBits>
struct FloatElement {
  static constexpr int bits = kBits;
  static constexpr float max = F::max;
  static constexpr int kSign = 1 << (kBits - 1);
  static HWY_INLINE VI code(V v) { return hn::Or(round_to<F>(v).code, sign_at<kBits - 1>(sign_bits(v))); }
  static HWY_INLINE V rounded(V v) { return with_sign(round_to<F>(v).value, sign_bits(v)); }
  static HWY_INLINE V value(VI code) {
    const V magnitude = value_of<F>(hn::And(code, hn::Set(di, kSign - 1)));
    return with_sign(magnitude, hn::ShiftLeft<32 - kBits>(hn::And(code, hn::Set(di, kSign))));
  }
};

struct Nvfp4Element : FloatElement<E2M1, 4> {
  static HWY_INLINE VI code(V v) { return hn::Or(round_to<E2M1>(v).code, sign_at<3>(fp4_sign(v))); }
  static HWY_INLINE V rounded(V v) { return with_sign(round_to<E2M1>(v).value, fp4_sign(v)); }
};

/// On disk as ModelOpt writes it: ties go to the smaller magnitude, and zero has the sign bit
/// (spec/quantization.md §5.6).
struct Mxfp4Element : FloatElement<E2M1, 4> {
  static HWY_INLINE VI code(V v) {
    const V a = hn::Abs(v);
    const auto rounded_up = hn::Or(hn::Or(hn::Eq(a, hn::Set(d, 0.75f)), hn::Eq(a, hn::Set(d, 1.75f))),
                                   hn::Eq(a, hn::Set(d, 3.5f)));
    const VI nearest = round_to<E2M1>(v).code;
    const VI magnitude =
        hn::IfThenElse(hn::RebindMask(di, rounded_up), hn::Sub(nearest, hn::Set(di, 1)), nearest);
    const auto positive = hn::RebindMask(di, hn::Gt(v, hn::Zero(d)));
    return hn::IfThenElse(positive, magnitude, hn::Or(magnitude, hn::Set(di, 8)));
  }
};

using Mxfp6Element = FloatElement<E3M2, 6>;

struct Mxfp8Element : FloatElement<E4M3, 8> {
  static HWY_INLINE V value(VI code) { return fp8_value(code); }
};

struct Mxint8Element {
  static constexpr int bits = 8;
  static constexpr float max = 127;
  static HWY_INLINE VI code(V v) { return bits_of(round_to_int(v, -127, 127)); }
  static HWY_INLINE V rounded(V v) { return hn::Sub(round_to_int(v, -127, 127), hn::Set(d, kIntMagic)); }
  static HWY_INLINE V value(VI code) {
    return hn::ConvertTo(d, hn::ShiftRight<24>(hn::ShiftLeft<24>(code)));  // the byte's sign, extended
  }
};

/// Calls `body` with the element of an MX format.
template <class Body>
HWY_INLINE void with_element(Codec codec, const Body& body) {
  if (codec == Codec::mxfp4) return body(Mxfp4Element());
  if (codec == Codec::mxfp6) return body(Mxfp6Element());
  if (codec == Codec::mxfp8) return body(Mxfp8Element());
  body(Mxint8Element());
}

// Scales.

constexpr int64_t kTogether = 16;  // blocks whose scales are computed together

struct BlockScales {
  float factor[kTogether];  ///< real = element · factor; NaN when the block holds one
  float shrink[kTogether];  ///< what values are brought to the element's range with
  uint8_t code[kTogether];
};

/// E4M3 times scale_2 (spec/quantization.md §4.2).
struct Nvfp4Scale {
  float scale_2;

  HWY_INLINE void find(V amax, BlockScales& scales, int64_t i) const {
    V t = hn::Div(amax, hn::Set(d, 6.0f * scale_2));
    t = hn::IfThenElse(hn::Eq(t, hn::Zero(d)), hn::Set(d, 1.0f), t);
    const Rounded scale = round_to<E4M3>(hn::Max(t, hn::Set(d, 0x1p-9f)));
    store(scale.code, scales.code + i);
    const V factor = hn::Mul(keep_nan(t, scale.value), hn::Set(d, scale_2));
    store(factor, scales.factor + i);
    store(factor, scales.shrink + i);
  }
  static HWY_INLINE V shrunk(V x, float by) { return hn::Div(x, hn::Set(d, by)); }
  HWY_INLINE V factor(VI code) const { return hn::Mul(fp8_value(code), hn::Set(d, scale_2)); }
};

/// 2^(byte − 127), the smallest that brings the block into the element's range (spec/quantization.md §3.5).
struct E8m0Scale {
  float element_max;

  HWY_INLINE void find(V amax, BlockScales& scales, int64_t i) const {
    const VI r = bits_of(hn::Div(amax, hn::Set(d, element_max)));
    // ⌈log2 r⌉: the exponent, and one more if there is a mantissa. Up to 2^-127, which is half of the
    // smallest normal number, the byte is 0.
    VI byte = hn::ShiftRight<23>(hn::Add(r, hn::Set(di, 0x7FFFFF)));
    byte = hn::IfThenElse(hn::Gt(hn::Set(di, 0x400001), r), hn::Zero(di), byte);
    byte = hn::IfThenElse(hn::Eq(r, hn::Set(di, 0x7F800000)), hn::Set(di, 127), byte);  // infinity: scale 1
    byte = hn::IfThenElse(hn::Gt(r, hn::Set(di, 0x7F800000)), hn::Set(di, 255), byte);
    store(byte, scales.code + i);
    store(factor(byte), scales.factor + i);
    store(factor(hn::Sub(hn::Set(di, 254), byte)), scales.shrink + i);
  }
  static HWY_INLINE V shrunk(V x, float by) { return hn::Mul(x, hn::Set(d, by)); }
  /// @param byte  255 stands for NaN
  HWY_INLINE V factor(VI byte) const {
    const VI subnormal = hn::Set(di, 0x400000), nan = hn::Set(di, 0x7FC00000);
    VI bits = hn::IfThenElse(hn::Eq(byte, hn::Zero(di)), subnormal, hn::ShiftLeft<23>(byte));
    bits = hn::IfThenElse(hn::Eq(byte, hn::Set(di, 255)), nan, bits);
    return from_bits(bits);
  }
};

/// @return the absolute maximum of the blocks
template <int64_t block, class T, class Scale>
HWY_INLINE float scale_blocks(const T* x, int64_t count, const Scale& scale, BlockScales& scales) {
  float magnitude[kTogether] = {};
  for (int64_t b = 0; b < count; ++b) magnitude[b] = largest_magnitude(x + b * block, block);
  for (int64_t i = 0; i < kTogether; i += lanes()) scale.find(load(magnitude + i), scales, i);
  return largest_magnitude(magnitude, kTogether);
}

template <class Element, int64_t block, class T, class Scale>
HWY_INLINE float encode_blocks(const T* x, int64_t n, const Scale& scale, uint8_t* codes,
                               uint8_t* scale_codes) {
  int32_t largest = 0;  // of f32 bit patterns: NaN > infinity > numbers
  for (int64_t blocks = n / block; blocks > 0; blocks -= kTogether) {
    const int64_t count = std::min(blocks, kTogether);
    BlockScales scales;
    largest = std::max(largest, std::bit_cast<int32_t>(scale_blocks<block>(x, count, scale, scales)));
    std::memcpy(scale_codes, scales.code, static_cast<size_t>(count));
    for (int64_t b = 0; b < count; ++b) {
      uint8_t bytes[block];
      for (int64_t i = 0; i < block; i += lanes())
        store(Element::code(Scale::shrunk(load(x + i), scales.shrink[b])), bytes + i);
      join_codes<Element::bits>(bytes, block, codes);
      x += block;
      codes += block * Element::bits / 8;
    }
    scale_codes += count;
  }
  return std::bit_cast<float>(largest);
}

template <class Element, int64_t block, class T, class Scale>
HWY_INLINE void simulate_blocks(const T* x, int64_t n, const Scale& scale, T* y) {
  for (int64_t blocks = n / block; blocks > 0; blocks -= kTogether) {
    const int64_t count = std::min(blocks, kTogether);
    BlockScales scales;
    scale_blocks<block>(x, count, scale, scales);
    for (int64_t b = 0; b < count; ++b) {
      for (int64_t i = 0; i < block; i += lanes()) {
        const V rounded = Element::rounded(Scale::shrunk(load(x + i), scales.shrink[b]));
        store(hn::Mul(rounded, hn::Set(d, scales.factor[b])), y + i);
      }
      x += block;
      y += block;
    }
  }
}

template <class Element, int64_t block, class T, class Scale>
HWY_INLINE void decode_blocks(const uint8_t* codes, const uint8_t* scale_codes, int64_t n, const Scale& scale,
                              T* y) {
  for (int64_t first = 0; first < n / block; first += kTogether) {
    const int64_t count = std::min(n / block - first, kTogether);
    float factor[kTogether];
    transform(scale_codes + first, count, factor, [&](VI code) HWY_ATTR { return scale.factor(code); });
    for (int64_t b = 0; b < count; ++b) {
      uint8_t bytes[block];
      split_codes<Element::bits>(codes, block, bytes);
      for (int64_t i = 0; i < block; i += lanes())
        store(hn::Mul(Element::value(load(bytes + i)), hn::Set(d, factor[b])), y + i);
      codes += block * Element::bits / 8;
      y += block;
    }
  }
}

}  // namespace

// The functions of the header, for one vector width.

void encode_nvfp4_here(const void* x, at::ScalarType dtype, int64_t n, int64_t block, float scale_2,
                       uint8_t* codes, uint8_t* scales) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    if (block == kNvfp4Block)
      encode_blocks<Nvfp4Element, kNvfp4Block>(p, n, Nvfp4Scale{scale_2}, codes, scales);
    else
      encode_blocks<Nvfp4Element, 2 * kNvfp4Block>(p, n, Nvfp4Scale{scale_2}, codes, scales);
  });
}

float encode_mx_here(const void* x, at::ScalarType dtype, int64_t n, Codec codec, uint8_t* codes,
                     uint8_t* scales) {
  float largest = 0;
  with_element(codec, [&](auto element) HWY_ATTR {
    using Element = decltype(element);
    with_type(dtype, x, [&](const auto* p) HWY_ATTR {
      largest = encode_blocks<Element, kMxBlock>(p, n, E8m0Scale{Element::max}, codes, scales);
    });
  });
  return largest;
}

void decode_nvfp4_here(const uint8_t* codes, const uint8_t* scales, int64_t n, int64_t block, float scale_2,
                       at::ScalarType dtype, void* x) {
  with_type(dtype, x, [&](auto* p) HWY_ATTR {
    if (block == kNvfp4Block)
      decode_blocks<Nvfp4Element, kNvfp4Block>(codes, scales, n, Nvfp4Scale{scale_2}, p);
    else
      decode_blocks<Nvfp4Element, 2 * kNvfp4Block>(codes, scales, n, Nvfp4Scale{scale_2}, p);
  });
}

void decode_mx_here(const uint8_t* codes, const uint8_t* scales, int64_t n, Codec codec, at::ScalarType dtype,
                    void* x) {
  with_element(codec, [&](auto element) HWY_ATTR {
    using Element = decltype(element);
    with_type(dtype, x, [&](auto* p) HWY_ATTR {
      decode_blocks<Element, kMxBlock>(codes, scales, n, E8m0Scale{Element::max}, p);
    });
  });
}

void simulate_nvfp4_here(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
    simulate_blocks<Nvfp4Element, kNvfp4Block>(p, n, Nvfp4Scale{scale}, static_cast<T*>(y));
  });
}

void simulate_mx_here(const void* x, at::ScalarType dtype, int64_t n, Codec codec, void* y) {
  with_element(codec, [&](auto element) HWY_ATTR {
    using Element = decltype(element);
    with_type(dtype, x, [&](const auto* p) HWY_ATTR {
      using T = std::remove_cv_t<std::remove_pointer_t<decltype(p)>>;
      simulate_blocks<Element, kMxBlock>(p, n, E8m0Scale{Element::max}, static_cast<T*>(y));
    });
  });
}

}  // namespace visq::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace visq::kernels {

HWY_EXPORT(encode_nvfp4_here);
HWY_EXPORT(encode_mx_here);
HWY_EXPORT(decode_nvfp4_here);
HWY_EXPORT(decode_mx_here);
HWY_EXPORT(simulate_nvfp4_here);
HWY_EXPORT(simulate_mx_here);

void encode_nvfp4(const void* x, at::ScalarType dtype, int64_t n, int64_t block, float scale_2,
                  uint8_t* codes, uint8_t* scales) {
  HWY_DYNAMIC_DISPATCH(encode_nvfp4_here)(x, dtype, n, block, scale_2, codes, scales);
}

float encode_mx(const void* x, at::ScalarType dtype, int64_t n, Codec codec, uint8_t* codes,
                uint8_t* scales) {
  return HWY_DYNAMIC_DISPATCH(encode_mx_here)(x, dtype, n, codec, codes, scales);
}

void decode_nvfp4(const uint8_t* codes, const uint8_t* scales, int64_t n, int64_t block, float scale_2,
                  at::ScalarType dtype, void* x) {
  HWY_DYNAMIC_DISPATCH(decode_nvfp4_here)(codes, scales, n, block, scale_2, dtype, x);
}

void decode_mx(const uint8_t* codes, const uint8_t* scales, int64_t n, Codec codec, at::ScalarType dtype,
               void* x) {
  HWY_DYNAMIC_DISPATCH(decode_mx_here)(codes, scales, n, codec, dtype, x);
}

void simulate_nvfp4(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_nvfp4_here)(x, dtype, n, scale, y);
}

void simulate_mx(const void* x, at::ScalarType dtype, int64_t n, Codec codec, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_mx_here)(x, dtype, n, codec, y);
}

}  // namespace visq::kernels
#endif  // HWY_ONCE

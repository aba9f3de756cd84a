// Compiled once for every vector width of targets.h; the first call picks the widest one that this CPU has.
#include "visq/quant/cpu/codec_kernels.h"

#include <type_traits>

#include "visq/quant/codec_backend.h"
#include "visq/quant/cpu/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "visq/quant/cpu/codec_kernels.cpp"
#include <hwy/foreach_target.h>
// clang-format off: must come after foreach_target.h
#include "visq/quant/cpu/codec_vectors-inl.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace visq::kernels::HWY_NAMESPACE {
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

float encode_int4_asym_row_here(const void* x, at::ScalarType dtype, int64_t columns, int64_t block,
                                at::ScalarType scale_dtype, float* scales, int8_t* zeros, int8_t* codes) {
  float largest = 0;
  with_type(dtype, x, [&](const auto* p) HWY_ATTR {
    for (int64_t begin = 0; begin < columns; begin += block) {
      const float amax = largest_magnitude(p + begin, block);
      largest = amax <= largest ? largest : amax;  // a NaN stays: no comparison with it holds
      if (largest != largest) return;
      const Extremes extremes = extremes_with_zero(p + begin, block);
      const ZeroPoint found = zero_point_for(extremes.low, extremes.high, scale_dtype);
      *scales++ = found.scale;
      *zeros++ = static_cast<int8_t>(found.zero);
      transform(p + begin, block, codes + begin, [&](V v) HWY_ATTR {
        const V code = hn::Add(hn::Div(v, hn::Set(d, found.scale)), hn::Set(d, found.zero));
        return bits_of(round_to_int(code, -8.0f, 7.0f));
      });
    }
  });
  return largest;
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

}  // namespace visq::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace visq::kernels {

HWY_EXPORT(absolute_maximum_here);
HWY_EXPORT(encode_fp8_here);
HWY_EXPORT(encode_int_row_here);
HWY_EXPORT(encode_int4_asym_row_here);
HWY_EXPORT(decode_fp8_here);
HWY_EXPORT(decode_int_here);
HWY_EXPORT(simulate_fp8_here);
HWY_EXPORT(simulate_int8_here);

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

float encode_int4_asym_row(const void* x, at::ScalarType dtype, int64_t columns, int64_t block,
                           at::ScalarType scale_dtype, float* scales, int8_t* zeros, int8_t* codes) {
  return HWY_DYNAMIC_DISPATCH(encode_int4_asym_row_here)(x, dtype, columns, block, scale_dtype, scales, zeros,
                                                         codes);
}

void decode_fp8(const uint8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  HWY_DYNAMIC_DISPATCH(decode_fp8_here)(codes, n, scale, dtype, x);
}

void decode_int(const int8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x) {
  HWY_DYNAMIC_DISPATCH(decode_int_here)(codes, n, scale, dtype, x);
}

void simulate_fp8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_fp8_here)(x, dtype, n, scale, y);
}

void simulate_int8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y) {
  HWY_DYNAMIC_DISPATCH(simulate_int8_here)(x, dtype, n, scale, y);
}

}  // namespace visq::kernels
#endif  // HWY_ONCE

// The codecs as ATen expressions, for any device. Two traps shape the code. On GPUs ATen divides by a host
// scalar through its reciprocal, so every divisor here is a tensor on the device; and casts to E4M3 overflow
// to NaN in some releases, so values are clamped first.
#include <ATen/ATen.h>

#include <cmath>
#include <optional>
#include <vector>

#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

at::Tensor constant(const at::Tensor& like, double value) {
  return at::full({1}, value, like.options().dtype(at::kFloat));
}

/// [..., columns] → f32 [..., columns / block, block].
at::Tensor in_blocks(const at::Tensor& x, int64_t block) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() /= block;
  shape.push_back(block);
  return x.to(at::kFloat).view(shape);
}

at::Tensor fp8_codes(const at::Tensor& v) { return v.clamp(-448.0, 448.0).to(at::kFloat8_e4m3fn); }

float absolute_maximum(const at::Tensor& x) {
  if (x.numel() == 0) return 0.0f;
  return x.abs().amax().to(at::kFloat).item<float>();
}

at::Tensor encode_fp8(const at::Tensor& weight, float scale) {
  return fp8_codes(weight.to(at::kFloat) / constant(weight, scale));
}

/// scale_for() of every element of `amax`.
at::Tensor scales_for(const at::Tensor& amax, double code_max, at::ScalarType dtype) {
  const ScaleRange range = scale_range(dtype);
  const at::Tensor exact = amax.clamp_min(kSmallestAmax) / constant(amax, code_max);
  const at::Tensor stored = exact.clamp(range.smallest, range.largest).to(dtype).to(at::kFloat);
  return at::where(amax == 0, constant(amax, 1.0), stored);
}

/// [rows, columns] → f32 [row blocks, block_rows, column blocks, block_columns], zeros beyond the edges.
at::Tensor in_tiles(const at::Tensor& x, int64_t block_rows, int64_t block_columns) {
  const int64_t down = (x.size(0) + block_rows - 1) / block_rows;
  const int64_t across = (x.size(1) + block_columns - 1) / block_columns;
  const at::Tensor padded = at::constant_pad_nd(
      x.to(at::kFloat), {0, across * block_columns - x.size(1), 0, down * block_rows - x.size(0)});
  return padded.view({down, block_rows, across, block_columns});
}
at::Tensor from_tiles(const at::Tensor& tiles, at::IntArrayRef sizes) {
  const at::Tensor padded = tiles.reshape({tiles.size(0) * tiles.size(1), -1});
  return padded.narrow(0, 0, sizes[0]).narrow(1, 0, sizes[1]).contiguous();
}
/// [row blocks, column blocks] → what tiles are multiplied with.
at::Tensor over_tiles(const at::Tensor& scale) { return scale.unsqueeze(1).unsqueeze(3); }

EncodedMatrix encode_fp8_blocks(const at::Tensor& weight, int64_t block_rows, int64_t block_columns,
                                at::ScalarType scale_dtype) {
  const at::Tensor tiles = in_tiles(weight, block_rows, block_columns);
  const at::Tensor amax = tiles.abs().amax({1, 3});
  const at::Tensor scale = scales_for(amax, 448, scale_dtype);
  return {fp8_codes(from_tiles(tiles / over_tiles(scale), weight.sizes())), scale,
          at::isfinite(amax).all().item<bool>()};
}

EncodedMatrix encode_int(const at::Tensor& weight, int64_t block, int code_max, at::ScalarType scale_dtype) {
  const at::Tensor blocks = in_blocks(weight, block);  // [rows, blocks, block]
  const at::Tensor amax = blocks.abs().amax(-1);       // [rows, blocks]
  const at::Tensor scale = scales_for(amax, code_max, scale_dtype);
  const at::Tensor codes =
      (blocks / scale.unsqueeze(-1)).round().clamp(-code_max - 1, code_max).to(at::kChar);
  return {codes.view(weight.sizes()), scale, at::isfinite(amax).all().item<bool>()};
}

EncodedMatrix encode_int4_asym(const at::Tensor& weight, int64_t block, at::ScalarType scale_dtype) {
  const at::Tensor blocks = in_blocks(weight, block), none = constant(weight, 0.0);
  const at::Tensor low = at::minimum(blocks.amin(-1), none), high = at::maximum(blocks.amax(-1), none);
  const at::Tensor range = high - low, far = range >= kLargestRange;
  const at::Tensor scale =
      at::where(far, scales_for(at::maximum(high, -low), 7, scale_dtype), scales_for(range, 15, scale_dtype));
  const at::Tensor zero = at::where(far, none, (constant(weight, -8.0) - low / scale).round().clamp(-8, 7));
  const at::Tensor codes = (blocks / scale.unsqueeze(-1) + zero.unsqueeze(-1)).round().clamp(-8, 7);
  return {codes.to(at::kChar).view(weight.sizes()), scale,
          at::isfinite(blocks.abs().amax(-1)).all().item<bool>(), zero.to(at::kChar)};
}

/// Block scales: E4M3, the shape of `amax` (spec/quantization.md §4.2).
at::Tensor nvfp4_scales(const at::Tensor& amax, float scale_2) {
  const at::Tensor t = amax / constant(amax, 6.0f * scale_2);
  return at::where(t == 0, constant(amax, 1.0), t).clamp(0x1p-9, 448.0).to(at::kFloat8_e4m3fn);
}

/// The magnitudes of a small floating-point format by their codes. @param bias  of the exponent
std::vector<float> magnitudes(int exponent_bits, int mantissa_bits, int bias) {
  std::vector<float> values;
  for (int code = 0; code < 1 << (exponent_bits + mantissa_bits); ++code) {
    const int exponent = code >> mantissa_bits, mantissa = code & ((1 << mantissa_bits) - 1);
    const int significand = exponent == 0 ? mantissa : mantissa + (1 << mantissa_bits);
    values.push_back(
        std::ldexp(static_cast<float>(significand), std::max(exponent, 1) - bias - mantissa_bits));
  }
  return values;
}
const std::vector<float>& e2m1() {
  static const std::vector<float> values = magnitudes(2, 1, 1);
  return values;
}
const std::vector<float>& e3m2() {
  static const std::vector<float> values = magnitudes(3, 2, 3);
  return values;
}

enum class Ties { to_even, down };

/// Codes without sign of the nearest magnitudes: int32, the shape of `v`.
at::Tensor nearest_codes(const at::Tensor& v, const std::vector<float>& values, Ties ties = Ties::to_even) {
  std::vector<float> middles;
  for (size_t i = 0; i + 1 < values.size(); ++i) middles.push_back((values[i] + values[i + 1]) / 2);
  const at::Tensor bounds = at::tensor(middles).to(v.device()), a = v.abs();
  const at::Tensor below = at::bucketize(a, bounds, /*out_int32=*/true, /*right=*/false);
  if (ties == Ties::down) return below;
  const at::Tensor tie = at::bucketize(a, bounds, /*out_int32=*/true, /*right=*/true) - below;
  return below + tie.bitwise_and(below);
}

/// @param codes  with the sign in the bit above the magnitudes
at::Tensor values_of(const at::Tensor& codes, const std::vector<float>& magnitudes) {
  std::vector<float> all = magnitudes;
  for (const float value : magnitudes) all.push_back(-value);
  return at::tensor(all).to(codes.device()).index({codes.to(at::kLong)});
}

/// Codes 0…15, one a byte, the shape of `v` (spec/quantization.md §1.2).
at::Tensor fp4_codes(const at::Tensor& v) {
  return (nearest_codes(v, e2m1()) + (v < 0).to(at::kInt) * 8).to(at::kByte);
}

/// Codes 0…15, one a byte → two a byte, the even column in the low nibble. And back.
at::Tensor join_nibbles(const at::Tensor& codes) {
  const at::Tensor even = codes.slice(1, 0, std::nullopt, 2), odd = codes.slice(1, 1, std::nullopt, 2);
  return even.bitwise_or(odd * 16);
}
at::Tensor split_nibbles(const at::Tensor& bytes) {
  return at::stack({bytes.bitwise_and(15), bytes.bitwise_right_shift(4)}, -1).view({bytes.size(0), -1});
}

/// Codes 0…63, one a byte → four in three bytes, the first column in the lowest bits. And back.
at::Tensor join_sixes(const at::Tensor& codes) {
  const at::Tensor four = codes.to(at::kInt).view({codes.size(0), -1, 4});
  const at::Tensor shifts = at::arange(0, 24, 6, four.options());
  const at::Tensor word = four.bitwise_left_shift(shifts).sum(-1, /*keepdim=*/true);
  const at::Tensor bytes = word.bitwise_right_shift(at::arange(0, 24, 8, word.options())).bitwise_and(255);
  return bytes.to(at::kByte).view({codes.size(0), -1});
}
at::Tensor split_sixes(const at::Tensor& bytes) {
  const at::Tensor three = bytes.to(at::kInt).view({bytes.size(0), -1, 3});
  const at::Tensor shifts = at::arange(0, 24, 8, three.options());
  const at::Tensor word = three.bitwise_left_shift(shifts).sum(-1, /*keepdim=*/true);
  const at::Tensor codes = word.bitwise_right_shift(at::arange(0, 24, 6, word.options())).bitwise_and(63);
  return codes.to(at::kByte).view({bytes.size(0), -1});
}

EncodedMatrix encode_nvfp4(const at::Tensor& weight, int64_t block, float scale_2) {
  const at::Tensor blocks = in_blocks(weight, block);
  const at::Tensor scale = nvfp4_scales(blocks.abs().amax(-1), scale_2);  // [rows, columns / block]
  const at::Tensor divisor = scale.to(at::kFloat) * constant(weight, scale_2);
  const at::Tensor codes = fp4_codes(blocks / divisor.unsqueeze(-1)).view(weight.sizes());
  return {join_nibbles(codes), scale};
}

/// E8M0 bytes of MX blocks: 2^(byte − 127) is the smallest that brings them into the element's range.
/// Infinity: scale 1; NaN: 255 (spec/quantization.md §3.5).
at::Tensor mx_scales(const at::Tensor& amax, Codec codec) {
  const at::Tensor ratio = amax / constant(amax, mx_max(codec));
  const at::Tensor bits = ratio.view(at::kInt);
  // Exponent, and one more if there is a mantissa; up to 2^-127, half of the smallest normal number, 0.
  at::Tensor byte = (bits + 0x7FFFFF).bitwise_right_shift(23).masked_fill(bits <= 0x400000, 0);
  byte = byte.masked_fill(at::isinf(ratio), 127).masked_fill(at::isnan(ratio), 255);
  return byte.to(at::kByte);
}

/// 2^(byte − 127), f32; NaN for 255. @param bytes  int32
at::Tensor powers_of_two(const at::Tensor& bytes) {
  const at::Tensor bits = bytes.bitwise_left_shift(23).masked_fill(bytes == 0, 0x400000);
  return bits.masked_fill(bytes == 255, 0x7FC00000).view(at::kFloat);
}

/// Brings blocks to the element's range.
at::Tensor mx_shrunk(const at::Tensor& blocks, const at::Tensor& scale) {
  return blocks * powers_of_two(254 - scale.to(at::kInt)).unsqueeze(-1);
}

/// Codes of elements as PackedTensor has them. @param v  [rows, columns]
at::Tensor mx_codes(const at::Tensor& v, Codec codec) {
  if (codec == Codec::mxfp4)
    return join_nibbles(
        (nearest_codes(v, e2m1(), Ties::down) + (v > 0).logical_not().to(at::kInt) * 8).to(at::kByte));
  if (codec == Codec::mxfp6)
    return join_sixes((nearest_codes(v, e3m2()) + at::signbit(v).to(at::kInt) * 32).to(at::kByte));
  if (codec == Codec::mxfp8) return fp8_codes(v);
  return v.round().clamp(-127.0, 127.0).to(at::kChar);
}

/// [rows, columns], f32.
at::Tensor mx_values(const at::Tensor& codes, Codec codec) {
  if (codec == Codec::mxfp4) return values_of(split_nibbles(codes), e2m1());
  if (codec == Codec::mxfp6) return values_of(split_sixes(codes), e3m2());
  return codes.to(at::kFloat);
}

/// What an engine makes of an input in the element's range, any shape.
at::Tensor mx_rounded(const at::Tensor& v, Codec codec) {
  if (codec == Codec::mxfp8) return fp8_codes(v).to(at::kFloat);
  if (codec == Codec::mxint8) return v.round().clamp(-127.0, 127.0) + constant(v, 0.0);  // no −0
  const std::vector<float>& values = codec == Codec::mxfp4 ? e2m1() : e3m2();
  const auto sign = static_cast<int64_t>(values.size());
  return values_of(nearest_codes(v, values) + at::signbit(v).to(at::kInt) * sign, values);
}

EncodedMatrix encode_mx(const at::Tensor& weight, Codec codec) {
  const at::Tensor blocks = in_blocks(weight, kMxBlock), amax = blocks.abs().amax(-1);
  const at::Tensor scale = mx_scales(amax, codec);
  return {mx_codes(mx_shrunk(blocks, scale).view(weight.sizes()), codec), scale,
          at::isfinite(amax).all().item<bool>()};
}

at::Tensor decode_fp8(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype) {
  return (codes.to(at::kFloat) * scale).to(dtype);
}

at::Tensor decode_fp8_blocks(const at::Tensor& codes, const at::Tensor& scale, int64_t block_rows,
                             int64_t block_columns, at::ScalarType dtype) {
  const at::Tensor values = in_tiles(codes, block_rows, block_columns) * over_tiles(scale);
  return from_tiles(values, codes.sizes()).to(dtype);
}

at::Tensor decode_int(const at::Tensor& codes, const at::Tensor& scale, at::ScalarType dtype) {
  const int64_t rows = codes.size(0), blocks = scale.numel() / rows;
  const at::Tensor values = in_blocks(codes, codes.size(1) / blocks) * scale.view({rows, blocks, 1});
  return values.view(codes.sizes()).to(dtype);
}

at::Tensor decode_nvfp4(const at::Tensor& codes, const at::Tensor& scale, const at::Tensor& scale_2,
                        at::ScalarType dtype) {
  const at::Tensor values = values_of(split_nibbles(codes), e2m1());
  const at::Tensor blocks = values.view({codes.size(0), scale.size(1), -1});
  const at::Tensor factor = (scale.to(at::kFloat) * scale_2).unsqueeze(-1);
  return (blocks * factor).view({codes.size(0), -1}).to(dtype);
}

at::Tensor decode_mx(const at::Tensor& codes, const at::Tensor& scale, Codec codec, at::ScalarType dtype) {
  const at::Tensor values = mx_values(codes, codec);
  const at::Tensor blocks = in_blocks(values, kMxBlock) * powers_of_two(scale.to(at::kInt)).unsqueeze(-1);
  return blocks.view(values.sizes()).to(dtype);
}

at::Tensor simulate_fp8(const at::Tensor& x, float scale) {
  const at::Tensor step = constant(x, scale);
  return (fp8_codes(x.to(at::kFloat) / step).to(at::kFloat) * step).to(x.scalar_type());
}

at::Tensor simulate_fp8_tokens(const at::Tensor& x) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor step = scales_for(wide.abs().amax(-1, /*keepdim=*/true), 448, at::kFloat);
  return (fp8_codes(wide / step).to(at::kFloat) * step).to(x.scalar_type());
}

at::Tensor simulate_int8(const at::Tensor& x, float scale) {
  const at::Tensor step = constant(x, scale);
  // Adding 0 makes −0 positive, as an integer code is.
  const at::Tensor code = (x.to(at::kFloat) / step).round().clamp(-128.0, 127.0) + constant(x, 0.0);
  return (code * step).to(x.scalar_type());
}

at::Tensor simulate_int8_tokens(const at::Tensor& x) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor step = scales_for(wide.abs().amax(-1, /*keepdim=*/true), 127, at::kFloat);
  const at::Tensor code = (wide / step).round().clamp(-128.0, 127.0) + constant(x, 0.0);
  return (code * step).to(x.scalar_type());
}

at::Tensor simulate_nvfp4(const at::Tensor& x, float scale) {
  const at::Tensor blocks = in_blocks(x, 16);
  const at::Tensor block_scale = nvfp4_scales(blocks.abs().amax(-1), scale).to(at::kFloat);
  const at::Tensor divisor = (block_scale * constant(x, scale)).unsqueeze(-1);
  return (values_of(fp4_codes(blocks / divisor), e2m1()) * divisor).view(x.sizes()).to(x.scalar_type());
}

at::Tensor simulate_mx(const at::Tensor& x, Codec codec) {
  const at::Tensor blocks = in_blocks(x, kMxBlock), scale = mx_scales(blocks.abs().amax(-1), codec);
  const at::Tensor rounded = mx_rounded(mx_shrunk(blocks, scale), codec);
  return (rounded * powers_of_two(scale.to(at::kInt)).unsqueeze(-1)).view(x.sizes()).to(x.scalar_type());
}

at::Tensor int4_to_row_pairs(const at::Tensor& codes) {
  const at::Tensor nibbles = codes.bitwise_and(15).to(at::kByte);
  const at::Tensor even = nibbles.slice(0, 0, std::nullopt, 2), odd = nibbles.slice(0, 1, std::nullopt, 2);
  return even.bitwise_or(odd * 16);
}

at::Tensor signed_nibble(const at::Tensor& nibble) { return (nibble.bitwise_xor(8).to(at::kChar) - 8); }

at::Tensor int4_from_row_pairs(const at::Tensor& bytes) {
  const at::Tensor nibbles = at::stack({bytes.bitwise_and(15), bytes.bitwise_right_shift(4)}, 1);
  return signed_nibble(nibbles).view({2 * bytes.size(0), bytes.size(1)});
}

at::Tensor nibble_shifts(const at::Tensor& like) {
  return at::arange(0, 32, 4, like.options().dtype(at::kLong));
}

at::Tensor int4_to_words(const at::Tensor& codes) {
  const at::Tensor nibbles = (codes.to(at::kLong) + 8).view({codes.size(0), -1, 8});
  return nibbles.bitwise_left_shift(nibble_shifts(codes)).sum(-1).to(at::kInt);  // wraps to the word's bits
}

at::Tensor int4_from_words(const at::Tensor& words) {
  const at::Tensor nibbles =
      words.to(at::kLong).unsqueeze(-1).bitwise_right_shift(nibble_shifts(words)).bitwise_and(15);
  return (nibbles - 8).to(at::kChar).view({words.size(0), -1});
}

}  // namespace

// Steps of a half below 2, of 1 below 4, of 2 above; ties to even in each. Without the tables of fp4_codes(),
// which are many times slower.
at::Tensor nearest_fp4(const at::Tensor& x) {
  const at::Tensor magnitude = x.abs();
  const at::Tensor step = at::where(magnitude < 2, 0.5, at::where(magnitude < 4, 1.0, 2.0)).to(at::kFloat);
  return (x / step).round_().mul_(step).clamp_(-6, 6);
}
at::Tensor pack_fp4(const at::Tensor& x) { return join_nibbles(fp4_codes(x)); }

const CodecBackend& aten_codecs() {
  static constexpr CodecBackend backend = {
      .absolute_maximum = absolute_maximum,
      .encode_fp8 = encode_fp8,
      .encode_fp8_blocks = encode_fp8_blocks,
      .encode_int = encode_int,
      .encode_int4_asym = encode_int4_asym,
      .encode_nvfp4 = encode_nvfp4,
      .encode_mx = encode_mx,
      .decode_fp8 = decode_fp8,
      .decode_fp8_blocks = decode_fp8_blocks,
      .decode_int = decode_int,
      .decode_nvfp4 = decode_nvfp4,
      .decode_mx = decode_mx,
      .simulate_fp8 = simulate_fp8,
      .simulate_fp8_tokens = simulate_fp8_tokens,
      .simulate_int8 = simulate_int8,
      .simulate_int8_tokens = simulate_int8_tokens,
      .simulate_nvfp4 = simulate_nvfp4,
      .simulate_mx = simulate_mx,
      .int4_to_row_pairs = int4_to_row_pairs,
      .int4_from_row_pairs = int4_from_row_pairs,
      .int4_to_words = int4_to_words,
      .int4_from_words = int4_from_words,
  };
  return backend;
}

}  // namespace visq

// The codecs as ATen expressions, for any device. Two traps shape the code. On GPUs ATen divides by a host
// scalar through its reciprocal, so every divisor here is a tensor on the device; and casts to E4M3 overflow
// to NaN in some releases, so values are clamped first.
#include <ATen/ATen.h>

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

/// Block scales: E4M3, the shape of `amax` (spec/quantization.md §4.2).
at::Tensor nvfp4_scales(const at::Tensor& amax, float scale_2) {
  const at::Tensor t = amax / constant(amax, 6.0f * scale_2);
  return at::where(t == 0, constant(amax, 1.0), t).clamp(0x1p-9, 448.0).to(at::kFloat8_e4m3fn);
}

/// Codes 0…15, one a byte, the shape of `v` (spec/quantization.md §1.2).
at::Tensor fp4_codes(const at::Tensor& v) {
  static const std::vector<float> bounds = {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const at::Tensor magnitude = v.abs();
  const at::Tensor below = at::bucketize(magnitude, at::tensor(bounds).to(v.device()), /*out_int32=*/true);
  const at::Tensor tie_up = (magnitude == 0.75) | (magnitude == 1.75) | (magnitude == 3.5);
  return (below + tie_up.to(at::kInt) + (v < 0).to(at::kInt) * 8).to(at::kByte);
}

at::Tensor fp4_values(const at::Tensor& codes) {
  static const std::vector<float> values = {0.0f,  0.5f,  1.0f,  1.5f,  2.0f,  3.0f,  4.0f,  6.0f,
                                            -0.0f, -0.5f, -1.0f, -1.5f, -2.0f, -3.0f, -4.0f, -6.0f};
  return at::tensor(values).to(codes.device()).index({codes.to(at::kLong)});
}

at::Tensor nibble_pairs(const at::Tensor& codes) {  // [rows, columns] → [rows, columns / 2]
  const at::Tensor even = codes.slice(1, 0, std::nullopt, 2), odd = codes.slice(1, 1, std::nullopt, 2);
  return even.bitwise_or(odd * 16);
}

EncodedMatrix encode_nvfp4(const at::Tensor& weight, float scale_2) {
  const at::Tensor blocks = in_blocks(weight, 16);
  const at::Tensor scale = nvfp4_scales(blocks.abs().amax(-1), scale_2);  // [rows, columns / 16]
  const at::Tensor divisor = scale.to(at::kFloat) * constant(weight, scale_2);
  const at::Tensor codes = fp4_codes(blocks / divisor.unsqueeze(-1)).view(weight.sizes());
  return {nibble_pairs(codes), scale};
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
  const at::Tensor nibbles = at::stack({codes.bitwise_and(15), codes.bitwise_right_shift(4)}, -1);
  const at::Tensor blocks = fp4_values(nibbles).view({codes.size(0), -1, 16});
  const at::Tensor factor = (scale.to(at::kFloat) * scale_2).unsqueeze(-1);
  return (blocks * factor).view({codes.size(0), -1}).to(dtype);
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

at::Tensor simulate_nvfp4(const at::Tensor& x, float scale) {
  const at::Tensor blocks = in_blocks(x, 16);
  const at::Tensor block_scale = nvfp4_scales(blocks.abs().amax(-1), scale).to(at::kFloat);
  const at::Tensor divisor = (block_scale * constant(x, scale)).unsqueeze(-1);
  return (fp4_values(fp4_codes(blocks / divisor)) * divisor).view(x.sizes()).to(x.scalar_type());
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
at::Tensor pack_fp4(const at::Tensor& x) { return nibble_pairs(fp4_codes(x)); }

const CodecBackend& aten_codecs() {
  static constexpr CodecBackend backend = {
      .absolute_maximum = absolute_maximum,
      .encode_fp8 = encode_fp8,
      .encode_fp8_blocks = encode_fp8_blocks,
      .encode_int = encode_int,
      .encode_nvfp4 = encode_nvfp4,
      .decode_fp8 = decode_fp8,
      .decode_fp8_blocks = decode_fp8_blocks,
      .decode_int = decode_int,
      .decode_nvfp4 = decode_nvfp4,
      .simulate_fp8 = simulate_fp8,
      .simulate_fp8_tokens = simulate_fp8_tokens,
      .simulate_int8 = simulate_int8,
      .simulate_nvfp4 = simulate_nvfp4,
      .int4_to_row_pairs = int4_to_row_pairs,
      .int4_from_row_pairs = int4_from_row_pairs,
      .int4_to_words = int4_to_words,
      .int4_from_words = int4_from_words,
  };
  return backend;
}

}  // namespace visq

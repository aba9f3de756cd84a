#include "visq/quant/codec.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cmath>

#include "visq/core/error.h"
#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

const CodecBackend& codecs_for(const at::Tensor& x) { return x.is_cpu() ? cpu_codecs() : aten_codecs(); }

bool is_codec_input(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

at::Tensor checked_matrix(const at::Tensor& weight) {
  if (!is_codec_input(weight.scalar_type()))
    fail("cannot quantize a weight of type {}: give f32, bf16 or f16", c10::toString(weight.scalar_type()));
  if (weight.dim() != 2 || weight.numel() == 0)
    fail("cannot quantize a weight of shape [{}]: give a matrix [rows, columns]",
         fmt::join(weight.sizes(), ", "));
  return weight.contiguous();
}

[[noreturn]] void fail_not_finite(const at::Tensor& weight) {
  const at::Tensor bad = at::isfinite(weight).logical_not().flatten().to(at::kByte);
  const int64_t first = bad.argmax().item<int64_t>();
  fail(
      "the weight of shape [{}] holds {} NaN or infinite values, the first at element {}: the checkpoint is "
      "damaged",
      fmt::join(weight.sizes(), ", "), bad.sum().item<int64_t>(), first);
}

void check_block(const at::Tensor& x, int64_t block) {
  const int64_t columns = x.dim() == 0 ? 0 : x.size(-1);
  if (block <= 0 || columns % block != 0)
    fail(
        "{} columns are no multiple of the block of {}: leave this layer unquantized, or choose another "
        "format",
        columns, block);
}

float checked_amax(const at::Tensor& weight, std::optional<float> given) {
  const float own = absolute_maximum(weight);
  const float amax = given.value_or(own);
  if (!(amax >= 0.0f) || std::isinf(amax)) fail("an amax of {} is no absolute maximum", amax);
  return amax;
}

at::Tensor scalar_like(const at::Tensor& x, float value) {
  return at::scalar_tensor(value, x.options().dtype(at::kFloat));
}

void check_scale_dtype(at::ScalarType dtype) {
  if (!is_codec_input(dtype)) fail("scales cannot be {}: give f32, bf16 or f16", c10::toString(dtype));
}

PackedTensor from_encoded(Codec codec, const at::Tensor& weight, EncodedMatrix encoded) {
  if (!encoded.finite) fail_not_finite(weight);
  return {.codec = codec,
          .rows = weight.size(0),
          .columns = weight.size(1),
          .codes = std::move(encoded.codes),
          .scale = std::move(encoded.scale),
          .scale_2 = std::move(encoded.scale_2),
          .zero_point = std::move(encoded.zero_point)};
}

PackedTensor pack_int(Codec codec, const at::Tensor& weight, int64_t block, int code_max,
                      at::ScalarType scale_dtype) {
  return from_encoded(codec, weight, codecs_for(weight).encode_int(weight, block, code_max, scale_dtype));
}

/// Encodes in blocks that share an FP8 scale, [row blocks, column blocks].
PackedTensor pack_fp8_in(Codec codec, const at::Tensor& weight, int64_t block_rows, int64_t block_columns,
                         at::ScalarType scale_dtype) {
  return from_encoded(codec, weight,
                      codecs_for(weight).encode_fp8_blocks(weight, block_rows, block_columns, scale_dtype));
}

at::Tensor checked_activation(const at::Tensor& x, float scale) {
  if (!is_codec_input(x.scalar_type()))
    fail("cannot simulate quantization of type {}: give f32, bf16 or f16", c10::toString(x.scalar_type()));
  if (!(scale > 0.0f) || std::isinf(scale)) fail("an input scale of {} is not positive", scale);
  return x.contiguous();
}

at::Tensor checked_codes(const at::Tensor& codes, at::ScalarType dtype, int64_t dim, int64_t multiple) {
  if (codes.scalar_type() != dtype || codes.dim() != 2 || codes.size(dim) % multiple != 0)
    fail("cannot re-arrange integer codes {} [{}]: {} must be a multiple of {}",
         c10::toString(codes.scalar_type()), fmt::join(codes.sizes(), ", "), dim == 0 ? "rows" : "columns",
         multiple);
  return codes.contiguous();
}

}  // namespace

float absolute_maximum(const at::Tensor& weight) {
  if (!is_codec_input(weight.scalar_type()))
    fail("cannot quantize a weight of type {}: give f32, bf16 or f16", c10::toString(weight.scalar_type()));
  const float amax = codecs_for(weight).absolute_maximum(weight.contiguous());
  if (!std::isfinite(amax)) fail_not_finite(weight);
  return amax;
}

PackedTensor pack_fp8(const at::Tensor& weight, std::optional<float> amax, at::ScalarType scale_dtype) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  const float scale = scale_for(checked_amax(w, amax), kFp8Max, scale_dtype);
  return {.codec = Codec::fp8_e4m3,
          .rows = w.size(0),
          .columns = w.size(1),
          .codes = codecs_for(w).encode_fp8(w, scale),
          .scale = scalar_like(w, scale),
          .scale_2 = {},
          .zero_point = {}};
}

PackedTensor pack_fp8_rows(const at::Tensor& weight, at::ScalarType scale_dtype) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  PackedTensor packed = pack_fp8_in(Codec::fp8_rows, w, 1, w.size(1), scale_dtype);
  packed.scale = packed.scale.view({w.size(0)});
  return packed;
}

PackedTensor pack_fp8_blocks(const at::Tensor& weight, at::ScalarType scale_dtype) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  PackedTensor packed = pack_fp8_in(Codec::fp8_blocks, w, kFp8Block, kFp8Block, scale_dtype);
  packed.block = kFp8Block;
  return packed;
}

PackedTensor pack_int8(const at::Tensor& weight, at::ScalarType scale_dtype, int64_t block) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  if (block > 0) check_block(w, block);
  PackedTensor packed = pack_int(Codec::int8, w, block > 0 ? block : w.size(1), 127, scale_dtype);
  packed.block = block;
  if (block == 0) packed.scale = packed.scale.view({w.size(0)});
  return packed;
}

PackedTensor pack_int4(const at::Tensor& weight, int64_t block, at::ScalarType scale_dtype) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  check_block(w, block);
  PackedTensor packed = pack_int(Codec::int4, w, block, 7, scale_dtype);
  packed.block = block;
  return packed;
}

PackedTensor pack_int4_asym(const at::Tensor& weight, int64_t block, at::ScalarType scale_dtype) {
  const at::Tensor w = checked_matrix(weight);
  check_scale_dtype(scale_dtype);
  check_block(w, block);
  PackedTensor packed =
      from_encoded(Codec::int4_asym, w, codecs_for(w).encode_int4_asym(w, block, scale_dtype));
  packed.block = block;
  return packed;
}

PackedTensor pack_nf4(const at::Tensor& weight) {
  const at::Tensor w = checked_matrix(weight);
  check_block(w, kNf4Block);
  PackedTensor packed = from_encoded(Codec::nf4, w, encode_nf4(w));
  packed.block = kNf4Block;
  return packed;
}

PackedTensor pack_nvfp4(const at::Tensor& weight, std::optional<float> amax, int64_t block, float range) {
  const at::Tensor w = checked_matrix(weight);
  if (block != 16 && block != 32) fail("nvfp4 has no blocks of {}: give 16 or 32", block);
  check_block(w, block);
  const float largest = checked_amax(w, amax);
  const float scale_2 = (largest == 0.0f ? 1.0f : std::max(largest, kSmallestAmax)) / range;
  EncodedMatrix encoded = codecs_for(w).encode_nvfp4(w, block, scale_2);
  return {.codec = Codec::nvfp4,
          .rows = w.size(0),
          .columns = w.size(1),
          .block = block,
          .codes = std::move(encoded.codes),
          .scale = std::move(encoded.scale),
          .scale_2 = scalar_like(w, scale_2),
          .zero_point = {}};
}

PackedTensor pack_mx(const at::Tensor& weight, Codec codec) {
  const at::Tensor w = checked_matrix(weight);
  check_block(w, kMxBlock);
  PackedTensor packed = from_encoded(codec, w, codecs_for(w).encode_mx(w, codec));
  packed.block = kMxBlock;
  return packed;
}

at::Tensor dequantize(const PackedTensor& packed, at::ScalarType dtype) {
  if (!is_codec_input(dtype)) fail("cannot dequantize to {}: give f32, bf16 or f16", c10::toString(dtype));
  const CodecBackend& codecs = codecs_for(packed.codes);
  const at::Tensor codes = packed.codes.contiguous(), scale = packed.scale.contiguous();
  switch (packed.codec) {
    case Codec::fp8_e4m3:
      return codecs.decode_fp8(codes, scale, dtype);
    case Codec::fp8_rows:
      return codecs.decode_fp8_blocks(codes, scale.view({-1, 1}), 1, codes.size(1), dtype);
    case Codec::fp8_blocks:
      return codecs.decode_fp8_blocks(codes, scale, packed.block, packed.block, dtype);
    case Codec::nvfp4:
      return codecs.decode_nvfp4(codes, scale, packed.scale_2, dtype);
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      return codecs.decode_mx(codes, scale, packed.codec, dtype);
    case Codec::int4_asym: {
      // Differences of codes fit their type.
      const at::Tensor zero = packed.zero_point.unsqueeze(-1);  // [rows, blocks, 1]
      const at::Tensor blocks = codes.view({zero.size(0), zero.size(1), -1}) - zero;
      return codecs.decode_int(blocks.view(codes.sizes()), scale, dtype);
    }
    case Codec::nf4:
      return decode_nf4(packed, dtype);
    case Codec::int8:
    case Codec::int4:
      break;
  }
  return codecs.decode_int(codes, scale, dtype);
}

at::Tensor int4_to_row_pairs(const at::Tensor& codes) {
  return codecs_for(codes).int4_to_row_pairs(checked_codes(codes, at::kChar, 0, 2));
}

at::Tensor int4_from_row_pairs(const at::Tensor& bytes) {
  return codecs_for(bytes).int4_from_row_pairs(checked_codes(bytes, at::kByte, 0, 1));
}

at::Tensor int4_to_words(const at::Tensor& codes) {
  return codecs_for(codes).int4_to_words(checked_codes(codes, at::kChar, 1, 8));
}

at::Tensor int4_from_words(const at::Tensor& words) {
  return codecs_for(words).int4_from_words(checked_codes(words, at::kInt, 1, 1));
}

namespace {
// Exchanges the bits of `mask` with those `shift` bits above them; twice gives the same words again.
at::Tensor exchange_bits(const at::Tensor& words, int64_t shift, int64_t mask) {
  const at::Tensor differing = words.bitwise_xor(words.bitwise_right_shift(shift)).bitwise_and_(mask);
  return words.bitwise_xor(differing).bitwise_xor_(differing.bitwise_left_shift(shift));
}

constexpr int64_t kInnerNibbles = 0x00F000F0, kInnerBytes = 0x0000FF00;

const at::Tensor& checked_words(const at::Tensor& words) {
  if (words.scalar_type() != at::kInt)
    fail("cannot re-arrange the nibbles of {}: give int32 words", c10::toString(words.scalar_type()));
  return words;
}
}  // namespace

// 01234567 → 02134657 → 02461357
at::Tensor words_to_awq_order(const at::Tensor& words) {
  return exchange_bits(exchange_bits(checked_words(words), 4, kInnerNibbles), 8, kInnerBytes);
}

at::Tensor words_from_awq_order(const at::Tensor& words) {
  return exchange_bits(exchange_bits(checked_words(words), 8, kInnerBytes), 4, kInnerNibbles);
}

// The offset is the sign bit, turned over.
at::Tensor int8_to_words(const at::Tensor& codes) {
  return checked_codes(codes, at::kChar, 1, 4).bitwise_xor(-128).view(at::kInt);
}

at::Tensor int8_from_words(const at::Tensor& words) {
  return checked_codes(words, at::kInt, 1, 1).view(at::kChar).bitwise_xor(-128);
}

at::Tensor simulate_fp8(const at::Tensor& x, float scale) {
  return codecs_for(x).simulate_fp8(checked_activation(x, scale), scale);
}

at::Tensor simulate_fp8_tokens(const at::Tensor& x) {
  return codecs_for(x).simulate_fp8_tokens(checked_activation(x, /*scale=*/1.0f));
}

at::Tensor simulate_int8_tokens(const at::Tensor& x) {
  return codecs_for(x).simulate_int8_tokens(checked_activation(x, /*scale=*/1.0f));
}

at::Tensor simulate_int8(const at::Tensor& x, float scale) {
  return codecs_for(x).simulate_int8(checked_activation(x, scale), scale);
}

at::Tensor simulate_nvfp4(const at::Tensor& x, float scale) {
  check_block(x, kNvfp4Block);
  return codecs_for(x).simulate_nvfp4(checked_activation(x, scale), scale);
}

at::Tensor simulate_mx(const at::Tensor& x, Codec codec) {
  check_block(x, kMxBlock);
  return codecs_for(x).simulate_mx(checked_activation(x, /*scale=*/1.0f), codec);
}

}  // namespace visq

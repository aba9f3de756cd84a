#include "visq/export/gguf_blocks.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr int64_t kNvfp4Together = 64;  // columns in a block of GGUF's NVFP4, which has four scales

/// [rows, columns / 32], whatever the blocks that the scales are of.
at::Tensor by_ggml_block(const PackedTensor& packed, const at::Tensor& numbers) {
  const int64_t blocks = packed.columns / kGgmlBlock;
  const at::Tensor rows = numbers.view({packed.rows, -1});
  return rows.repeat_interleave(blocks / rows.size(1), 1);
}

/// @param what  "scale"
at::Tensor exact_half(const at::Tensor& numbers, const std::string& name, const char* what) {
  const at::Tensor half = numbers.to(at::kHalf), back = half.to(at::kFloat);
  const at::Tensor wrong = back.ne(numbers).logical_or(at::isfinite(back).logical_not()).flatten();
  if (wrong.any().item<bool>())
    fail("'{}': the {} {} is no F16 number, which GGUF has; quantize the original with --layout gguf", name,
         what, numbers.flatten()[wrong.to(at::kByte).argmax().item<int64_t>()].item<float>());
  return half;
}

/// uint8 [rows, blocks, 2]
at::Tensor bytes_of(const at::Tensor& half) {
  return half.contiguous().view(at::kByte).view({half.size(0), half.size(1), 2});
}

/// uint8 [rows, blocks, block] → [rows, blocks, block / 2]: the first half of a block in the low halves of
/// the bytes.
at::Tensor fold_nibbles(const at::Tensor& codes) {
  const int64_t half = codes.size(2) / 2;
  return codes.narrow(2, 0, half).bitwise_or(codes.narrow(2, half, half).bitwise_left_shift(4));
}
at::Tensor unfold_nibbles(const at::Tensor& bytes) {
  return at::cat({bytes.bitwise_and(0x0F), bytes.bitwise_right_shift(4)}, 2);
}

/// int4 codes → 0 … 15. uint8 [rows, blocks, 32]
at::Tensor offset_codes(const PackedTensor& packed) {
  return packed.codes.to(at::kShort).add_(8).to(at::kByte).view({packed.rows, -1, kGgmlBlock});
}

/// uint8 [rows, columns / 2], even columns in low halves → [rows, blocks, block], and back.
at::Tensor spread_pairs(const at::Tensor& pairs, int64_t block) {
  return at::stack({pairs.bitwise_and(0x0F), pairs.bitwise_right_shift(4)}, 2)
      .view({pairs.size(0), -1, block});
}
at::Tensor join_pairs(const at::Tensor& codes) {
  const at::Tensor pairs = codes.contiguous().view({codes.size(0), -1, 2});
  return pairs.select(2, 0).bitwise_or(pairs.select(2, 1).bitwise_left_shift(4)).contiguous();
}

}  // namespace

std::optional<GgmlType> ggml_type_of(const Scheme& scheme) {
  const bool blocks = scheme.block > 0 && scheme.block % kGgmlBlock == 0;
  if (scheme.weight == Codec::int8 && (scheme.block == 0 || blocks)) return GgmlType::q8_0;
  if (scheme.weight == Codec::int4 && blocks) return GgmlType::q4_0;
  if (scheme.weight == Codec::int4_asym && blocks) return GgmlType::q4_1;
  if (scheme.weight == Codec::mxfp4) return GgmlType::mxfp4;
  const bool inputs = scheme.input == InputFormat::none || scheme.input == InputFormat::nvfp4;
  if (scheme.weight == Codec::nvfp4 && scheme.block == kNvfp4Block && inputs) return GgmlType::nvfp4;
  return std::nullopt;
}

std::string ggml_types_text() {
  return "Q8_0 holds int8 weights, Q4_0 int4 in blocks of 32 or a multiple, Q4_1 the same with zero points, "
         "MXFP4 mxfp4, NVFP4 nvfp4 in blocks of 16";
}

at::Tensor to_ggml_blocks(const PackedTensor& packed, const std::string& name) {
  const int64_t together = packed.codec == Codec::nvfp4 ? kNvfp4Together : kGgmlBlock;
  if (packed.columns % together != 0)
    fail(
        "'{}' has {} columns, no multiple of the {} that GGUF stores together; leave it out with --skip '{}'",
        name, packed.columns, together, name);
  at::Tensor blocks;
  if (packed.codec == Codec::nvfp4) {
    const at::Tensor scale = packed.scale.contiguous().view(at::kByte);
    if (scale.bitwise_and(0x7F).eq(0x7F).any().item<bool>())
      fail("'{}': a scale is NaN, which the NVFP4 of GGUF does not know", name);
    const at::Tensor codes = fold_nibbles(spread_pairs(packed.codes, kNvfp4Block));
    blocks = at::cat({scale.view({packed.rows, -1, together / kNvfp4Block}),
                      codes.reshape({packed.rows, -1, together / 2})},
                     2);
  } else if (packed.codec == Codec::mxfp4) {
    if (packed.scale.eq(255).any().item<bool>())
      fail("'{}': a scale is NaN, which the MXFP4 of GGUF does not know", name);
    blocks = at::cat({packed.scale.unsqueeze(2), fold_nibbles(spread_pairs(packed.codes, kGgmlBlock))}, 2);
  } else {
    const at::Tensor scale = by_ggml_block(packed, packed.scale);
    std::vector<at::Tensor> parts = {bytes_of(exact_half(scale, name, "scale"))};
    if (packed.codec == Codec::int4_asym) {
      const at::Tensor zero = by_ggml_block(packed, packed.zero_point.to(at::kFloat));
      parts.push_back(bytes_of(exact_half(scale * (-8 - zero), name, "offset")));
    }
    parts.push_back(packed.codec == Codec::int8
                        ? packed.codes.contiguous().view(at::kByte).view({packed.rows, -1, kGgmlBlock})
                        : fold_nibbles(offset_codes(packed)));
    blocks = at::cat(parts, 2);
  }
  return blocks.view({packed.rows, -1}).contiguous();
}

PackedTensor from_ggml_blocks(GgmlType type, std::span<const std::byte> bytes, int64_t rows, int64_t columns,
                              const std::string& name) {
  const auto size = static_cast<int64_t>(ggml_type(type).block_bytes),
             together = static_cast<int64_t>(ggml_type(type).block);
  const at::Tensor blocks =
      at::from_blob(const_cast<std::byte*>(bytes.data()), {rows, columns / together, size}, at::kByte);
  PackedTensor packed;
  packed.rows = rows;
  packed.columns = columns;
  packed.block = kGgmlBlock;
  if (type == GgmlType::nvfp4) {
    const int64_t scales = together / kNvfp4Block;
    packed.codec = Codec::nvfp4;
    packed.block = kNvfp4Block;
    packed.scale = blocks.narrow(2, 0, scales).reshape({rows, columns / kNvfp4Block}).clone();
    if (packed.scale.ge(0x7F).any().item<bool>()) fail("'{}': a scale is negative or NaN", name);
    packed.scale = packed.scale.view(at::kFloat8_e4m3fn);
    const at::Tensor codes = blocks.narrow(2, scales, size - scales).reshape({rows, -1, kNvfp4Block / 2});
    packed.codes = join_pairs(unfold_nibbles(codes));
    return packed;
  }
  if (type == GgmlType::mxfp4) {
    packed.codec = Codec::mxfp4;
    packed.scale = blocks.select(2, 0).clone(at::MemoryFormat::Contiguous);
    packed.codes = join_pairs(unfold_nibbles(blocks.narrow(2, 1, size - 1)));
    return packed;
  }
  const auto numbers = [&](int64_t at) {  // [rows, blocks]
    return blocks.narrow(2, at, 2)
        .clone(at::MemoryFormat::Contiguous)
        .view(at::kHalf)
        .squeeze(2)
        .to(at::kFloat);
  };
  packed.scale = numbers(0);
  if (!at::isfinite(packed.scale).all().item<bool>()) fail("'{}': a scale is not finite", name);
  packed.codec = type == GgmlType::q8_0 ? Codec::int8 : Codec::int4;
  int64_t before_codes = 2;
  if (type == GgmlType::q4_1) {
    packed.codec = Codec::int4_asym;
    before_codes = 4;
    const at::Tensor offset = numbers(2), steps = (offset / packed.scale).round();
    if (!((steps * packed.scale).eq(offset) & (steps <= 0) & (steps >= -15)).all().item<bool>())
      fail("'{}': an offset of Q4_1 is none of 0 … −15 times its scale, so that no zero point stands for it",
           name);
    packed.zero_point = (-8 - steps).to(at::kChar);
  }
  const at::Tensor codes = blocks.narrow(2, before_codes, size - before_codes);
  packed.codes = type == GgmlType::q8_0 ? codes.clone(at::MemoryFormat::Contiguous).view(at::kChar)
                                        : unfold_nibbles(codes).to(at::kShort).sub_(8).to(at::kChar);
  packed.codes = packed.codes.reshape({rows, columns});
  return packed;
}

int64_t shared_columns(const PackedTensor& packed, const std::vector<int64_t>& candidates) {
  const int64_t blocks = packed.columns / kGgmlBlock;
  for (const int64_t columns : candidates) {
    const int64_t run = columns == 0 ? blocks : columns / kGgmlBlock;
    if (blocks % run != 0) continue;
    const auto is_shared = [&](const at::Tensor& numbers) {
      if (!numbers.defined()) return true;
      const at::Tensor runs = numbers.view({packed.rows, -1, run});
      return runs.eq(runs.narrow(2, 0, 1)).all().item<bool>();
    };
    if (is_shared(packed.scale) && is_shared(packed.zero_point)) return columns;
  }
  return kGgmlBlock;
}

PackedTensor with_block(const PackedTensor& packed, int64_t block) {
  if (block == packed.block) return packed;
  PackedTensor coarser = packed;
  coarser.block = block;
  const int64_t run = (block == 0 ? packed.columns : block) / packed.block;
  for (at::Tensor* part : {&coarser.scale, &coarser.zero_point})
    if (part->defined()) *part = part->view({packed.rows, -1, run}).select(2, 0).contiguous();
  if (block == 0) coarser.scale = coarser.scale.squeeze(1);
  return coarser;
}

std::optional<GgmlType> ggml_type_of(at::ScalarType dtype) {
  if (dtype == at::kFloat) return GgmlType::f32;
  if (dtype == at::kHalf) return GgmlType::f16;
  if (dtype == at::kBFloat16) return GgmlType::bf16;
  return std::nullopt;
}

std::optional<at::ScalarType> dtype_of(uint32_t ggml_type) {
  switch (static_cast<GgmlType>(ggml_type)) {
    case GgmlType::f32:
      return at::kFloat;
    case GgmlType::f16:
      return at::kHalf;
    case GgmlType::bf16:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}

}  // namespace visq

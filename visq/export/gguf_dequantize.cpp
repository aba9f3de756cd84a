#include "visq/export/gguf_dequantize.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <vector>

#include "visq/core/format.h"

namespace visq {
namespace {

/// Bytes of blocks, taken apart from the front.
class Parts {
 public:
  explicit Parts(at::Tensor blocks) : blocks_(std::move(blocks)) {}

  /// uint8 [blocks, groups, size]
  at::Tensor bytes(int64_t groups, int64_t size) {
    const at::Tensor taken = blocks_.narrow(1, at_, groups * size);
    at_ += groups * size;
    return taken.unflatten(1, {groups, size});
  }
  /// f32 [blocks, 1, 1]
  at::Tensor half() { return bytes(1, 2).clone(at::MemoryFormat::Contiguous).view(at::kHalf).to(at::kFloat); }

 private:
  at::Tensor blocks_;
  int64_t at_ = 0;
};

/// `count` fields of as many bits of every byte, the lowest first. uint8 [blocks, groups, size] →
/// [blocks, groups · count, size]
at::Tensor fields(const at::Tensor& bytes, int64_t bits, int64_t count) {
  std::vector<at::Tensor> each;
  for (int64_t i = 0; i < count; ++i)
    each.push_back(bytes.bitwise_right_shift(bits * i).bitwise_and((1 << bits) - 1));
  return at::stack(each, 2).flatten(1, 2);
}

/// f32 [blocks, groups, ·] of `low` with the bits of `high` above its own.
at::Tensor joined(const at::Tensor& low, const at::Tensor& high, int64_t low_bits, int64_t groups) {
  const int64_t blocks = low.size(0);
  return low.reshape({blocks, groups, -1})
      .bitwise_or(high.reshape({blocks, groups, -1}).bitwise_left_shift(low_bits))
      .to(at::kFloat);
}

at::Tensor q5_0(Parts parts) {
  const at::Tensor scale = parts.half(), high = fields(parts.bytes(4, 1), 1, 8);
  return scale * (joined(fields(parts.bytes(1, 16), 4, 2), high, 4, 1) - 16);
}

at::Tensor q5_1(Parts parts) {
  const at::Tensor scale = parts.half(), least = parts.half(), high = fields(parts.bytes(4, 1), 1, 8);
  return scale * joined(fields(parts.bytes(1, 16), 4, 2), high, 4, 1) + least;
}

at::Tensor q2_k(Parts parts) {
  const at::Tensor both = parts.bytes(16, 1);
  const at::Tensor codes = fields(parts.bytes(2, 32), 2, 4).reshape({-1, 16, 16}).to(at::kFloat);
  const at::Tensor scale = parts.half(), least = parts.half();
  return scale * both.bitwise_and(0x0F).to(at::kFloat) * codes -
         least * both.bitwise_right_shift(4).to(at::kFloat);
}

// A third bit that is not set takes four away.
at::Tensor q3_k(Parts parts) {
  const at::Tensor third = fields(parts.bytes(1, 32), 1, 8).reshape({-1, 16, 16}).to(at::kFloat);
  const at::Tensor codes = fields(parts.bytes(2, 32), 2, 4).reshape({-1, 16, 16}).to(at::kFloat);
  const at::Tensor low = fields(parts.bytes(1, 8), 4, 2), high = fields(parts.bytes(1, 4), 2, 4);
  const at::Tensor scale = parts.half();
  return scale * (joined(low, high, 4, 16) - 32) * (codes - 4 * (1 - third));
}

/// Scales and minima of 6 bits, eight each in twelve bytes: the low six bits of the first eight bytes are
/// those of the first four of either; the others have four bits in the last bytes and two at the top of the
/// first. f32 [blocks, 8, 1]
std::pair<at::Tensor, at::Tensor> scales_and_minima(const at::Tensor& bytes) {
  const at::Tensor scales = bytes.narrow(2, 0, 4), minima = bytes.narrow(2, 4, 4),
                   more = bytes.narrow(2, 8, 4);
  const auto eight = [](const at::Tensor& first, const at::Tensor& low) {
    return at::cat({first.bitwise_and(0x3F), low.bitwise_or(first.bitwise_right_shift(2).bitwise_and(0x30))},
                   2)
        .to(at::kFloat)
        .transpose(1, 2);
  };
  return {eight(scales, more.bitwise_and(0x0F)), eight(minima, more.bitwise_right_shift(4))};
}

at::Tensor q4_k(Parts parts) {
  const at::Tensor scale = parts.half(), least = parts.half();
  const auto [scales, minima] = scales_and_minima(parts.bytes(1, 12));
  return scale * scales * fields(parts.bytes(4, 32), 4, 2).to(at::kFloat) - least * minima;
}

at::Tensor q5_k(Parts parts) {
  const at::Tensor scale = parts.half(), least = parts.half();
  const auto [scales, minima] = scales_and_minima(parts.bytes(1, 12));
  const at::Tensor high = fields(parts.bytes(1, 32), 1, 8);
  return scale * scales * joined(fields(parts.bytes(4, 32), 4, 2), high, 4, 8) - least * minima;
}

at::Tensor q6_k(Parts parts) {
  const at::Tensor low = fields(parts.bytes(2, 64), 4, 2), high = fields(parts.bytes(2, 32), 2, 4);
  const at::Tensor scales =
      parts.bytes(16, 1).clone(at::MemoryFormat::Contiguous).view(at::kChar).to(at::kFloat);
  const at::Tensor scale = parts.half();
  return scale * scales * (joined(low, high, 4, 16) - 32);
}

// The levels of IQ4, whose codes are their places.
at::Tensor levels_at(const at::Tensor& codes) {
  static const at::Tensor levels =
      at::tensor({-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}, at::kFloat);
  return levels.index_select(0, codes.flatten().to(at::kLong)).view(codes.sizes());
}

at::Tensor iq4_nl(Parts parts) {
  const at::Tensor scale = parts.half();
  return scale * levels_at(fields(parts.bytes(1, 16), 4, 2).reshape({-1, 1, 32}));
}

at::Tensor iq4_xs(Parts parts) {
  const at::Tensor scale = parts.half(), high = fields(parts.bytes(2, 1), 2, 4),
                   low = fields(parts.bytes(4, 1), 4, 2);
  const at::Tensor codes = fields(parts.bytes(8, 16), 4, 2).reshape({-1, 8, 32});
  return scale * (joined(low, high, 4, 8) - 32) * levels_at(codes);
}

/// What a block's real numbers are, in any shape.
using Dequantize = at::Tensor (*)(Parts);

const std::map<GgmlType, Dequantize>& dequantizers() {
  static const std::map<GgmlType, Dequantize> all = {
      {GgmlType::q5_0, q5_0}, {GgmlType::q5_1, q5_1},     {GgmlType::q2_k, q2_k},
      {GgmlType::q3_k, q3_k}, {GgmlType::q4_k, q4_k},     {GgmlType::q5_k, q5_k},
      {GgmlType::q6_k, q6_k}, {GgmlType::iq4_nl, iq4_nl}, {GgmlType::iq4_xs, iq4_xs}};
  return all;
}

}  // namespace

bool is_dequantized(uint32_t type) { return dequantizers().contains(static_cast<GgmlType>(type)); }

std::string dequantized_types_text() {
  std::vector<std::string> names;
  for (const auto& [type, dequantize] : dequantizers()) names.emplace_back(ggml_type(type).name);
  return visq::format("{}", fmt::join(names, ", "));
}

at::Tensor dequantize_ggml(GgmlType type, std::span<const std::byte> bytes, int64_t rows, int64_t columns) {
  const auto block = static_cast<int64_t>(ggml_type(type).block),
             size = static_cast<int64_t>(ggml_type(type).block_bytes);
  const int64_t blocks = rows * (columns / block);
  const at::Tensor all = at::from_blob(const_cast<std::byte*>(bytes.data()), {blocks, size}, at::kByte);
  at::Tensor values = at::empty({blocks, block});
  // Embeddings of large vocabularies shall need little more than their values.
  const int64_t at_once = (int64_t{1} << 24) / block;
  for (int64_t begin = 0; begin < blocks; begin += at_once) {
    const int64_t count = std::min(at_once, blocks - begin);
    values.narrow(0, begin, count)
        .copy_(dequantizers().at(type)(Parts(all.narrow(0, begin, count))).reshape({count, block}));
  }
  return values.view({rows, columns});
}

}  // namespace visq

#include <ATen/ATen.h>

#include <algorithm>
#include <numbers>
#include <tuple>
#include <utility>

#include "visq/core/tiled.h"
#include "visq/nn/decoder.h"

namespace visq::nn {
namespace {

/// Radians per position of each pair of channels, fp32 [rotary_dim / 2], computed in the reference's order of
/// operations: at a position in the thousands the last bit of a frequency is visible.
/// @param is_long  longrope: of a sequence of more than original_max_positions tokens
at::Tensor frequencies(const Rope& rope, int64_t head_dim, bool is_long) {
  const int64_t rotary = rope.rotary_dim > 0 ? rope.rotary_dim : head_dim;
  const at::Tensor exponents = at::arange(0, rotary, 2, at::kFloat) / static_cast<double>(rotary);
  if (rope.kind == Rope::Kind::longrope) {
    const at::Tensor factors = at::tensor(is_long ? rope.long_factors : rope.short_factors, at::kFloat);
    return (factors * at::pow(rope.theta, exponents)).reciprocal_();
  }
  const at::Tensor plain = at::pow(rope.theta, exponents).reciprocal_();
  if (rope.kind == Rope::Kind::standard) return plain;
  if (rope.kind == Rope::Kind::linear) return plain / rope.factor;
  // llama3: long waves are stretched, short ones kept, those between blended.
  const double low = rope.low_freq_factor, high = rope.high_freq_factor, length = rope.original_max_positions;
  const at::Tensor wave = plain.reciprocal() * (2 * std::numbers::pi);
  const at::Tensor smooth = (wave.reciprocal() * length - low) / (high - low);
  const at::Tensor blended = (1 - smooth) * plain / rope.factor + smooth * plain;
  const at::Tensor is_stretched = wave > length / low, is_kept = wave < length / high;
  return at::where(is_stretched, plain / rope.factor, at::where(is_kept, plain, blended));
}

/// Angles of each token, fp32 [axes, tokens, rotary_dim / 2]. longrope chooses its factors for each sequence
/// by its length, as the reference does for a batch of one.
at::Tensor angles_of(const Rope& rope, int64_t head_dim, const at::Tensor& positions,
                     std::span<const int64_t> offsets) {
  const at::Device device = positions.device();
  const at::Tensor places = positions.to(at::kFloat).unsqueeze(-1);
  if (rope.kind != Rope::Kind::longrope) return places * frequencies(rope, head_dim, false).to(device);
  const std::vector<int64_t> whole = {0, positions.size(1)};
  if (offsets.empty()) offsets = whole;
  std::vector<at::Tensor> parts;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t begin = offsets[s], count = offsets[s + 1] - begin;
    if (count == 0) continue;
    const auto last = positions.narrow(1, begin, count).max().item<int64_t>();
    const bool is_long = static_cast<double>(last + 1) > rope.original_max_positions;
    parts.push_back(places.narrow(1, begin, count) * frequencies(rope, head_dim, is_long).to(device));
  }
  return parts.empty() ? places * frequencies(rope, head_dim, false).to(device) : at::cat(parts, 1);
}

/// One angle for each frequency: from the axis that it belongs to. [axes, tokens, n] → [tokens, n]
at::Tensor choose_axes(const Rope& rope, const at::Tensor& angles) {
  if (rope.mrope_section.empty()) return angles.select(0, 0);
  const int64_t axes = angles.size(0), count = angles.size(2);
  std::vector<int64_t> axis_of(static_cast<size_t>(count), 0);
  if (rope.mrope_interleaved) {
    for (int64_t axis = 1; axis < static_cast<int64_t>(rope.mrope_section.size()); ++axis)
      for (int64_t i = axis; i < 3 * rope.mrope_section[static_cast<size_t>(axis)] && i < count; i += 3)
        axis_of[static_cast<size_t>(i)] = axis;
  } else {
    size_t place = 0;
    for (size_t section = 0; section < rope.mrope_section.size(); ++section)
      for (int64_t i = 0; i < rope.mrope_section[section]; ++i)
        axis_of[place++] = static_cast<int64_t>(section % 3);
  }
  for (int64_t& axis : axis_of) axis = std::min(axis, axes - 1);
  const at::Tensor index =
      at::tensor(axis_of, at::kLong).to(angles.device()).view({1, 1, -1}).expand({1, angles.size(1), count});
  return angles.gather(0, index).squeeze(0);
}

std::pair<at::Tensor, at::Tensor> rope_pair(const Rope& rope, int64_t head_dim, const at::Tensor& positions,
                                            std::span<const int64_t> offsets, at::ScalarType dtype) {
  const at::Tensor half = choose_axes(rope, angles_of(rope, head_dim, positions, offsets));
  const at::Tensor angles = rope.neighbours ? half.repeat_interleave(2, -1) : at::cat({half, half}, -1);
  if (rope.neighbours) dtype = at::kFloat;
  const auto scaled = [&rope](const at::Tensor& x) {
    return rope.attention_factor == 1 ? x : x * rope.attention_factor;
  };
  const auto cos = [&](const at::Tensor& x) { return scaled(at::cos(x)); };
  const auto sin = [&](const at::Tensor& x) { return scaled(at::sin(x)); };
  return {tiled_map(angles, cos).to(dtype), tiled_map(angles, sin).to(dtype)};
}

}  // namespace

RopeTable rope_table(const DecoderSpec& spec, const at::Tensor& positions, at::ScalarType dtype,
                     std::span<const int64_t> offsets) {
  RopeTable table;
  std::tie(table.cos, table.sin) = rope_pair(spec.rope, spec.head_dim, positions, offsets, dtype);
  if (spec.local_rope)
    std::tie(table.local_cos, table.local_sin) =
        rope_pair(*spec.local_rope, spec.head_dim, positions, offsets, dtype);
  if (spec.query_growth != 0) {
    const at::Tensor steps = (positions.select(0, 0).to(at::kFloat) + 1.0).div_(spec.query_step).floor_();
    table.query_scale = (steps.log1p_() * spec.query_growth + 1.0).view({-1, 1, 1});
  }
  return table;
}

}  // namespace visq::nn

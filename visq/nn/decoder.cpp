#include "visq/nn/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numbers>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq::nn {

const char* role_path(Role role) {
  switch (role) {
    case Role::q:
      return "self_attn.q_proj";
    case Role::k:
      return "self_attn.k_proj";
    case Role::v:
      return "self_attn.v_proj";
    case Role::o:
      return "self_attn.o_proj";
    case Role::gate:
      return "mlp.gate_proj";
    case Role::up:
      return "mlp.up_proj";
    case Role::down:
      return "mlp.down_proj";
  }
  fail("role {} does not exist", static_cast<int>(role));
}

InputGroup group_of(Role role) {
  switch (role) {
    case Role::q:
    case Role::k:
    case Role::v:
      return InputGroup::attn_in;
    case Role::o:
      return InputGroup::attn_out;
    case Role::gate:
    case Role::up:
      return InputGroup::mlp_in;
    case Role::down:
      return InputGroup::mlp_out;
  }
  fail("role {} does not exist", static_cast<int>(role));
}

std::vector<Role> members(InputGroup group) {
  std::vector<Role> roles;
  for (const Role role : kRoles)
    if (group_of(role) == group) roles.push_back(role);
  return roles;
}

const char* group_name(InputGroup group) {
  switch (group) {
    case InputGroup::attn_in:
      return "attn_in";
    case InputGroup::attn_out:
      return "attn_out";
    case InputGroup::mlp_in:
      return "mlp_in";
    case InputGroup::mlp_out:
      return "mlp_out";
  }
  fail("input group {} does not exist", static_cast<int>(group));
}

const Linear& DecoderLayer::linear(Role role) const {
  switch (role) {
    case Role::q:
      return q;
    case Role::k:
      return k;
    case Role::v:
      return v;
    case Role::o:
      return o;
    case Role::gate:
      return gate;
    case Role::up:
      return up;
    case Role::down:
      return down;
  }
  fail("role {} does not exist", static_cast<int>(role));
}

Linear& DecoderLayer::linear(Role role) {
  return const_cast<Linear&>(static_cast<const DecoderLayer&>(*this).linear(role));
}

namespace {

/// Radians per position of each pair of channels, fp32 [head_dim / 2], computed in the reference's order of
/// operations: at a position in the thousands the last bit of a frequency is visible.
at::Tensor frequencies(const Rope& rope, int64_t head_dim) {
  const at::Tensor exponents = at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  const at::Tensor plain = at::pow(rope.theta, exponents).reciprocal_();
  if (rope.kind == Rope::Kind::standard) return plain;
  if (rope.kind == Rope::Kind::linear) return plain / rope.factor;
  // llama3: long waves are stretched, short ones kept, those between blended.
  const double low = rope.low_freq_factor, high = rope.high_freq_factor, length = rope.original_max_positions;
  const at::Tensor wave = plain.reciprocal() * (2 * std::numbers::pi);
  const at::Tensor smooth = (wave.reciprocal() * length - low) / (high - low);
  const at::Tensor blended = (1 - smooth) * plain / rope.factor + smooth * plain;
  const at::Tensor is_long = wave > length / low, is_short = wave < length / high;
  return at::where(is_long, plain / rope.factor, at::where(is_short, plain, blended));
}

void check_lengths(const DecoderSpec& spec, std::span<const int64_t> offsets, const KvCache* cache,
                   int64_t layer_index) {
  if (spec.max_tokens == 0) return;
  const auto check = [&spec](int64_t tokens) {
    if (tokens > spec.max_tokens)
      fail("a sequence of {} tokens is longer than {} ({} tokens)", tokens, spec.max_tokens_reason,
           spec.max_tokens);
  };
  for (size_t s = 0; s + 1 < offsets.size(); ++s) check(offsets[s + 1] - offsets[s]);
  if (cache == nullptr || cache->layers.size() <= static_cast<size_t>(layer_index)) return;
  for (const KvCache::Group& group : cache->layers[static_cast<size_t>(layer_index)])
    for (const int64_t sequence : group.sequences) {
      const auto s = static_cast<size_t>(sequence);
      if (s + 1 < offsets.size()) check(group.length + offsets[s + 1] - offsets[s]);
    }
}

}  // namespace

RopeTable rope_table(const DecoderSpec& spec, const at::Tensor& positions, at::ScalarType dtype) {
  const Rope& rope = spec.rope;
  const at::Tensor inverse = frequencies(rope, spec.head_dim).to(positions.device());
  at::Tensor angles = positions.to(at::kFloat).unsqueeze(-1) * inverse;  // [axes, tokens, head_dim / 2]
  if (rope.mrope_section.empty()) {
    angles = angles.select(0, 0);
  } else {
    std::vector<at::Tensor> sections;
    int64_t begin = 0;
    for (size_t i = 0; i < rope.mrope_section.size(); ++i) {
      const int64_t count = rope.mrope_section[i], axis = static_cast<int64_t>(i % 3);
      sections.push_back(angles.select(0, std::min(axis, angles.size(0) - 1)).narrow(-1, begin, count));
      begin += count;
    }
    angles = at::cat(sections, -1);
  }
  angles = at::cat({angles, angles}, -1);
  const auto cos = [](const at::Tensor& x) { return at::cos(x); };
  const auto sin = [](const at::Tensor& x) { return at::sin(x); };
  return {tiled_map(angles, cos).to(dtype), tiled_map(angles, sin).to(dtype)};
}

at::Tensor decoder_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                         const RopeTable& rope, std::span<const int64_t> offsets,
                         const LayerObserver* observer, KvCache* cache, int64_t layer_index) {
  check_lengths(spec, offsets, cache, layer_index);
  const int64_t tokens = hidden.size(0);
  const auto observe = [observer](InputGroup group, const at::Tensor& x) {
    if (observer != nullptr && observer->input) observer->input(group, x);
  };

  const at::Tensor attn_in = rms_norm(hidden, layer.input_norm, spec.norm_eps);
  observe(InputGroup::attn_in, attn_in);
  const at::Tensor q =
      rotate(apply(layer.q, attn_in).view({tokens, spec.heads, spec.head_dim}), rope.cos, rope.sin);
  at::Tensor k =
      rotate(apply(layer.k, attn_in).view({tokens, spec.kv_heads, spec.head_dim}), rope.cos, rope.sin);
  at::Tensor v = apply(layer.v, attn_in).view({tokens, spec.kv_heads, spec.head_dim});
  if (observer != nullptr && observer->kv) observer->kv(k, v);
  if (layer.key_cache) k = layer.key_cache(k);
  if (layer.value_cache) v = layer.value_cache(v);

  const at::Tensor attn_out = cache != nullptr ? cached_attention(q, k, v, offsets, *cache, layer_index)
                                               : attention(q, k, v, offsets, /*causal=*/true);
  observe(InputGroup::attn_out, attn_out);
  const at::Tensor middle = hidden + apply(layer.o, attn_out);

  const at::Tensor mlp_in = rms_norm(middle, layer.post_norm, spec.norm_eps);
  observe(InputGroup::mlp_in, mlp_in);
  const at::Tensor mlp_out =
      activate(spec.activation, apply(layer.gate, mlp_in)).mul_(apply(layer.up, mlp_in));
  observe(InputGroup::mlp_out, mlp_out);
  return middle + apply(layer.down, mlp_out);
}

}  // namespace visq::nn

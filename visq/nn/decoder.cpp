#include "visq/nn/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/core/tiled.h"

namespace visq::nn {

std::string role_path(const DecoderSpec& spec, int64_t layer, Role role) {
  const auto attention = [&](const char* linear) {
    return visq::format("{}_attn.{}", spec.is_cross(layer) ? "cross" : "self", linear);
  };
  switch (role) {
    case Role::q:
      return attention("q_proj");
    case Role::k:
      return attention("k_proj");
    case Role::v:
      return attention("v_proj");
    case Role::qkv:
      return attention("qkv_proj");
    case Role::o:
      return attention("o_proj");
    case Role::gate:
      return "mlp.gate_proj";
    case Role::up:
      return "mlp.up_proj";
    case Role::gate_up:
      return "mlp.gate_up_proj";
    case Role::down:
      return "mlp.down_proj";
  }
  fail("role {} does not exist", static_cast<int>(role));
}

InputGroup group_of(const DecoderSpec& spec, int64_t layer, Role role) {
  switch (role) {
    case Role::k:
    case Role::v:
      return spec.is_cross(layer) ? InputGroup::cross_in : InputGroup::attn_in;
    case Role::q:
    case Role::qkv:
      return InputGroup::attn_in;
    case Role::o:
      return InputGroup::attn_out;
    case Role::gate:
    case Role::up:
    case Role::gate_up:
      return InputGroup::mlp_in;
    case Role::down:
      return InputGroup::mlp_out;
  }
  fail("role {} does not exist", static_cast<int>(role));
}

std::string linear_path(const DecoderSpec& spec, int64_t layer, const LinearId& id) {
  const std::string path = role_path(spec, layer, id.role);
  const InputGroup group = group_of(spec, layer, id.role);
  const bool mlp = group == InputGroup::mlp_in || group == InputGroup::mlp_out;
  if (!mlp || !spec.is_sparse(layer)) return path;
  const std::string leaf = path.substr(path.find('.') + 1);
  if (id.expert == kNoExpert) return "mlp.shared_expert." + leaf;
  return visq::format("mlp.experts.{}.{}", id.expert, leaf);
}

std::vector<GroupId> groups(const DecoderSpec& spec, int64_t layer) {
  std::vector<GroupId> all = {{InputGroup::attn_in}};
  if (spec.is_cross(layer)) all.push_back({InputGroup::cross_in});
  all.push_back({InputGroup::attn_out});
  const bool sparse = spec.is_sparse(layer);
  if (!sparse || spec.experts.shared > 0)
    for (const InputGroup group : {InputGroup::mlp_in, InputGroup::mlp_out}) all.push_back({group});
  if (sparse)
    for (int64_t expert = 0; expert < spec.experts.count; ++expert)
      for (const InputGroup group : {InputGroup::mlp_in, InputGroup::mlp_out}) all.push_back({group, expert});
  return all;
}

std::vector<LinearId> members(const DecoderSpec& spec, int64_t layer, const GroupId& id) {
  std::vector<LinearId> found;
  for (const Role role : kRoles) {
    if (group_of(spec, layer, role) != id.group) continue;
    const bool attention = role == Role::q || role == Role::k || role == Role::v || role == Role::qkv;
    const bool mlp = role == Role::gate || role == Role::up || role == Role::gate_up;
    const bool fused = role == Role::qkv || role == Role::gate_up;
    const bool wanted = attention ? fused == spec.fused_qkv : mlp ? fused == spec.fused_gate_up : true;
    if (wanted) found.push_back({role, id.expert});
  }
  return found;
}

std::vector<LinearId> linears(const DecoderSpec& spec, int64_t layer) {
  std::vector<LinearId> all;
  for (const GroupId& id : groups(spec, layer))
    std::ranges::copy(members(spec, layer, id), std::back_inserter(all));
  return all;
}

std::vector<LinearId> smoothed_together(const DecoderSpec& spec, int64_t layer, const GroupId& id) {
  std::vector<LinearId> all;
  for (const GroupId& other : groups(spec, layer)) {
    const bool same_norm = other.group == InputGroup::mlp_in && id.group == InputGroup::mlp_in;
    if (other == id || same_norm) std::ranges::copy(members(spec, layer, other), std::back_inserter(all));
  }
  return all;
}

const char* group_name(InputGroup group) {
  switch (group) {
    case InputGroup::attn_in:
      return "attn_in";
    case InputGroup::cross_in:
      return "cross_in";
    case InputGroup::attn_out:
      return "attn_out";
    case InputGroup::mlp_in:
      return "mlp_in";
    case InputGroup::mlp_out:
      return "mlp_out";
  }
  fail("input group {} does not exist", static_cast<int>(group));
}

const char* norm_path(const DecoderSpec& spec, InputGroup group) {
  if (group == InputGroup::attn_in) return "input_layernorm";
  if (group == InputGroup::mlp_in)
    return spec.sandwich_norms ? "pre_feedforward_layernorm" : "post_attention_layernorm";
  return nullptr;
}

RowRange key_rows(const DecoderSpec& spec) {
  const int64_t keys = spec.kv_heads * spec.head_dim;
  if (spec.fused_qkv) return {{Role::qkv}, spec.heads * spec.head_dim, keys};
  return {{Role::k}, 0, keys};
}

RowRange value_rows(const DecoderSpec& spec) {
  const RowRange keys = key_rows(spec);
  if (spec.fused_qkv) return {{Role::qkv}, keys.begin + keys.count, keys.count};
  return {{Role::v}, 0, keys.count};
}

RowRange up_rows(const DecoderSpec& spec, int64_t layer, int64_t expert) {
  if (spec.fused_gate_up) return {{Role::gate_up}, spec.intermediate, spec.intermediate};
  const int64_t width = expert != kNoExpert     ? spec.experts.intermediate
                        : spec.is_sparse(layer) ? spec.experts.shared
                                                : spec.intermediate;
  return {{Role::up, expert}, 0, width};
}

Extent extent_of(const DecoderSpec& spec, int64_t layer, const LinearId& id) {
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  const int64_t width = up_rows(spec, layer, id.expert).count;
  switch (id.role) {
    case Role::q:
      return {queries, spec.hidden};
    case Role::k:
    case Role::v:
      return {keys, spec.hidden};
    case Role::qkv:
      return {queries + 2 * keys, spec.hidden};
    case Role::o:
      return {spec.hidden, queries};
    case Role::gate:
    case Role::up:
      return {width, spec.hidden};
    case Role::gate_up:
      return {2 * width, spec.hidden};
    case Role::down:
      return {spec.hidden, width};
  }
  fail("role {} does not exist", static_cast<int>(id.role));
}

Linear& DecoderLayer::linear(const LinearId& id) {
  Expert* const own = id.expert == kNoExpert ? nullptr : &experts.at(static_cast<size_t>(id.expert));
  switch (id.role) {
    case Role::q:
      return q;
    case Role::k:
      return k;
    case Role::v:
      return v;
    case Role::qkv:
      return qkv;
    case Role::o:
      return o;
    case Role::gate:
      return own != nullptr ? own->gate : gate;
    case Role::up:
      return own != nullptr ? own->up : up;
    case Role::gate_up:
      return gate_up;
    case Role::down:
      return own != nullptr ? own->down : down;
  }
  fail("role {} does not exist", static_cast<int>(id.role));
}

namespace {

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

/// Queries, keys and values before rope, [tokens, heads or kv_heads, head_dim] each.
struct Heads {
  at::Tensor q, k, v;
};

Heads project_heads(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
                    const at::Tensor& adapted) {
  const auto split = [&](const at::Tensor& rows, int64_t heads) {
    return rows.reshape({x.size(0), heads, spec.head_dim});
  };
  Heads heads;
  if (spec.fused_qkv) {
    const RowRange keys = key_rows(spec), values = value_rows(spec);
    const at::Tensor rows = apply(layer.qkv, x, adapted);
    heads = {split(rows.narrow(1, 0, keys.begin), spec.heads),
             split(rows.narrow(1, keys.begin, keys.count), spec.kv_heads),
             split(rows.narrow(1, values.begin, values.count), spec.kv_heads)};
  } else {
    heads = {split(apply(layer.q, x, adapted), spec.heads), split(apply(layer.k, x, adapted), spec.kv_heads),
             split(apply(layer.v, x, adapted), spec.kv_heads)};
  }
  if (spec.qk_norm) {
    heads.q = rms_norm(heads.q, layer.q_norm, spec.norm_eps, spec.norm_plus_one);
    heads.k = rms_norm(heads.k, layer.k_norm, spec.norm_eps, spec.norm_plus_one);
  }
  return heads;
}

/// What tells queries and keys where their tokens stand.
void place_heads(const DecoderSpec& spec, int64_t layer, const RopeTable& rope, at::Tensor& q,
                 at::Tensor& k) {
  if (!spec.is_rotated(layer)) {
    if (rope.query_scale.defined()) q = (q * rope.query_scale).to(q.scalar_type());
    return;
  }
  const bool local = spec.is_windowed(layer) && rope.local_cos.defined();
  const at::Tensor& cos = local ? rope.local_cos : rope.cos;
  const at::Tensor& sin = local ? rope.local_sin : rope.sin;
  for (at::Tensor* const x : {&q, &k}) {
    *x = spec.rope.neighbours ? rotate_neighbours(*x, cos, sin) : rotate(*x, cos, sin);
    if (spec.unit_heads) *x = rms_norm(*x, {}, spec.norm_eps);
  }
}

/// @param x  [tokens, hidden], normalized
at::Tensor dense_mlp(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
                     const LayerObserver* observer, const at::Tensor& adapted) {
  at::Tensor hidden;
  if (spec.fused_gate_up) {
    const at::Tensor both = apply(layer.gate_up, x, adapted);
    hidden = activate(spec.activation, both.narrow(1, 0, spec.intermediate).contiguous())
                 .mul_(both.narrow(1, spec.intermediate, spec.intermediate));
  } else {
    hidden = gated(spec.activation, layer.gate, layer.up, x);
  }
  if (observer != nullptr && observer->input) observer->input(InputGroup::mlp_out, hidden);
  return apply(layer.down, hidden, adapted);
}

/// The MLP of a layer, dense or sparse. @param x  [tokens, hidden], normalized
at::Tensor mlp(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
               const LayerObserver* observer, const at::Tensor& adapted) {
  if (!spec.is_sparse(layer.index)) return dense_mlp(spec, layer, x, observer, adapted);
  const at::Tensor scores = apply(layer.router, x);
  if (observer != nullptr && observer->router) observer->router(scores);
  const at::Tensor routed = run_experts(spec.experts, spec.activation, layer.experts, x, scores,
                                        observer != nullptr ? observer->expert : ExpertObserver());
  return spec.experts.shared > 0 ? dense_mlp(spec, layer, x, observer, adapted).add(routed) : routed;
}

at::Tensor normalize(const DecoderSpec& spec, const Norm& weights, const at::Tensor& x) {
  return rms_norm(x, weights, spec.norm_eps, spec.norm_plus_one);
}

void observe(const LayerObserver* observer, InputGroup group, const at::Tensor& x) {
  if (observer != nullptr && observer->input) observer->input(group, x);
}

}  // namespace

at::Tensor feed_forward(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
                        const LayerObserver* observer, const at::Tensor& adapted) {
  const at::Tensor mlp_in = normalize(spec, layer.mlp_norm, x);
  observe(observer, InputGroup::mlp_in, mlp_in);
  const at::Tensor added = mlp(spec, layer, mlp_in, observer, adapted);
  return spec.sandwich_norms ? normalize(spec, layer.mlp_out_norm, added) : added;
}

at::Tensor decoder_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                         const RopeTable& rope, std::span<const int64_t> offsets,
                         const LayerObserver* observer, KvCache* cache, const at::Tensor& blocks,
                         const CrossInput* vision, const at::Tensor& adapted) {
  if (spec.is_cross(layer.index)) return cross_layer(spec, layer, hidden, offsets, vision, observer, cache);
  check_lengths(spec, offsets, cache, layer.index);
  const at::Tensor attn_in = normalize(spec, layer.input_norm, hidden);
  observe(observer, InputGroup::attn_in, attn_in);
  auto [q, k, v] = project_heads(spec, layer, attn_in, adapted);
  place_heads(spec, layer.index, rope, q, k);
  if (observer != nullptr && observer->kv) observer->kv(k, v);
  if (layer.key_cache) k = layer.key_cache(k);
  if (layer.value_cache) v = layer.value_cache(v);

  AttentionPattern pattern;
  pattern.causal = true;
  pattern.window = spec.is_windowed(layer.index) ? spec.window : 0;
  pattern.chunked = spec.chunked;
  pattern.scale = spec.score_scale;
  pattern.softcap = spec.score_softcap;
  pattern.blocks = blocks;
  pattern.blocks_cross_window = spec.unordered == DecoderSpec::Unordered::prompt;
  const at::Tensor attn_out = cache != nullptr
                                  ? cached_attention(q, k, v, offsets, pattern, *cache, layer.index)
                                  : attention(q, k, v, offsets, pattern);
  observe(observer, InputGroup::attn_out, attn_out);
  at::Tensor added = apply(layer.o, attn_out, adapted);
  if (spec.sandwich_norms) added = normalize(spec, layer.attn_out_norm, added);
  const at::Tensor middle = hidden + added;
  return middle + feed_forward(spec, layer, middle, observer, adapted);
}

}  // namespace visq::nn

// The one decoder block (Llama, Mistral, Qwen2, Qwen2.5-VL): switches in DecoderSpec, weights in
// DecoderLayer. Source: spec/models-llava-vila-qwen.md §1.1.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "visq/nn/kv_cache.h"
#include "visq/nn/ops.h"

namespace visq::nn {

struct Rope {
  enum class Kind { standard, linear, llama3 };
  Kind kind = Kind::standard;
  double theta = 10000;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;  ///< linear: factor; llama3: all
  double original_max_positions = 8192;                          ///< llama3
  /// Frequencies per axis (time, height, width); empty: ordinary 1-d positions.
  std::vector<int64_t> mrope_section;
};

struct DecoderSpec {
  int64_t layers = 0, hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  double norm_eps = 1e-6;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool tied_head = false;  ///< what config.json says; a head tensor in the files wins
  Activation activation = Activation::silu;
  Rope rope;
  /// Longest sequence for which plain causal attention and this rope are what the checkpoint means (a sliding
  /// window, a rope that changes with the length); longer ones are refused. 0: no limit.
  int64_t max_tokens = 0;
  std::string max_tokens_reason;  ///< e.g. "the sliding window of config.json"
};

/// The seven linears of a decoder layer, in the order of the computation.
enum class Role { q, k, v, o, gate, up, down };
inline constexpr Role kRoles[] = {Role::q, Role::k, Role::v, Role::o, Role::gate, Role::up, Role::down};
/// "self_attn.q_proj", …: the path below a layer in every supported checkpoint.
const char* role_path(Role role);

/// Linears that read the same input.
enum class InputGroup { attn_in, attn_out, mlp_in, mlp_out };
inline constexpr InputGroup kInputGroups[] = {InputGroup::attn_in, InputGroup::attn_out, InputGroup::mlp_in,
                                              InputGroup::mlp_out};
InputGroup group_of(Role role);
std::vector<Role> members(InputGroup group);  ///< in the order of the computation
const char* group_name(InputGroup group);     ///< "attn_in", …

struct DecoderLayer {
  Linear q, k, v, o, gate, up, down;
  Norm input_norm, post_norm;
  /// What a quantized KV cache does to keys (after rope) and values, [tokens, kv_heads, head_dim].
  /// Empty: nothing.
  std::function<at::Tensor(const at::Tensor&)> key_cache, value_cache;
  Linear& linear(Role role);
  const Linear& linear(Role role) const;
};

/// What calibration sees of a layer; empty functions are not called.
struct LayerObserver {
  std::function<void(InputGroup, const at::Tensor& x)> input;                ///< x: [tokens, in]
  std::function<void(const at::Tensor& keys, const at::Tensor& values)> kv;  ///< as stored in the cache
};

/// cos and sin for each token, [tokens, head_dim] each, in the dtype of the activations.
struct RopeTable {
  at::Tensor cos, sin;
};
/// @param positions  int64 [axes, tokens]: one axis, or three with mrope
RopeTable rope_table(const DecoderSpec& spec, const at::Tensor& positions, at::ScalarType dtype);

/// One layer over sequences laid end to end. With `cache`, new keys and values are appended to the cache of
/// `layer_index` and each sequence's new tokens attend to all that is cached.
/// @param hidden  [tokens, hidden]; @param offsets  sequence borders, first 0, last = tokens
/// @throws Error when a sequence, with what is cached of it, is longer than spec.max_tokens
at::Tensor decoder_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                         const RopeTable& rope, std::span<const int64_t> offsets,
                         const LayerObserver* observer = nullptr, KvCache* cache = nullptr,
                         int64_t layer_index = 0);

}  // namespace visq::nn

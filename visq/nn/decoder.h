// The one decoder block (Llama, Mistral, Qwen2, Qwen3, Phi-3, Gemma 2 and 3, Mllama,
// Llama 4): switches in
// DecoderSpec, weights in DecoderLayer. Source: spec/models-llava-vila-qwen.md §1.1, spec/models-phi-gemma.md
// §0.1, §5.2, §5.5.
#pragma once
#include <compare>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "visq/nn/cross_attention.h"
#include "visq/nn/experts.h"
#include "visq/nn/kv_cache.h"
#include "visq/nn/ops.h"

namespace visq::nn {

struct Rope {
  enum class Kind { standard, linear, llama3, longrope };
  Kind kind = Kind::standard;
  double theta = 10000;
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;  ///< linear: factor; llama3: all
  double original_max_positions = 8192;                          ///< llama3, longrope
  /// longrope: divisors of the frequencies, [rotary_dim / 2] each, of sequences up to original_max_positions
  /// tokens and of longer ones; cos and sin are multiplied by attention_factor.
  std::vector<double> short_factors, long_factors;
  double attention_factor = 1;
  int64_t rotary_dim = 0;  ///< leading channels of a head that turn; 0: all
  /// Frequencies per axis (time, height, width); empty: ordinary 1-d positions.
  std::vector<int64_t> mrope_section;
  /// The axes of mrope_section alternate from frequency to frequency instead of taking turns in sections
  /// (Qwen3-VL).
  bool mrope_interleaved = false;
  bool neighbours = false;  ///< neighbouring channels turn together, in fp32, instead of halves of a head
};

struct DecoderSpec {
  int64_t layers = 0, hidden = 0, intermediate = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  double norm_eps = 1e-6;
  bool norm_plus_one = false;   ///< RMS norms multiply by 1 + weight (Gemma)
  bool sandwich_norms = false;  ///< norms on the outputs of attention and MLP too (Gemma)
  bool qk_norm = false;         ///< RMS norm of each query and key head before rope
  bool qkv_bias = false, o_bias = false, mlp_bias = false;
  bool fused_qkv = false;      ///< one linear with rows [Q | K | V] (Phi)
  bool fused_gate_up = false;  ///< one linear with rows [gate | up] (Phi)
  bool tied_head = false;      ///< what config.json says; a head tensor in the files wins
  Activation activation = Activation::silu;
  Rope rope;
  double score_scale = 0;          ///< of attention scores; 0: head_dim^−1/2
  double score_softcap = 0;        ///< scores become c·tanh(score / c); 0: off
  double logit_softcap = 0;        ///< the same for logits
  double embed_scale = 1;          ///< of text embeddings, rounded to the compute type
  int64_t window = 0;              ///< tokens that a query of a windowed layer sees, itself included
  std::vector<bool> windowed;      ///< per layer; empty: none
  bool chunked = false;            ///< a window starts at each multiple of its length instead of sliding
  std::optional<Rope> local_rope;  ///< of windowed layers, where it differs
  std::vector<bool> unrotated;     ///< per layer: without rope (Llama 4); empty: none
  bool unit_heads = false;         ///< RMS norm without weights of each query and key head behind rope
  /// Queries of unrotated layers times 1 + growth · ln(1 + ⌊(position + 1) / step⌋).
  double query_growth = 0, query_step = 1;
  ExpertsSpec experts;  ///< layers with a mixture of experts have it in place of the MLP
  /// Per layer: attends to the vision rows of its sequence instead of the tokens, both branches gated;
  /// without images the layer is skipped (Mllama). Empty: none.
  std::vector<bool> cross;
  int64_t extra_embeddings = 0;  ///< rows of the embedding beyond `vocab`, which the head lacks (Mllama: 8)
  /// Which tokens see one another whatever their order: none, those of one image (Gemma 3), or all of the
  /// prompt (PaliGemma).
  enum class Unordered { none, images, prompt } unordered = Unordered::none;
  int64_t first_position = 0;  ///< of a sequence
  /// Longest sequence for which this rope is what the checkpoint means; longer ones are refused. 0: no limit.
  int64_t max_tokens = 0;
  std::string max_tokens_reason;  ///< e.g. "max_position_embeddings, where dynamic rope starts to change"

  bool is_windowed(int64_t layer) const { return !windowed.empty() && windowed[static_cast<size_t>(layer)]; }
  bool is_rotated(int64_t layer) const { return unrotated.empty() || !unrotated[static_cast<size_t>(layer)]; }
  bool is_sparse(int64_t layer) const {
    return experts.count > 0 && experts.sparse[static_cast<size_t>(layer)];
  }
  bool is_cross(int64_t layer) const { return !cross.empty() && cross[static_cast<size_t>(layer)]; }
};

/// The linears of a decoder layer, in the order of the computation. A model has q, k, v or qkv, and gate, up
/// or gate_up.
enum class Role { q, k, v, qkv, o, gate, up, gate_up, down };
inline constexpr Role kRoles[] = {Role::q,    Role::k,  Role::v,       Role::qkv, Role::o,
                                  Role::gate, Role::up, Role::gate_up, Role::down};
/// "self_attn.q_proj", "cross_attn.q_proj", …: the path below a layer in every supported checkpoint.
std::string role_path(const DecoderSpec& spec, int64_t layer, Role role);

/// A linear of a decoder layer. Experts have gate, up and down.
struct LinearId {
  Role role = Role::q;
  int64_t expert = kNoExpert;
  auto operator<=>(const LinearId&) const = default;
};
/// "self_attn.q_proj", "mlp.experts.3.gate_proj", "mlp.shared_expert.gate_proj": the canonical path.
std::string linear_path(const DecoderSpec& spec, int64_t layer, const LinearId& id);
struct Extent {
  int64_t rows, columns;  ///< outputs, inputs
};
Extent extent_of(const DecoderSpec& spec, int64_t layer, const LinearId& id);
inline constexpr const char* kRouterPath = "mlp.gate";

/// Linears that read the same input. cross_in: the vision rows, which k and v of cross layers read.
enum class InputGroup { attn_in, cross_in, attn_out, mlp_in, mlp_out };
inline constexpr InputGroup kInputGroups[] = {InputGroup::attn_in, InputGroup::cross_in, InputGroup::attn_out,
                                              InputGroup::mlp_in, InputGroup::mlp_out};
InputGroup group_of(const DecoderSpec& spec, int64_t layer, Role role);
const char* group_name(InputGroup group);  ///< "attn_in", …

/// The linears of one expert, or of the rest of the layer, that read the same input: engines fuse them.
struct GroupId {
  InputGroup group = InputGroup::attn_in;
  int64_t expert = kNoExpert;
  auto operator<=>(const GroupId&) const = default;
};
/// All groups of a layer, in the order of the computation. Those of mlp_in read the same norm.
std::vector<GroupId> groups(const DecoderSpec& spec, int64_t layer);
std::vector<LinearId> members(const DecoderSpec& spec, int64_t layer, const GroupId& id);  ///< likewise
std::vector<LinearId> linears(const DecoderSpec& spec, int64_t layer);                     ///< of all groups
/// Those that one smoothing scale serves: the members of the group, or, where many groups read one norm, of
/// all those.
std::vector<LinearId> smoothed_together(const DecoderSpec& spec, int64_t layer, const GroupId& id);
/// The norm whose output a group reads, as a path below a layer; nullptr for the other groups.
const char* norm_path(const DecoderSpec& spec, InputGroup group);

/// Rows of a linear: all of it, or a part of a fused one.
struct RowRange {
  LinearId linear;
  int64_t begin, count;
};
RowRange key_rows(const DecoderSpec& spec);    ///< that make the keys
RowRange value_rows(const DecoderSpec& spec);  ///< that make the values, which o reads after attention
/// That down's input is a multiple of. @param expert  whose
RowRange up_rows(const DecoderSpec& spec, int64_t layer, int64_t expert);

struct DecoderLayer {
  int64_t index = 0;  ///< its place in the model
  Linear q, k, v, qkv, o, gate, up, gate_up, down;
  Linear router;  ///< [experts, hidden], of a sparse layer; gate, up and down are the shared MLP
  std::vector<Expert> experts;  ///< of a sparse layer
  Norm input_norm, mlp_norm;
  Norm attn_out_norm, mlp_out_norm;  ///< with sandwich_norms
  Norm q_norm, k_norm;               ///< [head_dim], with qk_norm, and of cross layers
  at::Tensor attn_gate, mlp_gate;    ///< [1], of cross layers: a branch counts tanh(gate) times
  /// What a quantized KV cache does to keys (after rope) and values, [tokens or vision rows, kv_heads,
  /// head_dim]. Empty: nothing.
  std::function<at::Tensor(const at::Tensor&)> key_cache, value_cache;
  Linear& linear(const LinearId& id);
};

/// What calibration sees of a layer; empty functions are not called. Of a cross layer: only what has an
/// effect, so tokens of sequences with images, and in the MLP those that see an image.
struct LayerObserver {
  std::function<void(InputGroup, const at::Tensor& x)> input;  ///< x: [tokens or vision rows, in]
  std::function<void(const at::Tensor& keys, const at::Tensor& values)> kv;  ///< as stored in the cache
  /// Before the experts run: the router's output, [tokens, experts].
  std::function<void(const at::Tensor& scores)> router;
  ExpertObserver expert;  ///< routed experts; the shared MLP is seen by `input`
};

/// cos and sin for each token, [tokens, rotary_dim] each, in the dtype of the activations (fp32 where
/// neighbours turn together).
struct RopeTable {
  at::Tensor cos, sin;
  at::Tensor local_cos, local_sin;  ///< of windowed layers; undefined: the same
  at::Tensor query_scale;           ///< fp32 [tokens, 1, 1], of unrotated layers; undefined: 1
};
/// @param positions  int64 [axes, tokens]: one axis, or three with mrope
/// @param offsets    sequence borders, which longrope needs; empty: one sequence
RopeTable rope_table(const DecoderSpec& spec, const at::Tensor& positions, at::ScalarType dtype,
                     std::span<const int64_t> offsets = {});

/// The MLP branch, norms included: what is added to x. @param x  [tokens, hidden]
at::Tensor feed_forward(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
                        const LayerObserver* observer = nullptr, const at::Tensor& adapted = {});

/// One layer over sequences laid end to end. With `cache`, new keys and values are appended to the cache of
/// this layer and each sequence's new tokens attend to all that is cached.
/// @param hidden   [tokens, hidden]; @param offsets  sequence borders, first 0, last = tokens
/// @param blocks   int64 [tokens]: tokens with the same number ≥ 0 see one another; undefined: plain causal
/// @param vision   what cross layers read; nullptr: what `cache` has kept of it, or no images
/// @param adapted  [tokens, 1] in the dtype of hidden: 1 where linears have their adapter; undefined: nowhere
/// @throws Error when a sequence, with what is cached of it, is longer than spec.max_tokens
at::Tensor decoder_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                         const RopeTable& rope, std::span<const int64_t> offsets,
                         const LayerObserver* observer = nullptr, KvCache* cache = nullptr,
                         const at::Tensor& blocks = {}, const CrossInput* vision = nullptr,
                         const at::Tensor& adapted = {});

}  // namespace visq::nn

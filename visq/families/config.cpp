#include "visq/families/config.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace visq {
namespace {

using Biases = TextDefaults::Biases;

constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxTokenIds = 1 << 26;
constexpr int64_t kMaxExperts = 4096;

bool is_absent(const Json& object, const std::string& key) {
  return !object.is_object() || !object.contains(key);
}

void read_llama3(nn::Rope& rope, const Json& rules, int64_t max_positions, const std::string& origin) {
  rope.kind = nn::Rope::Kind::llama3;
  rope.factor = require<double>(rules, "factor", origin + ": rope_scaling");
  rope.low_freq_factor = require<double>(rules, "low_freq_factor", origin + ": rope_scaling");
  rope.high_freq_factor = require<double>(rules, "high_freq_factor", origin + ": rope_scaling");
  rope.original_max_positions =
      get_or<double>(rules, "original_max_position_embeddings", static_cast<double>(max_positions), origin);
}

/// Source: spec/models-phi-gemma.md §0.3.
void read_longrope(nn::Rope& rope, const Json& config, const Json& rules, const TextDefaults& defaults,
                   int64_t max_positions, int64_t head_dim, const std::string& origin) {
  rope.kind = nn::Rope::Kind::longrope;
  rope.short_factors = require<std::vector<double>>(rules, "short_factor", origin + ": rope_scaling");
  rope.long_factors = require<std::vector<double>>(rules, "long_factor", origin + ": rope_scaling");
  const auto pairs = static_cast<size_t>((rope.rotary_dim > 0 ? rope.rotary_dim : head_dim) / 2);
  for (const auto* factors : {&rope.short_factors, &rope.long_factors})
    if (factors->size() != pairs || std::ranges::any_of(*factors, [](double f) { return !(f > 0); }))
      fail("{}: 'short_factor' and 'long_factor' of rope_scaling must be {} positive numbers each", origin,
           pairs);
  rope.original_max_positions = get_or<double>(
      rules, "original_max_position_embeddings",
      get_or<double>(config, "original_max_position_embeddings", defaults.original_max_positions, origin),
      origin);
  const double stretch = get_or<double>(
      rules, "factor", static_cast<double>(max_positions) / rope.original_max_positions, origin);
  const double computed =
      stretch <= 1 ? 1 : std::sqrt(1 + std::log(stretch) / std::log(rope.original_max_positions));
  rope.attention_factor = get_or<double>(rules, "attention_factor", computed, origin);
}

/// 4.x: rope_theta + rope_scaling {type | rope_type, …}; 5.x: rope_parameters {rope_type, rope_theta, …}.
nn::Rope read_rope(const Json& config, const Json& rules, const TextDefaults& defaults, double theta,
                   int64_t max_positions, int64_t head_dim, const std::string& origin) {
  nn::Rope rope;
  rope.theta = get_or<double>(rules, "rope_theta", theta, origin);
  const auto type =
      get_or<std::string>(rules, "rope_type", get_or<std::string>(rules, "type", "default", origin), origin);
  rope.mrope_section = get_or<std::vector<int64_t>>(rules, "mrope_section", {}, origin);
  rope.mrope_interleaved = get_or<bool>(rules, "mrope_interleaved", defaults.mrope_interleaved, origin);
  const double partial = get_or<double>(rules, "partial_rotary_factor",
                                        get_or<double>(config, "partial_rotary_factor", 1.0, origin), origin);
  if (!(partial > 0 && partial <= 1)) fail("{}: 'partial_rotary_factor' is {}", origin, partial);
  if (partial != 1) rope.rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * partial);
  if (rope.rotary_dim % 2 != 0) fail("{}: {} rotating channels are an odd number", origin, rope.rotary_dim);
  if (type == "linear") {
    rope.kind = nn::Rope::Kind::linear;
    rope.factor = require<double>(rules, "factor", origin + ": rope_scaling");
  } else if (type == "llama3") {
    read_llama3(rope, rules, max_positions, origin);
  } else if (type == "longrope" || type == "su") {
    read_longrope(rope, config, rules, defaults, max_positions, head_dim, origin);
  } else if (type != "default" && type != "mrope" && type != "dynamic") {
    fail("{}: rope type '{}' is not supported (default, linear, llama3, longrope, dynamic and mrope are)",
         origin, type);
  }
  if (!(rope.theta > 0) || !(rope.factor > 0) || !(rope.original_max_positions > 1))
    fail("{}: rope theta, factor and original length must be positive", origin);
  return rope;
}

void limit_tokens(nn::DecoderSpec& spec, int64_t limit, const std::string& reason) {
  if (spec.max_tokens != 0 && spec.max_tokens <= limit) return;
  spec.max_tokens = limit;
  spec.max_tokens_reason = reason;
}

/// The rope of all layers, and of windowed ones where it differs (Gemma 3: one set of rules a layer type).
void read_ropes(const Json& config, const TextDefaults& defaults, nn::DecoderSpec& spec,
                const std::string& origin) {
  const auto max_positions =
      get_or<int64_t>(config, "max_position_embeddings", defaults.max_positions, origin);
  const Json none = Json::object();
  const Json* rules = &object_or(config, "rope_parameters", none);
  // rope_scaling wins over rope_parameters, as in the reference.
  if (const Json& scaling = object_or(config, "rope_scaling", none); !scaling.empty()) rules = &scaling;
  const Json& parameters = object_or(config, "rope_parameters", none);
  const Json& local_rules = object_or(parameters, "sliding_attention", none);
  if (const Json& full = object_or(parameters, "full_attention", none); !full.empty()) rules = &full;
  const double theta = get_or<double>(config, "rope_theta", defaults.theta, origin);
  spec.rope = read_rope(config, *rules, defaults, theta, max_positions, spec.head_dim, origin);
  if (defaults.local_theta > 0)
    spec.local_rope = read_rope(config, local_rules, defaults,
                                get_or<double>(config, "rope_local_base_freq", defaults.local_theta, origin),
                                max_positions, spec.head_dim, origin);
  // Dynamic rope is the ordinary one up to max_position_embeddings: such checkpoints run, longer sequences
  // are refused.
  const auto type =
      get_or<std::string>(*rules, "rope_type", get_or<std::string>(*rules, "type", "", origin), origin);
  if (type == "dynamic")
    limit_tokens(spec, max_positions, "max_position_embeddings, where dynamic rope starts to change");
}

/// Which layers attend in a window. JSON null and an absent key differ for Mistral (spec §1.1).
void read_windows(const Json& config, const TextDefaults& defaults, nn::DecoderSpec& spec,
                  const std::string& origin) {
  using Window = TextDefaults::Window;
  const bool switched_on =
      defaults.window != Window::when_enabled || get_or<bool>(config, "use_sliding_window", false, origin);
  if (defaults.window == Window::none || !switched_on) return;
  const bool silent = is_absent(config, "sliding_window") && defaults.window != Window::when_given;
  spec.window = silent ? 4096 : get_or<int64_t>(config, "sliding_window", 0, origin);
  if (spec.window < 0) fail("{}: 'sliding_window' is {}", origin, spec.window);
  if (spec.window == 0) return;
  const auto types = get_or<std::vector<std::string>>(config, "layer_types", {}, origin);
  const auto first = get_or<int64_t>(config, "max_window_layers", 28, origin);
  const auto pattern = get_or<int64_t>(config, "sliding_window_pattern", defaults.window_pattern, origin);
  if (!types.empty() && static_cast<int64_t>(types.size()) != spec.layers)
    fail("{}: 'layer_types' has {} entries for {} layers", origin, types.size(), spec.layers);
  if (defaults.window == Window::pattern && pattern < 1)
    fail("{}: 'sliding_window_pattern' is {}", origin, pattern);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    bool windowed = true;
    if (!types.empty())
      windowed = types[static_cast<size_t>(layer)] == "sliding_attention";
    else if (defaults.window == Window::when_enabled)
      windowed = layer >= first;
    else if (defaults.window == Window::pattern)
      windowed = (layer + 1) % pattern != 0;
    spec.windowed.push_back(windowed);
  }
}

/// Which layers have experts, and what they are (Qwen's keys). Absent where the class has none.
void read_experts(const Json& config, const TextDefaults& defaults, nn::DecoderSpec& spec,
                  const std::string& origin) {
  if (defaults.experts.count == 0) return;
  nn::ExpertsSpec& experts = spec.experts;
  const char* const count_key = is_absent(config, "num_experts") ? "num_local_experts" : "num_experts";
  experts.count = read_extent(config, count_key, defaults.experts.count, kMaxExperts, origin);
  experts.per_token =
      read_extent(config, "num_experts_per_tok", defaults.experts.per_token, experts.count, origin);
  experts.intermediate =
      read_extent(config, "moe_intermediate_size", defaults.experts.intermediate, kMaxWidth, origin);
  experts.normalize =
      defaults.experts.always_normalized || get_or<bool>(config, "norm_topk_prob", false, origin);
  const int64_t step = read_extent(config, "decoder_sparse_step", 1, kMaxLayers, origin);
  const std::vector<int64_t> dense = read_integers(config, "mlp_only_layers", origin);
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    experts.sparse.push_back((layer + 1) % step == 0 && std::ranges::find(dense, layer) == dense.end());
}

}  // namespace

const Json& object_or(const Json& config, const std::string& key, const Json& otherwise) {
  return config.is_object() && config.contains(key) && config.at(key).is_object() ? config.at(key)
                                                                                  : otherwise;
}

int64_t read_extent(const Json& object, const std::string& key, int64_t fallback, int64_t limit,
                    const std::string& origin) {
  int64_t value = fallback;
  if (object.is_object() && object.contains(key) && object.at(key).is_array()) {
    const auto values = read_integers(object, key, origin);
    if (values.empty() || std::ranges::any_of(values, [&](int64_t v) { return v != values.front(); }))
      fail("{}: '{}' is {}: only equal extents are supported", origin, key, json_excerpt(object.at(key)));
    value = values.front();
  } else {
    value = get_or<int64_t>(object, key, fallback, origin);
  }
  if (value < 1 || value > limit) fail("{}: '{}' is {}, outside 1..{}", origin, key, value, limit);
  return value;
}

std::vector<int64_t> read_integers(const Json& object, const std::string& key, const std::string& origin) {
  if (!object.is_object() || !object.contains(key) || object.at(key).is_null()) return {};
  if (object.at(key).is_number_integer()) return {get_or<int64_t>(object, key, 0, origin)};
  return get_or<std::vector<int64_t>>(object, key, {}, origin);
}

std::vector<int64_t> read_eos(const Json& config, const Json& text, const TextDefaults& defaults,
                              const std::string& origin) {
  for (const Json* const object : {&config, &text})
    if (auto ids = read_integers(*object, "eos_token_id", origin); !ids.empty()) return ids;
  if (defaults.eos) return {*defaults.eos};
  return {};
}

std::optional<int64_t> read_bos(const Json& text, const TextDefaults& defaults, const std::string& origin) {
  const auto ids = read_integers(text, "bos_token_id", origin);
  return ids.empty() ? defaults.bos : ids.front();
}

int64_t read_image_token(const Json& config, int64_t otherwise, const std::string& origin) {
  return get_or<int64_t>(config, "image_token_index",
                         get_or<int64_t>(config, "image_token_id", otherwise, origin), origin);
}

bool read_tied(const Json& config, const Json& text, const std::string& origin) {
  return get_or<bool>(config, "tie_word_embeddings", false, origin) ||
         get_or<bool>(text, "tie_word_embeddings", false, origin);
}

nn::DecoderSpec read_decoder(const Json& config, const TextDefaults& defaults, const std::string& origin) {
  nn::DecoderSpec spec;
  spec.vocab = read_extent(config, "vocab_size", defaults.vocab, kMaxTokenIds, origin);
  spec.hidden = read_extent(config, "hidden_size", defaults.hidden, kMaxWidth, origin);
  spec.intermediate = read_extent(config, "intermediate_size", defaults.intermediate, kMaxWidth, origin);
  spec.layers = read_extent(config, "num_hidden_layers", defaults.layers, kMaxLayers, origin);
  spec.heads = read_extent(config, "num_attention_heads", defaults.heads, kMaxWidth, origin);
  const int64_t kv_default =
      is_absent(config, "num_key_value_heads") ? defaults.kv_heads.value_or(spec.heads) : spec.heads;
  spec.kv_heads = read_extent(config, "num_key_value_heads", kv_default, kMaxWidth, origin);
  spec.head_dim = read_extent(config, "head_dim",
                              defaults.head_dim.value_or(std::max<int64_t>(spec.hidden / spec.heads, 1)),
                              kMaxWidth, origin);
  if (spec.heads % spec.kv_heads != 0)
    fail("{}: {} attention heads cannot share {} key/value heads", origin, spec.heads, spec.kv_heads);
  if (spec.head_dim % 2 != 0) fail("{}: head dimension {} is odd", origin, spec.head_dim);
  spec.norm_eps = get_or<double>(config, "rms_norm_eps", defaults.norm_eps, origin);
  // Gemma's older files say hidden_act, which its class ignores.
  const char* const act_key = defaults.norm_plus_one ? "hidden_activation" : "hidden_act";
  spec.activation =
      nn::parse_activation(get_or<std::string>(config, act_key, defaults.activation, origin), origin);
  spec.norm_plus_one = defaults.norm_plus_one;
  spec.sandwich_norms = defaults.sandwich_norms;
  spec.qk_norm = defaults.qk_norm;
  spec.fused_qkv = spec.fused_gate_up = defaults.fused;
  spec.qkv_bias = defaults.biases == Biases::qkv;
  if (defaults.biases == Biases::from_config || defaults.biases == Biases::attention)
    spec.qkv_bias = spec.o_bias = get_or<bool>(config, "attention_bias", false, origin);
  if (defaults.biases == Biases::from_config) spec.mlp_bias = get_or<bool>(config, "mlp_bias", false, origin);
  if (defaults.scaled_embedding) spec.embed_scale = std::sqrt(static_cast<double>(spec.hidden));
  if (defaults.query_scalar > 0)
    spec.score_scale =
        1 / std::sqrt(get_or<double>(config, "query_pre_attn_scalar", defaults.query_scalar, origin));
  if (defaults.score_softcap > 0)
    spec.score_softcap = get_or<double>(config, "attn_logit_softcapping", defaults.score_softcap, origin);
  if (defaults.logit_softcap > 0)
    spec.logit_softcap = get_or<double>(config, "final_logit_softcapping", defaults.logit_softcap, origin);
  read_ropes(config, defaults, spec, origin);
  read_windows(config, defaults, spec, origin);
  read_experts(config, defaults, spec, origin);
  return spec;
}

}  // namespace visq

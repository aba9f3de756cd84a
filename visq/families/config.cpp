#include "visq/families/config.h"

#include <algorithm>

namespace visq {
namespace {

constexpr int64_t kMaxWidth = 1 << 20;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxTokenIds = 1 << 26;

bool is_absent(const Json& object, const std::string& key) {
  return !object.is_object() || !object.contains(key);
}

/// 4.x: rope_theta + rope_scaling {type | rope_type, …}; 5.x: rope_parameters {rope_type, rope_theta, …}.
nn::Rope read_rope(const Json& config, const TextDefaults& defaults, const std::string& origin,
                   bool& is_dynamic) {
  nn::Rope rope;
  Json rules = Json::object();
  for (const char* key : {"rope_parameters", "rope_scaling"})  // the latter wins, as in the reference
    if (config.contains(key) && config.at(key).is_object() && !config.at(key).empty()) rules = config.at(key);
  rope.theta = get_or<double>(rules, "rope_theta",
                              get_or<double>(config, "rope_theta", defaults.theta, origin), origin);
  const auto type =
      get_or<std::string>(rules, "rope_type", get_or<std::string>(rules, "type", "default", origin), origin);
  rope.mrope_section = get_or<std::vector<int64_t>>(rules, "mrope_section", {}, origin);
  is_dynamic = type == "dynamic";
  if (type == "linear") {
    rope.kind = nn::Rope::Kind::linear;
    rope.factor = require<double>(rules, "factor", origin + ": rope_scaling");
  } else if (type == "llama3") {
    rope.kind = nn::Rope::Kind::llama3;
    rope.factor = require<double>(rules, "factor", origin + ": rope_scaling");
    rope.low_freq_factor = require<double>(rules, "low_freq_factor", origin + ": rope_scaling");
    rope.high_freq_factor = require<double>(rules, "high_freq_factor", origin + ": rope_scaling");
    rope.original_max_positions =
        get_or<double>(rules, "original_max_position_embeddings",
                       get_or<double>(config, "max_position_embeddings",
                                      static_cast<double>(defaults.max_positions), origin),
                       origin);
  } else if (type != "default" && type != "mrope" && type != "dynamic") {
    fail("{}: rope type '{}' is not supported (default, linear, llama3, dynamic and mrope are)", origin,
         type);
  }
  if (get_or<double>(rules, "partial_rotary_factor", 1.0, origin) != 1.0)
    fail("{}: 'partial_rotary_factor' other than 1 is not supported", origin);
  if (!(rope.theta > 0) || !(rope.factor > 0)) fail("{}: rope theta and factor must be positive", origin);
  return rope;
}

/// 0: no window. JSON null and an absent key differ for Mistral (spec §1.1).
int64_t read_window(const Json& config, const TextDefaults& defaults, int64_t layers,
                    const std::string& origin) {
  switch (defaults.window) {
    case TextDefaults::Window::none:
      return 0;
    case TextDefaults::Window::when_absent_4096:
      return is_absent(config, "sliding_window") ? 4096
                                                 : get_or<int64_t>(config, "sliding_window", 0, origin);
    case TextDefaults::Window::when_enabled:
      if (!get_or<bool>(config, "use_sliding_window", false, origin)) return 0;
      if (get_or<int64_t>(config, "max_window_layers", 28, origin) >= layers) return 0;
      return is_absent(config, "sliding_window") ? 4096
                                                 : get_or<int64_t>(config, "sliding_window", 0, origin);
  }
  return 0;
}

/// Attention in a window and plain causal attention agree up to the length of the window, and so does dynamic
/// rope up to max_position_embeddings: such checkpoints run, longer sequences are refused.
void limit_tokens(nn::DecoderSpec& spec, int64_t limit, const std::string& reason) {
  if (spec.max_tokens != 0 && spec.max_tokens <= limit) return;
  spec.max_tokens = limit;
  spec.max_tokens_reason = reason;
}

// clang-format off
constexpr TextDefaults kLlama{
    .vocab = 32000, .hidden = 4096, .intermediate = 11008, .layers = 32, .heads = 32, .kv_heads = std::nullopt,
    .max_positions = 2048, .norm_eps = 1e-6, .theta = 1e4, .biases = TextDefaults::Biases::from_config,
    .window = TextDefaults::Window::none, .bos = 1, .eos = 2};
constexpr TextDefaults kMistral{
    .vocab = 32000, .hidden = 4096, .intermediate = 14336, .layers = 32, .heads = 32, .kv_heads = 8,
    .max_positions = 131072, .norm_eps = 1e-6, .theta = 1e4, .biases = TextDefaults::Biases::none,
    .window = TextDefaults::Window::when_absent_4096, .bos = 1, .eos = 2};
constexpr TextDefaults kQwen2{
    .vocab = 151936, .hidden = 4096, .intermediate = 22016, .layers = 32, .heads = 32, .kv_heads = 32,
    .max_positions = 32768, .norm_eps = 1e-6, .theta = 1e4, .biases = TextDefaults::Biases::qkv,
    .window = TextDefaults::Window::when_enabled, .bos = std::nullopt, .eos = std::nullopt};
// clang-format on

}  // namespace

const TextDefaults& text_defaults(const std::string& model_type, const std::string& origin) {
  if (model_type == "llama") return kLlama;
  if (model_type == "mistral") return kMistral;
  if (model_type == "qwen2") return kQwen2;
  fail("{}: text model '{}' is not supported (llama, mistral and qwen2 are)", origin, model_type);
}

int64_t read_extent(const Json& object, const std::string& key, int64_t fallback, int64_t limit,
                    const std::string& origin) {
  int64_t value = fallback;
  if (object.is_object() && object.contains(key) && object.at(key).is_array()) {
    const auto values = read_integers(object, key, origin);
    if (values.empty() || std::ranges::any_of(values, [&](int64_t v) { return v != values.front(); }))
      fail("{}: '{}' is {}: only equal extents are supported", origin, key,
           object.at(key).dump().substr(0, 60));
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
  spec.head_dim =
      read_extent(config, "head_dim", std::max<int64_t>(spec.hidden / spec.heads, 1), kMaxWidth, origin);
  if (spec.heads % spec.kv_heads != 0)
    fail("{}: {} attention heads cannot share {} key/value heads", origin, spec.heads, spec.kv_heads);
  if (spec.head_dim % 2 != 0) fail("{}: head dimension {} is odd", origin, spec.head_dim);
  spec.norm_eps = get_or<double>(config, "rms_norm_eps", defaults.norm_eps, origin);
  spec.activation = nn::parse_activation(get_or<std::string>(config, "hidden_act", "silu", origin), origin);
  spec.qkv_bias = defaults.biases == TextDefaults::Biases::qkv;
  if (defaults.biases == TextDefaults::Biases::from_config) {
    spec.qkv_bias = spec.o_bias = get_or<bool>(config, "attention_bias", false, origin);
    spec.mlp_bias = get_or<bool>(config, "mlp_bias", false, origin);
  }
  bool is_dynamic = false;
  spec.rope = read_rope(config, defaults, origin, is_dynamic);
  const auto max_positions =
      get_or<int64_t>(config, "max_position_embeddings", defaults.max_positions, origin);
  if (is_dynamic)
    limit_tokens(spec, max_positions, "max_position_embeddings, where dynamic rope starts to change");
  const int64_t window = read_window(config, defaults, spec.layers, origin);
  if (window < 0) fail("{}: 'sliding_window' is {}", origin, window);
  if (window > 0 && window < max_positions)
    limit_tokens(spec, window, "the sliding window, which is not supported");
  return spec;
}

}  // namespace visq

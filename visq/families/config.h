// config.json → decoder switches: class defaults of the text models and the spellings of rope.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/families/family.h"

namespace visq {

/// What a text model's class assumes where config.json is silent, and what its class fixes.
/// Source: spec/models-llava-vila-qwen.md §1.1, spec/models-phi-gemma.md §1.1, §3.2, §4.1, §5.4.
struct TextDefaults {
  int64_t vocab, hidden, intermediate, layers, heads;
  std::optional<int64_t> kv_heads;  ///< when the key is absent; empty, or the key null: as many as heads
  std::optional<int64_t> head_dim = std::nullopt;  ///< empty: hidden / heads
  int64_t max_positions;
  double norm_eps, theta;
  /// from_config: attention_bias for q, k, v and o, and mlp_bias; attention: the former only
  enum class Biases { none, from_config, attention, qkv } biases = Biases::none;
  /// none; all layers, 4096 tokens when the key is absent; all layers when the key is given; layers from
  /// max_window_layers on, when switched on; all but every pattern-th layer
  enum class Window { none, when_absent_4096, when_given, when_enabled, pattern } window = Window::none;
  int64_t window_pattern = 0;
  const char* activation = "silu";
  bool norm_plus_one = false, sandwich_norms = false, qk_norm = false, fused = false,
       scaled_embedding = false;
  double query_scalar = 0;  ///< attention scores are divided by its root; 0: by that of head_dim
  double local_theta = 0;   ///< of windowed layers; 0: as the others
  double score_softcap = 0, logit_softcap = 0;
  double original_max_positions = 4096;  ///< longrope
  bool mrope_interleaved = false;
  struct Experts {
    int64_t count = 0, per_token = 0, intermediate = 0;
    bool always_normalized = false;  ///< whatever "norm_topk_prob" says
  } experts = {};
  std::optional<int64_t> bos = std::nullopt, eos = std::nullopt;
};

/// Of a `model_type` of text_config. @throws Error for another, which lists those that are supported
const TextDefaults& text_defaults(const std::string& model_type, const std::string& origin);

/// @param config  text_config, or the root of a flat config
nn::DecoderSpec read_decoder(const Json& config, const TextDefaults& defaults, const std::string& origin);

/// The object under `key`, or another one.
const Json& object_or(const Json& config, const std::string& key, const Json& otherwise);
/// An integer or a list of integers under `key`; empty when absent or null.
std::vector<int64_t> read_integers(const Json& object, const std::string& key, const std::string& origin);
/// The value of `key`, or the one value of a list of equal ones ([14, 14]). @throws Error outside 1 … `limit`
int64_t read_extent(const Json& object, const std::string& key, int64_t fallback, int64_t limit,
                    const std::string& origin);
/// eos_token_id of the root, else of text_config, else the class default.
std::vector<int64_t> read_eos(const Json& config, const Json& text, const TextDefaults& defaults,
                              const std::string& origin);
/// bos_token_id of `text`, else the class default.
std::optional<int64_t> read_bos(const Json& text, const TextDefaults& defaults, const std::string& origin);
/// image_token_index, or image_token_id as later files have it.
int64_t read_image_token(const Json& config, int64_t otherwise, const std::string& origin);
/// tie_word_embeddings of the root or of text_config.
bool read_tied(const Json& config, const Json& text, const std::string& origin);

}  // namespace visq

// config.json → decoder switches: class defaults of the text models and the spellings of rope.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/families/family.h"

namespace visq {

/// What a text model's class assumes where config.json is silent, and what its class fixes.
/// Source: spec/models-llava-vila-qwen.md §1.1.
struct TextDefaults {
  int64_t vocab, hidden, intermediate, layers, heads;
  std::optional<int64_t> kv_heads;  ///< when the key is absent; empty, or the key null: as many as heads
  int64_t max_positions;
  double norm_eps, theta;
  enum class Biases { none, from_config, qkv } biases;
  enum class Window { none, when_absent_4096, when_enabled } window;
  std::optional<int64_t> bos, eos;
};

/// Of a `model_type` of text_config: llama, mistral or qwen2. @throws Error for another
const TextDefaults& text_defaults(const std::string& model_type, const std::string& origin);

/// @param config  text_config, or the root of a flat config
nn::DecoderSpec read_decoder(const Json& config, const TextDefaults& defaults, const std::string& origin);

/// An integer or a list of integers under `key`; empty when absent or null.
std::vector<int64_t> read_integers(const Json& object, const std::string& key, const std::string& origin);
/// The value of `key`, or the one value of a list of equal ones ([14, 14]). @throws Error outside 1 … `limit`
int64_t read_extent(const Json& object, const std::string& key, int64_t fallback, int64_t limit,
                    const std::string& origin);
/// eos_token_id of the root, else of text_config, else the class default.
std::vector<int64_t> read_eos(const Json& config, const Json& text, const TextDefaults& defaults,
                              const std::string& origin);
/// tie_word_embeddings of the root or of text_config.
bool read_tied(const Json& config, const Json& text, const std::string& origin);

}  // namespace visq

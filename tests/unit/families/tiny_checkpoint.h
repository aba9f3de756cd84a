// Checkpoint directories with small random weights, for the tests of families.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "tests/unit/error_of.h"
#include "visq/families/model.h"
#include "visq/families/model_checks.h"

namespace visq::test {

inline ModelSpec describe(const Json& config) { return describe_model(config, "config.json"); }

/// The message of the Error about this configuration; empty when there is none.
inline std::string error_of(const Json& config) {
  return visq::error_of([&] { describe(config); });
}

inline void expect_error(const Json& config, const std::string& part) {
  const std::string error = error_of(config);
  EXPECT_NE(error.find(part), std::string::npos) << error;
}

/// A new folder that goes away with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "visq-families-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline Json llava_config() {
  return parse_json(R"({
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": 30,
    "text_config": {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 8, "intermediate_size": 12,
                      "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 6, "patch_size": 3}})",
                    "llava");
}

inline Json qwen_config() {
  return parse_json(R"({
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "model_type": "qwen2_5_vl", "image_token_id": 30,
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": true,
    "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]},
    "vision_config": {"depth": 2, "hidden_size": 16, "intermediate_size": 20, "num_heads": 2, "out_hidden_size": 16,
                      "patch_size": 2, "window_size": 8, "fullatt_block_indexes": [1]}})",
                    "qwen");
}

inline Json mllama_config() {
  return parse_json(R"({
    "architectures": ["MllamaForConditionalGeneration"], "model_type": "mllama", "image_token_index": 32,
    "text_config": {"model_type": "mllama_text_model", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
                    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                    "cross_attention_layers": [1]},
    "vision_config": {"model_type": "mllama_vision_model", "hidden_size": 8, "intermediate_size": 12,
                      "num_hidden_layers": 3, "num_global_layers": 1, "attention_heads": 2, "image_size": 6,
                      "patch_size": 3, "intermediate_layers_indices": [0, 2], "vision_output_dim": 24}})",
                    "mllama");
}

/// A tokenizer of one token a printable ASCII character, its code being the id, and one for ": ".
inline void write_tokenizer(const std::filesystem::path& directory,
                            const std::vector<std::pair<std::string, int64_t>>& special) {
  Json tokenizer = {{"version", "1.0"},          {"truncation", nullptr},
                    {"padding", nullptr},        {"added_tokens", Json::array()},
                    {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
                    {"post_processor", nullptr}, {"decoder", nullptr}};
  for (const auto& [content, id] : special)
    tokenizer["added_tokens"].push_back({{"id", id},
                                         {"content", content},
                                         {"single_word", false},
                                         {"lstrip", false},
                                         {"rstrip", false},
                                         {"normalized", false},
                                         {"special", true}});
  Json vocabulary = Json::object();
  for (char c = ' '; c <= '~'; ++c) vocabulary[std::string(1, c)] = static_cast<int>(c);
  vocabulary[": "] = 200;
  for (const auto& [content, id] : special)
    vocabulary[content] = id;  // an added token takes its id from here
  tokenizer["model"] = {{"type", "BPE"},
                        {"dropout", nullptr},
                        {"unk_token", nullptr},
                        {"continuing_subword_prefix", nullptr},
                        {"end_of_word_suffix", nullptr},
                        {"fuse_unk", false},
                        {"byte_fallback", false},
                        {"vocab", vocabulary},
                        {"merges", Json::array({Json::array({":", " "})})}};
  std::ofstream(directory / "tokenizer.json") << tokenizer.dump();
  std::ofstream(directory / "tokenizer_config.json") << R"({"tokenizer_class": "PreTrainedTokenizerFast"})";
}

using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

/// What config.json asks for, in canonical spelling, with seeded values; `spell` gives the names in the file.
inline Tensors random_tensors(const Json& config, const std::function<std::string(std::string)>& spell = {},
                              at::ScalarType dtype = at::kFloat) {
  const ModelSpec spec = describe_model(config, "config.json");
  auto expected = expected_tensors(spec, /*with_linears=*/true);
  if (!spec.decoder.tied_head)
    expected.push_back({"lm_head.weight", {spec.decoder.vocab, spec.decoder.hidden}});
  Tensors tensors;
  uint64_t seed = 0;
  for (const ExpectedTensor& tensor : expected) {
    const auto generator = at::detail::createCPUGenerator(++seed);
    tensors.emplace_back(spell ? spell(tensor.name) : tensor.name,
                         (at::randn(tensor.shape, generator, at::kFloat) * 0.3).to(dtype));
  }
  return tensors;
}

inline void write_checkpoint(const std::filesystem::path& directory, const Json& config,
                             const Tensors& tensors) {
  std::ofstream(directory / "config.json") << config.dump(1);
  write_safetensors(directory / "model.safetensors", tensors);
}

inline std::string replace_prefix(const std::string& name, const std::string& from, const std::string& to) {
  return name.starts_with(from) ? to + name.substr(from.size()) : name;
}

}  // namespace visq::test

// A random checkpoint with widths that every format takes, for tests that need a model but no answers.
#pragma once
#include "tests/unit/families/tiny_checkpoint.h"

namespace visq {

class TinyCheckpoint {
 public:
  /// @param text_model  of LLaVA; or "mllama": the first layer is a cross layer
  explicit TinyCheckpoint(at::ScalarType dtype, const std::string& text_model = "llama") {
    Json config = text_model == "mllama" ? test::mllama_config() : test::llava_config();
    config["text_config"] = {{"model_type", text_model}, {"hidden_size", 256},
                             {"intermediate_size", 384}, {"num_hidden_layers", 2},
                             {"num_attention_heads", 4}, {"num_key_value_heads", 2},
                             {"head_dim", 64},           {"vocab_size", 32}};
    if (text_model == "qwen3_moe")  // the second layer has experts
      config["text_config"].update({{"num_experts", 4},
                                    {"num_experts_per_tok", 2},
                                    {"moe_intermediate_size", 128},
                                    {"decoder_sparse_step", 2}});
    if (text_model == "mllama") config["text_config"]["cross_attention_layers"] = {0};
    test::Tensors tensors = test::random_tensors(config, {}, dtype);
    for (auto& [name, value] : tensors) {
      if (!name.ends_with("norm.weight")) continue;
      value = value.abs() + 0.5;          // as trained ones are: of one order of magnitude,
      value.slice(0, 3, {}, 37).mul_(8);  // outliers aside
    }
    test::write_checkpoint(directory_.path(), config, tensors);
  }
  const std::filesystem::path& directory() const { return directory_.path(); }

 private:
  test::TemporaryDirectory directory_;
};

}  // namespace visq

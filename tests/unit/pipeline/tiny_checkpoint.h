// A random LLaVA checkpoint of a few kilobytes, for tests that need a model but no answers.
#pragma once
#include <ATen/ATen.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "visq/families/family.h"
#include "visq/families/model_checks.h"
#include "visq/io/safetensors.h"

namespace visq {

class TinyCheckpoint {
 public:
  explicit TinyCheckpoint(at::ScalarType dtype, const std::string& text_model = "llama") {
    directory_ = std::filesystem::temp_directory_path() / ("visq-tiny-" + std::to_string(getpid()));
    std::filesystem::remove_all(directory_);
    std::filesystem::create_directories(directory_);
    const Json config = {{"architectures", {"LlavaForConditionalGeneration"}},
                         {"model_type", "llava"},
                         {"image_token_index", 90},
                         {"text_config",
                          {{"model_type", text_model},
                           {"hidden_size", 256},
                           {"intermediate_size", 384},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", 4},
                           {"num_key_value_heads", 2},
                           {"head_dim", 64},
                           {"vocab_size", 100}}},
                         {"vision_config",
                          {{"model_type", "clip_vision_model"},
                           {"hidden_size", 32},
                           {"intermediate_size", 64},
                           {"num_hidden_layers", 2},
                           {"num_attention_heads", 2},
                           {"image_size", 28},
                           {"patch_size", 14}}}};
    std::ofstream(directory_ / "config.json") << config.dump(2);
    at::manual_seed(7);
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const ExpectedTensor& expected : expected_tensors(describe_model(config, "config.json"), true)) {
      at::Tensor value = at::randn(expected.shape) * 0.05;
      if (expected.name.ends_with("norm.weight")) value = value.abs() + 0.5;
      tensors.emplace_back(expected.name, value.to(dtype));
    }
    write_safetensors(directory_ / "model.safetensors", tensors);
  }
  ~TinyCheckpoint() { std::filesystem::remove_all(directory_); }
  TinyCheckpoint(const TinyCheckpoint&) = delete;
  TinyCheckpoint& operator=(const TinyCheckpoint&) = delete;

  const std::filesystem::path& directory() const { return directory_; }

 private:
  std::filesystem::path directory_;
};

}  // namespace visq

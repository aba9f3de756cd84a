// A checkpoint ready to answer, original or quantized. A quantized one computes what an engine would:
// dequantized weights, and inputs and KV cache rounded as its scales say.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "visq/export/quantized_checkpoint.h"
#include "visq/families/model.h"

namespace visq {

class Runner {
 public:
  /// Loads all layers. @param dtype  of the computation; empty: float32 on a CPU, the checkpoint's own on a
  /// GPU
  /// @throws Error for an unsupported or damaged checkpoint
  Runner(const std::filesystem::path& directory, at::Device device,
         std::optional<at::ScalarType> dtype = std::nullopt, ImageProfile image_profile = ImageProfile::tv);

  const Model& model() const { return *model_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  /// Empty for a checkpoint without quantization.
  const std::optional<QuantizedCheckpoint>& quantized() const { return quantized_; }

  /// Hidden states after the last layer, [tokens, hidden].
  at::Tensor forward(Batch batch, nn::KvCache* cache = nullptr) const;

  /// Greedy answers. @param max_new_tokens  longest answer, in tokens
  std::vector<std::string> generate(std::span<const EncodedSample> prompts, int64_t max_new_tokens) const;

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
  std::optional<QuantizedCheckpoint> quantized_;
  std::unique_ptr<Model> model_;
  std::vector<nn::DecoderLayer> layers_;

  nn::Linear load_linear(const std::string& module) const;
};

/// What an engine computes of a quantized linear, its bias aside.
nn::Linear simulated_linear(const PackedLinear& packed, InputFormat input, at::Device device,
                            at::ScalarType dtype);

/// dtype of forward passes: what was asked for, else float32 on a CPU and the checkpoint's own on a GPU.
at::ScalarType compute_dtype(std::optional<at::ScalarType> asked, at::Device device,
                             const Checkpoint& checkpoint);

}  // namespace visq

// Reading a checkpoint that may be quantized, whatever its layout.
#pragma once
#include <optional>
#include <string>

#include "visq/export/layout.h"

namespace visq {

/// The quantized side of a checkpoint. Keeps a reference to the checkpoint.
class QuantizedCheckpoint {
 public:
  /// Empty for a checkpoint without quantization.
  /// @throws Error when it is quantized in a way that visq does not read
  static std::optional<QuantizedCheckpoint> open(const Checkpoint& checkpoint);

  const Layout& layout() const { return *layout_; }
  /// Of a quantized linear.
  const Scheme& scheme(const std::string& module) const;
  /// All that occur, none stored like another.
  std::vector<Scheme> schemes() const { return stored_.schemes(); }
  KvCacheFormat kv_cache() const { return stored_.kv_cache; }
  /// Whether scales were moved between weights and what stands before them.
  bool is_smoothed() const;
  /// For people: the recipe's name, the preset with this scheme, or the algorithms.
  std::string format_name() const;

  /// Engines that read both the weights and the KV cache.
  std::vector<std::string> engines() const;

  bool is_quantized(const std::string& module) const { return layout_->is_quantized(checkpoint_, module); }
  PackedLinear read(const std::string& module) const {
    return layout_->read(checkpoint_, module, scheme(module));
  }
  /// The weight that an engine multiplies with: dequantized, second stage applied, without what low-rank
  /// factors add; inputs still want pre_quant_scale.
  static at::Tensor effective_weight(const PackedLinear& linear);

  /// @param attention  "….self_attn";  @param kv_heads, head_dim  the model's, which scales must fit; −1: any
  /// @throws Error naming the tensor when one is missing, misshapen or no plausible number
  KvScales kv_scales(const std::string& attention, int64_t kv_heads = -1, int64_t head_dim = -1) const;

 private:
  QuantizedCheckpoint(const Checkpoint& checkpoint, const Layout& layout, StoredQuantization stored)
      : checkpoint_(checkpoint), layout_(&layout), stored_(std::move(stored)) {}
  const Checkpoint& checkpoint_;
  const Layout* layout_;
  StoredQuantization stored_;
};

}  // namespace visq

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
  const Scheme& scheme() const { return scheme_; }
  KvCacheFormat kv_cache() const { return kv_cache_; }

  /// Engines that read both the weights and the KV cache.
  std::vector<std::string> engines() const;

  bool is_quantized(const std::string& module) const { return layout_->is_quantized(checkpoint_, module); }
  PackedLinear read(const std::string& module) const { return layout_->read(checkpoint_, module, scheme_); }
  /// The weight that an engine multiplies with: dequantized, second stage applied; inputs still want
  /// pre_quant_scale.
  static at::Tensor effective_weight(const PackedLinear& linear);

  /// @param attention  "….self_attn";  @param kv_heads, head_dim  the model's, which scales must fit; −1: any
  /// @throws Error naming the tensor when one is missing, misshapen or no plausible number
  KvScales kv_scales(const std::string& attention, int64_t kv_heads = -1, int64_t head_dim = -1) const;

 private:
  QuantizedCheckpoint(const Checkpoint& checkpoint, const Layout& layout, Scheme scheme,
                      KvCacheFormat kv_cache)
      : checkpoint_(checkpoint), layout_(&layout), scheme_(scheme), kv_cache_(kv_cache) {}
  const Checkpoint& checkpoint_;
  const Layout* layout_;
  Scheme scheme_;
  KvCacheFormat kv_cache_;
};

}  // namespace visq

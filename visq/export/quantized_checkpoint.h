// Reading a checkpoint that may be quantized, whatever its layout.
#pragma once
#include <optional>
#include <string>

#include "visq/export/engines.h"
#include "visq/export/layout.h"

namespace visq {

/// The places in a model's config.json where tools put the configuration of its quantization.
const std::vector<std::vector<std::string>>& quantization_config_places();
/// What is there, or what older tools wrote beside config.json (quantize_config.json, quant_config.json,
/// hf_quant_config.json), with the quant_method that they left unsaid; null: there is none.
Json quantization_config_of(const CheckpointPart& part);
/// config.json without it, for another to be put in.
Json without_quantization_config(Json config);

/// The quantized side of a checkpoint. Keeps a reference to the checkpoint.
class QuantizedCheckpoint {
 public:
  /// Empty for a checkpoint without quantization. The configuration is looked for wherever tools have put it.
  /// @throws Error when it is quantized in a way that visq does not read
  static std::optional<QuantizedCheckpoint> open(const Checkpoint& checkpoint);

  const Layout& layout() const { return *layout_; }
  /// Of a quantized linear.
  const Scheme& scheme(const std::string& module) const;
  /// All that occur, none stored like another.
  std::vector<Scheme> schemes() const { return stored_.schemes(); }
  KvCacheFormat kv_cache() const { return kv_cache_; }
  /// Whether scales were moved between weights and what stands before them.
  bool is_smoothed() const;
  /// The recipe that made it, as far as the files say; "": they do not.
  const std::string& recipe() const;
  /// For people: the recipe's name, the preset with this scheme, or the algorithms.
  std::string format_name() const;

  /// The whole of it as an engine meets it, apart from single linears and what the exclude list says of them.
  ServedModel served_model() const;
  /// Engines that load this model with its weights and its KV cache (engines.h), as far as its configuration
  /// says.
  std::vector<std::string> engines() const;

  bool is_quantized(const std::string& module) const { return layout_->is_quantized(checkpoint_, module); }
  /// Quantized linears, in the order of the files.
  std::vector<std::string> modules() const;
  /// Those whose keys and values have scales beside them, likewise.
  std::vector<std::string> attentions() const;
  /// What the files have of a quantized linear.
  std::vector<std::string> tensors_of(const std::string& module) const;
  /// Forgets that columns share scales by their importance (Scheme::ordered_columns) where the configuration
  /// announces it and no linear has another order than that of its columns: more layouts hold it then.
  void forget_empty_order();
  /// From here on the KV cache is not quantized.
  void drop_kv_cache() { kv_cache_ = KvCacheFormat::none; }
  /// And of an attention's cache, dropped or not. @param kv_heads, head_dim  as for kv_scales()
  std::vector<std::string> cache_tensors_of(const std::string& attention, int64_t kv_heads = -1,
                                            int64_t head_dim = -1) const;
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
      : checkpoint_(checkpoint), layout_(&layout), stored_(std::move(stored)), kv_cache_(stored_.kv_cache) {}
  const Checkpoint& checkpoint_;
  const Layout* layout_;
  StoredQuantization stored_;
  KvCacheFormat kv_cache_;
};

}  // namespace visq

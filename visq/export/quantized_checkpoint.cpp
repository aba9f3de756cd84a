#include "visq/export/quantized_checkpoint.h"

#include "visq/export/layout_parts.h"

namespace visq {

std::optional<QuantizedCheckpoint> QuantizedCheckpoint::open(const Checkpoint& checkpoint) {
  const CheckpointPart& part = checkpoint.text_model();
  const std::string origin = (part.directory / "config.json").string();
  const auto config = get_or<Json>(part.config, "quantization_config", nullptr, origin);
  if (config.is_null()) return std::nullopt;
  for (const Layout* layout : layouts())
    if (const auto found = layout->recognise(config, origin))
      return QuantizedCheckpoint(checkpoint, *layout, found->first, found->second);
  fail("{}: quant_method '{}' is not one that visq reads", origin,
       get_or<std::string>(config, "quant_method", "", origin));
}

at::Tensor QuantizedCheckpoint::effective_weight(const PackedLinear& linear) {
  at::Tensor weight = dequantize(linear.weight);
  // W4A8 kernels multiply in FP8: the int4 values are rounded once more (spec/quantization.md §3.6).
  if (linear.second_scale) weight = simulate_fp8(weight, *linear.second_scale);
  return weight;
}

QuantizedCheckpoint::KvScales QuantizedCheckpoint::kv_scales(const std::string& attention_module) const {
  const Layout::KvTensors names = layout_->kv_tensors(attention_module, at::kFloat);
  return {read_scale(checkpoint_, names.key.name), read_scale(checkpoint_, names.value.name)};
}

}  // namespace visq

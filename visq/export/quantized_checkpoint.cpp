#include "visq/export/quantized_checkpoint.h"

#include <algorithm>

#include "visq/export/layout_parts.h"

namespace visq {
namespace {

// ModelOpt writes no scales where they are 1, and no other word of it.
KvCacheFormat with_scales_of_1(KvCacheFormat kv_cache, const Layout& layout, const Checkpoint& checkpoint) {
  if (kv_cache != KvCacheFormat::fp8 && kv_cache != KvCacheFormat::nvfp4) return kv_cache;
  const std::string suffix = std::string(layout.kv_storage(at::kFloat).key) + "scale";
  for (const std::string& name : checkpoint.names())
    if (name.ends_with(suffix)) return kv_cache;
  return kv_cache == KvCacheFormat::fp8 ? KvCacheFormat::fp8_cast : KvCacheFormat::nvfp4_cast;
}

// Their shapes alone say of what rank low-rank factors are.
void find_ranks(StoredQuantization& stored, const Checkpoint& checkpoint) {
  const std::string suffix = kLowRankA;
  for (const std::string& name : checkpoint.names()) {
    if (!name.ends_with(suffix)) continue;
    const std::string module = name.substr(0, name.size() - suffix.size());
    const auto own = stored.linears.find(checkpoint.name_in_part(module));
    Scheme& scheme = own == stored.linears.end() ? stored.scheme : own->second;
    const std::vector<int64_t>& shape = checkpoint.info(name).shape;
    if (scheme.low_rank > 0 && shape.size() == 2 && shape.front() > 0) scheme.low_rank = shape.front();
  }
}

}  // namespace

std::optional<QuantizedCheckpoint> QuantizedCheckpoint::open(const Checkpoint& checkpoint) {
  const CheckpointPart& part = checkpoint.text_model();
  const std::string origin = (part.directory / "config.json").string();
  const auto config = get_or<Json>(part.config, "quantization_config", nullptr, origin);
  if (config.is_null()) return std::nullopt;
  for (const Layout* layout : layouts())
    if (auto found = layout->recognise(config, origin)) {
      found->kv_cache = with_scales_of_1(found->kv_cache, *layout, checkpoint);
      find_ranks(*found, checkpoint);
      return QuantizedCheckpoint(checkpoint, *layout, std::move(*found));
    }
  fail("{}: quant_method '{}' is not one that visq reads", origin,
       get_or<std::string>(config, "quant_method", "", origin));
}

std::vector<std::string> QuantizedCheckpoint::engines() const {
  return layout_->engines(schemes(), stored_.kv_cache);
}

const Scheme& QuantizedCheckpoint::scheme(const std::string& module) const {
  return stored_.scheme_of(checkpoint_.name_in_part(module));
}

bool QuantizedCheckpoint::is_smoothed() const {
  return std::ranges::any_of(schemes(), [](const Scheme& scheme) { return scheme.solver != Solver::max; });
}

std::string QuantizedCheckpoint::format_name() const {
  if (!stored_.recipe.empty()) return stored_.recipe;
  std::string names;
  for (const Scheme& scheme : schemes()) {
    const Preset* preset = preset_of(scheme);
    names += (names.empty() ? "" : " + ") + (preset != nullptr ? preset->name : describe_weight(scheme));
  }
  return names;
}

at::Tensor QuantizedCheckpoint::effective_weight(const PackedLinear& linear) {
  at::Tensor weight = dequantize(linear.weight);
  // W4A8 kernels multiply in FP8: the int4 values are rounded once more (spec/quantization.md §3.6).
  if (linear.second_scale) weight = simulate_fp8(weight, *linear.second_scale);
  return weight;
}

KvScales QuantizedCheckpoint::kv_scales(const std::string& attention, int64_t kv_heads,
                                        int64_t head_dim) const {
  return layout_->read_kv(checkpoint_, {attention, stored_.kv_cache, kv_heads, head_dim});
}

}  // namespace visq

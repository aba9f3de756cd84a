#include "visq/export/quantized_checkpoint.h"

#include <algorithm>
#include <set>

#include "visq/export/column_order.h"
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

const std::vector<std::vector<std::string>>& quantization_config_places() {
  static const std::vector<std::vector<std::string>> places = {{"quantization_config"},
                                                               {"compression_config"},
                                                               {"text_config", "quantization_config"},
                                                               {"text_config", "compression_config"}};
  return places;
}

namespace {

// AutoGPTQ and AutoAWQ did not name themselves in these files; their keys do.
const char* method_of(const Json& config) {
  if (config.contains("desc_act") || config.contains("sym")) return "gptq";
  return config.contains("zero_point") ? "awq" : "";
}

// ModelOpt's second configuration, as it says the same in config.json.
Json flattened(const Json& nested, const std::string& origin) {
  Json config = require<Json>(nested, "quantization", origin);
  if (!config.is_object()) fail("{}: quantization is no object", origin);
  config["ignore"] = config.value("exclude_modules", Json::array());
  config["kv_cache_scheme"] = config.value("kv_cache_quant_algo", Json());
  config["producer"] = nested.value("producer", Json());
  config["quant_method"] = "modelopt";
  return config;
}

/// What older tools wrote beside config.json.
Json configuration_beside(const CheckpointPart& part) {
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    const std::filesystem::path path = part.directory / name;
    if (!std::filesystem::exists(path)) continue;
    Json config = read_json(path);
    if (config.is_object() && !config.contains("quant_method")) config["quant_method"] = method_of(config);
    return config;
  }
  const std::filesystem::path path = part.directory / "hf_quant_config.json";
  return std::filesystem::exists(path) ? flattened(read_json(path), path.string()) : Json(nullptr);
}

}  // namespace

Json quantization_config_of(const CheckpointPart& part) {
  const std::string origin = (part.directory / "config.json").string();
  for (const auto& place : quantization_config_places()) {
    Json found = part.config;
    for (const std::string& key : place)
      found = found.is_object() ? get_or<Json>(found, key, nullptr, origin) : Json(nullptr);
    if (!found.is_null()) return found;
  }
  return configuration_beside(part);
}

Json without_quantization_config(Json config) {
  for (const auto& place : quantization_config_places()) {
    Json* holder = &config;
    for (size_t i = 0; i + 1 < place.size() && holder != nullptr; ++i)
      holder = holder->contains(place[i]) ? &holder->at(place[i]) : nullptr;
    if (holder != nullptr && holder->is_object()) holder->erase(place.back());
  }
  return config;
}

std::optional<QuantizedCheckpoint> QuantizedCheckpoint::open(const Checkpoint& checkpoint) {
  const CheckpointPart& part = checkpoint.text_model();
  const std::string origin = (part.directory / "config.json").string();
  const Json config = quantization_config_of(part);
  if (config.is_null()) return std::nullopt;
  for (const Layout* layout : layouts())
    if (auto found = layout->recognise(config, origin)) {
      found->kv_cache = with_scales_of_1(found->kv_cache, *layout, checkpoint);
      find_ranks(*found, checkpoint);
      QuantizedCheckpoint quantized(checkpoint, *layout, std::move(*found));
      std::vector<std::string> modules;
      for (const std::string& module : quantized.modules())
        modules.push_back(checkpoint.name_in_part(module));
      layout->resolve(quantized.stored_, config, modules, origin);
      return quantized;
    }
  fail("{}: quant_method '{}' is not one that visq reads", origin,
       get_or<std::string>(config, "quant_method", "", origin));
}

ServedModel QuantizedCheckpoint::served_model() const {
  // Whoever wants to run the model is told what is wrong with these.
  const Json names = checkpoint_.config().value("architectures", Json());
  const Json type = checkpoint_.text_model().config.value("model_type", Json());
  const bool named = names.is_array() && !names.empty() && names.front().is_string();
  return {named ? names.front().get<std::string>() : "",
          type.is_string() ? type.get<std::string>() : "",
          layout_->name(),
          {},
          layout_->exclude_key(),
          schemes(),
          kv_cache_,
          {}};
}

std::vector<std::string> QuantizedCheckpoint::engines() const {
  const ServedModel model = served_model();
  std::vector<std::string> readers;
  for (const EngineModel& engine : engine_models())
    if (std::ranges::all_of(judge(engine, model), &EngineFinding::warning)) readers.push_back(engine.name);
  return readers;
}

const Scheme& QuantizedCheckpoint::scheme(const std::string& module) const {
  return stored_.scheme_of(checkpoint_.name_in_part(module));
}

std::vector<std::string> QuantizedCheckpoint::modules() const {
  std::vector<std::string> modules;
  std::set<std::string> seen;
  for (const std::string& name : checkpoint_.names())
    for (const std::string& suffix : layout_->suffixes()) {
      if (!name.ends_with(suffix)) continue;
      const std::string module = name.substr(0, name.size() - suffix.size());
      if (is_quantized(module) && seen.insert(module).second) modules.push_back(module);
    }
  return modules;
}

std::vector<std::string> QuantizedCheckpoint::attentions() const {
  std::vector<std::string> attentions;
  const std::string suffix = std::string(layout_->kv_storage(at::kFloat).key) + "scale";
  for (const std::string& name : checkpoint_.names())
    if (name.ends_with(suffix)) attentions.push_back(name.substr(0, name.size() - suffix.size()));
  return attentions;
}

std::vector<std::string> QuantizedCheckpoint::tensors_of(const std::string& module) const {
  std::vector<std::string> names;
  for (const std::string& suffix : layout_->suffixes())
    if (checkpoint_.contains(module + suffix)) names.push_back(module + suffix);
  return names;
}

void QuantizedCheckpoint::forget_empty_order() {
  for (const std::string& module : modules())
    if (scheme(module).ordered_columns && read(module).column_order.defined()) return;
  stored_.scheme.ordered_columns = false;
  for (auto& [module, scheme] : stored_.linears) scheme.ordered_columns = false;
}

std::vector<std::string> QuantizedCheckpoint::cache_tensors_of(const std::string& attention, int64_t kv_heads,
                                                               int64_t head_dim) const {
  std::vector<std::string> names;
  if (stored_.kv_cache == KvCacheFormat::none) return names;
  for (KvLayoutTensor& tensor : layout_->kv_tensors({attention, stored_.kv_cache, kv_heads, head_dim}))
    names.push_back(std::move(tensor.planned.name));
  return names;
}

bool QuantizedCheckpoint::is_smoothed() const {
  return std::ranges::any_of(schemes(), [](const Scheme& scheme) { return scheme.solver != Solver::max; });
}

const std::string& QuantizedCheckpoint::recipe() const { return stored_.recipe; }

std::string QuantizedCheckpoint::format_name() const {
  // No recipe orders columns: where they are, it is not all there is to say.
  const bool ordered =
      std::ranges::any_of(schemes(), [](const Scheme& scheme) { return scheme.ordered_columns; });
  if (!stored_.recipe.empty() && !ordered) return stored_.recipe;
  std::string names;
  for (const Scheme& scheme : schemes()) {
    const Preset* preset = preset_of(scheme);
    names += (names.empty() ? "" : " + ") + (preset != nullptr ? preset->name : describe_weight(scheme));
  }
  return names;
}

at::Tensor QuantizedCheckpoint::effective_weight(const PackedLinear& linear) {
  at::Tensor weight = in_order(linear, dequantize(linear.weight));
  // W4A8 kernels multiply in FP8: the int4 values are rounded once more (spec/quantization.md §3.6).
  if (linear.second_scale) weight = simulate_fp8(weight, *linear.second_scale);
  return weight;
}

KvScales QuantizedCheckpoint::kv_scales(const std::string& attention, int64_t kv_heads,
                                        int64_t head_dim) const {
  return layout_->read_kv(checkpoint_, {attention, stored_.kv_cache, kv_heads, head_dim});
}

}  // namespace visq

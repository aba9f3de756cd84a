#include "visq/export/layout_parts.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "visq/core/error.h"

namespace visq {

at::Tensor read_checked(const Checkpoint& checkpoint, const std::string& name, at::ScalarType dtype,
                        const std::vector<int64_t>& shape) {
  const TensorInfo& info = checkpoint.info(name);
  bool fits = info.dtype == dtype && info.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == info.shape[i];
  if (!fits)
    fail("{}: tensor '{}' is {} [{}], expected {} [{}]", checkpoint.file_of(name).string(), name,
         safetensors_dtype(info.dtype), fmt::join(info.shape, ", "), safetensors_dtype(dtype),
         fmt::join(shape, ", "));
  return checkpoint.tensor(name);
}

PackedLinear unfilled(const Scheme& scheme) {
  PackedLinear linear;
  linear.weight.codec = scheme.weight;
  linear.weight.block = scheme.block;
  return linear;
}

float read_scale(const Checkpoint& checkpoint, const std::string& name) {
  const at::Tensor tensor = checkpoint.tensor(name);
  if (tensor.numel() != 1 || !at::isFloatingType(tensor.scalar_type()))
    fail("{}: tensor '{}' is not one floating-point number", checkpoint.file_of(name).string(), name);
  const float value = tensor.to(at::kFloat).item<float>();
  if (!std::isfinite(value) || value <= 0)
    fail("{}: scale '{}' is {}, not a positive number", checkpoint.file_of(name).string(), name, value);
  return value;
}

namespace {
/// What the configuration says beside its producer; empty: nothing.
std::string named(const Json& quantization_config, const char* key) {
  const auto producer = quantization_config.find("producer");
  if (producer == quantization_config.end() || !producer->is_object()) return "";
  const auto name = producer->find(key);
  return name != producer->end() && name->is_string() ? name->get<std::string>() : "";
}

template <typename Value>
void choose(const Json& quantization_config, const char* key, const char* (*name_of)(Value),
            std::initializer_list<Value> values, Value& value) {
  const std::string name = named(quantization_config, key);
  for (const Value candidate : values)
    if (name == name_of(candidate)) value = candidate;
}

// Of all schemes together: where any linear was smoothed, norms may have changed.
Scheme solvers_of(const ExportSummary& summary) {
  Scheme all;
  const auto add = [&](const Scheme& scheme) {
    if (scheme.solver != Solver::max) all.solver = scheme.solver;
    if (scheme.scales != ScaleSearch::max) all.scales = scheme.scales;
    if (scheme.rounding != Rounding::nearest) all.rounding = scheme.rounding;
    all.rotated = all.rotated || scheme.rotated;
    if (scheme.low_rank > 0) {
      all.low_rank = scheme.low_rank;
      all.low_rank_by = scheme.low_rank_by;
    }
  };
  for (const Scheme& scheme : summary.schemes) add(scheme);
  for (const auto& [module, scheme] : summary.linears) add(scheme);
  return all;
}
}  // namespace

Scheme named_scheme(const Json& quantization_config, const char* preset) {
  return named_scheme(quantization_config, find_preset(preset).scheme);
}

Scheme named_scheme(const Json& quantization_config, Scheme scheme) {
  const bool ordered = std::exchange(scheme.ordered_columns, false);  // of which no preset is
  for (const Preset& candidate : presets())
    if (candidate.name == named(quantization_config, "preset") && candidate.scheme.stored_like(scheme)) {
      scheme = candidate.scheme;
      scheme.ordered_columns = ordered;
      return scheme;
    }
  choose(quantization_config, "smoothing", solver_name, {Solver::max, Solver::smoothquant, Solver::awq},
         scheme.solver);
  choose(quantization_config, "scales", scale_search_name,
         {ScaleSearch::max, ScaleSearch::mse, ScaleSearch::output_error, ScaleSearch::four_over_six},
         scheme.scales);
  scheme.rotated = named(quantization_config, "rotation") == "hadamard";
  choose(quantization_config, "rounding", rounding_name, {Rounding::nearest, Rounding::gptq},
         scheme.rounding);
  choose(quantization_config, "low_rank_by", low_rank_by_name, {LowRankBy::output, LowRankBy::weight},
         scheme.low_rank_by);
  scheme.ordered_columns = ordered;
  return scheme;
}

KvCacheFormat named_kv_cache(const Json& quantization_config, KvCacheFormat kv_cache) {
  if (kv_cache == KvCacheFormat::none) return kv_cache;
  const std::string name = named(quantization_config, "kv_cache");
  for (const KvFormat& format : kv_formats())
    if (format.name == name && !format.calibrated && format.nvfp4 == kv_format(kv_cache).nvfp4)
      return format.format;
  return kv_cache;
}

Json producer_of(const char* name, const ExportSummary& summary) {
  Json producer = {{"name", name}};
  if (!summary.recipe.empty()) producer["preset"] = summary.recipe;
  const Scheme solvers = solvers_of(summary);
  const bool said = std::ranges::any_of(presets(), [&](const Preset& preset) {
    return preset.name == summary.recipe && preset.scheme == summary.schemes.front();
  });
  if (!said || summary.schemes.size() > 1) {
    producer["smoothing"] = solver_name(solvers.solver);
    producer["scales"] = scale_search_name(solvers.scales);
    producer["rounding"] = rounding_name(solvers.rounding);
    if (solvers.rotated) producer["rotation"] = "hadamard";
    if (solvers.low_rank > 0) producer["low_rank_by"] = low_rank_by_name(solvers.low_rank_by);
  }
  if (summary.kv_cache != KvCacheFormat::none) producer["kv_cache"] = kv_cache_name(summary.kv_cache);
  return producer;
}

std::string named_recipe(const Json& quantization_config) { return named(quantization_config, "preset"); }

std::string name_from_layers(const std::string& module) {
  const size_t layers = module.find("layers.");
  return layers == std::string::npos ? module : module.substr(layers);
}

std::string fused_name(const std::string& module) {
  const size_t leaf = module.rfind('.') + 1;
  const std::string name = module.substr(leaf), parent = module.substr(0, leaf);
  if (name == "q_proj" || name == "k_proj" || name == "v_proj") return parent + "qkv_proj";
  return name == "gate_proj" || name == "up_proj" ? parent + "gate_up_proj" : "";
}

namespace {

/// "X" of "X.base_layer", which stands beside adapters; engines have no such level. "": it is none.
std::string without_adapter_level(const std::string& linear) {
  static const std::string kLevel = ".base_layer";
  return linear.ends_with(kLevel) ? linear.substr(0, linear.size() - kLevel.size()) : "";
}

}  // namespace

std::vector<std::string> with_fused_names(const std::vector<std::string>& linears) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const std::string& linear : linears)
    for (const std::string& name : {linear, fused_name(linear), without_adapter_level(linear)})
      if (!name.empty() && seen.insert(name).second) names.push_back(name);
  return names;
}

std::vector<std::string> names_in_engines(const std::vector<std::string>& linears) {
  std::vector<std::string> names;
  std::set<std::string> seen;
  for (const std::string& linear : with_fused_names(linears)) {
    const std::string end = name_from_layers(linear);
    for (const std::string& name : {linear, end == linear ? linear : "model." + end, end})
      if (seen.insert(name).second) names.push_back(name);
  }
  return names;
}

std::string escape_dots(const std::string& name) {
  std::string escaped;
  for (const char c : name) escaped += c == '.' ? std::string("\\.") : std::string(1, c);
  return escaped;
}

at::Tensor scalar_tensor(float value, at::ScalarType dtype, at::IntArrayRef shape) {
  return at::full(shape, value, at::kFloat).to(dtype);
}

}  // namespace visq

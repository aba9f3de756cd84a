#include "visq/export/layout_parts.h"

#include <ATen/ATen.h>

#include <cmath>

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
}  // namespace

Scheme named_scheme(const Json& quantization_config, const char* preset) {
  const Scheme& scheme = find_preset(preset).scheme;
  for (const Preset& candidate : presets())
    if (candidate.name == named(quantization_config, "preset") && candidate.scheme.stored_like(scheme))
      return candidate.scheme;
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

Json producer_of(const char* name, const Scheme& scheme, KvCacheFormat kv_cache) {
  Json producer = {{"name", name}, {"preset", preset_of(scheme).name}};
  if (kv_cache != KvCacheFormat::none) producer["kv_cache"] = kv_cache_name(kv_cache);
  return producer;
}

at::Tensor scalar_tensor(float value, at::ScalarType dtype, at::IntArrayRef shape) {
  return at::full(shape, value, at::kFloat).to(dtype);
}

}  // namespace visq

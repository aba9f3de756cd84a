// The scales of KV caches on disk: what all layouts have in common (spec/export.md §3.9, §5.2).
#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

struct Names {
  std::string scale, bias;
};

/// Of the keys, and of the values.
std::array<Names, 2> names_of(const KvStorage& storage, const std::string& attention) {
  const auto names = [&](const char* infix) {
    return Names{attention + infix + "scale", attention + infix + "bias"};
  };
  return {names(storage.key), names(storage.value)};
}

/// As compressed-tensors initialises them, so that they spread over [heads, tokens, channels].
std::vector<int64_t> scale_shape(const KvFormat& format, const KvStorage& storage, int64_t kv_heads) {
  return format.per_head ? std::vector<int64_t>{kv_heads, 1, 1} : storage.scalar_shape;
}
/// As ModelOpt writes them: of states [batch, heads, tokens, channels].
std::vector<int64_t> bias_shape(const QuantizedKvCache& cache) {
  return {1, cache.kv_heads, 1, cache.head_dim};
}

bool is_stored(const KvFormat& format, const KvStorage& storage) {
  return format.calibrated || storage.unit_scales;
}

at::Tensor read_scales(const Checkpoint& checkpoint, const std::string& name,
                       const std::vector<int64_t>& shape) {
  const at::Tensor scale =
      read_checked(checkpoint, name, checkpoint.info(name).dtype, shape).to(at::kFloat).flatten();
  if (scale.numel() == 0 || !(at::isfinite(scale) & (scale > 0)).all().item<bool>())
    fail("{}: scale '{}' holds a number that is not positive", checkpoint.file_of(name).string(), name);
  return scale.contiguous();
}

at::Tensor read_bias(const Checkpoint& checkpoint, const std::string& name, const QuantizedKvCache& cache) {
  const at::Tensor bias =
      read_checked(checkpoint, name, checkpoint.info(name).dtype, bias_shape(cache)).to(at::kFloat);
  if (!at::isfinite(bias).all().item<bool>())
    fail("{}: tensor '{}' holds a number that is not finite", checkpoint.file_of(name).string(), name);
  return bias.squeeze(2).squeeze(0).contiguous();
}

}  // namespace

std::vector<KvLayoutTensor> Layout::kv_tensors(const QuantizedKvCache& cache) const {
  const KvFormat& format = kv_format(cache.format);
  const KvStorage storage = kv_storage(cache.source_dtype);
  std::vector<KvLayoutTensor> list;
  if (!is_stored(format, storage)) return list;
  const auto [key, value] = names_of(storage, cache.attention);
  for (const auto& [names, member] : {std::pair{key, &KvScales::key}, std::pair{value, &KvScales::value}}) {
    const std::vector<int64_t> shape = scale_shape(format, storage, cache.kv_heads);
    list.push_back({{names.scale, storage.scale_dtype, shape},
                    [shape, member = member, dtype = storage.scale_dtype](const KvScales& scales) {
                      return (scales.*member).scale.reshape(shape).to(dtype);
                    }});
    if (!format.affine) continue;
    list.push_back({{names.bias, cache.source_dtype, bias_shape(cache)},
                    [shape = bias_shape(cache), member = member](const KvScales& scales) {
                      return (scales.*member).bias.reshape(shape);
                    }});
  }
  return list;
}

KvScales Layout::read_kv(const Checkpoint& checkpoint, const QuantizedKvCache& cache) const {
  const KvFormat& format = kv_format(cache.format);
  const KvStorage storage = kv_storage(cache.source_dtype);
  if (!is_stored(format, storage)) return {unit_kv_scale(), unit_kv_scale()};
  const auto read = [&](const Names& names) {
    KvScale scale;
    if (format.per_head)
      scale.scale = read_scales(checkpoint, names.scale, scale_shape(format, storage, cache.kv_heads));
    else
      scale.scale = scalar_tensor(read_scale(checkpoint, names.scale), at::kFloat, {});
    if (format.affine) scale.bias = read_bias(checkpoint, names.bias, cache);
    return scale;
  };
  const auto [key, value] = names_of(storage, cache.attention);
  return {read(key), read(value)};
}

}  // namespace visq

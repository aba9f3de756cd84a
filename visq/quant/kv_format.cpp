#include "visq/quant/kv_format.h"

#include <ATen/ATen.h>

#include <cmath>

#include "visq/core/error.h"
#include "visq/quant/codec.h"

namespace visq {

const std::vector<KvFormat>& kv_formats() {
  using enum KvCacheFormat;
  static const std::vector<KvFormat> all = {
      {.format = fp8,
       .name = "fp8",
       .calibrated = true,
       .values = "FP8 E4M3, one scale a layer",
       .serves = "the default where there are data"},
      {.format = fp8_attn_head,
       .name = "fp8_attn_head",
       .calibrated = true,
       .per_head = true,
       .values = "FP8 E4M3, one scale a KV head",
       .serves = "heads of unlike magnitude"},
      {.format = fp8_cast,
       .name = "fp8_cast",
       .values = "FP8 E4M3, scale 1",
       .serves = "no data, and keys and values below 448"},
      {.format = fp8_affine,
       .name = "fp8_affine",
       .calibrated = true,
       .affine = true,
       .values = "FP8 E4M3 about the channels' means, one scale a layer",
       .serves = "to study what means cost FP8"},
      {.format = nvfp4,
       .name = "nvfp4",
       .nvfp4 = true,
       .calibrated = true,
       .values = "FP4 E2M1, blocks of 16",
       .serves = "half the cache of fp8; Blackwell"},
      {.format = nvfp4_cast,
       .name = "nvfp4_cast",
       .nvfp4 = true,
       .values = "FP4 E2M1, blocks of 16, scale 1",
       .serves = "nvfp4 without data"},
      {.format = nvfp4_affine,
       .name = "nvfp4_affine",
       .nvfp4 = true,
       .calibrated = true,
       .affine = true,
       .values = "FP4 E2M1 about the channels' means, blocks of 16",
       .serves = "keys with large means, as biases make them"},
      {.format = nvfp4_rotate,
       .name = "nvfp4_rotate",
       .nvfp4 = true,
       .calibrated = true,
       .rotated = true,
       .values = "FP4 E2M1, blocks of 16, keys rotated",
       .serves = "keys with outlier channels"},
  };
  return all;
}

const KvFormat& kv_format(KvCacheFormat format) {
  for (const KvFormat& candidate : kv_formats())
    if (candidate.format == format) return candidate;
  fail("the KV cache is not quantized");
}

const std::string& kv_cache_name(KvCacheFormat format) {
  static const std::string kNone = "none";
  return format == KvCacheFormat::none ? kNone : kv_format(format).name;
}

KvCacheFormat parse_kv_cache(const std::string& name) {
  std::string known;
  for (const KvFormat& format : kv_formats()) {
    if (format.name == name) return format.format;
    known += format.name + ", ";
  }
  if (name == kv_cache_name(KvCacheFormat::none)) return KvCacheFormat::none;
  fail("--kv-cache {}: choose {}none", name, known);
}

bool needs_calibration(KvCacheFormat format) {
  return format != KvCacheFormat::none && kv_format(format).calibrated;
}

void KvStatistics::add(const at::Tensor& states) {
  if (states.size(0) == 0) return;
  const at::Tensor wide = states.to(at::kFloat);
  KvStatistics batch;
  batch.tokens = states.size(0);
  batch.min = wide.amin(0);
  batch.max = wide.amax(0);
  batch.sum = wide.sum(0, /*keepdim=*/false, at::kDouble);
  merge(batch);
}

void KvStatistics::merge(const KvStatistics& other) {
  if (other.tokens == 0) return;
  if (tokens == 0) {
    *this = other;
    return;
  }
  tokens += other.tokens;
  min = at::minimum(min, other.min);
  max = at::maximum(max, other.max);
  sum = sum + other.sum;
}

KvStatistics KvStatistics::divided_by(const at::Tensor& divisor) const {
  const at::Tensor by = divisor.view(min.sizes());
  return {tokens, min / by, max / by, sum / by};
}

void KvCacheStatistics::add(const at::Tensor& key_states, const at::Tensor& value_states) {
  keys.add(key_states);
  rotated_keys.add(hadamard_transform(key_states.to(at::kFloat)));
  values.add(value_states);
}

void KvCacheStatistics::merge(const KvCacheStatistics& other) {
  keys.merge(other.keys);
  rotated_keys.merge(other.rotated_keys);
  values.merge(other.values);
}

KvScale solve_kv_scale(const KvFormat& format, const KvStatistics& statistics, at::ScalarType bias_dtype) {
  if (!format.calibrated) return unit_kv_scale();
  KvScale result;
  at::Tensor low = statistics.min, high = statistics.max;
  if (format.affine) {
    result.bias = (statistics.sum / static_cast<double>(statistics.tokens)).to(bias_dtype);
    const at::Tensor stored = result.bias.to(at::kFloat);
    low = low - stored;
    high = high - stored;
  }
  const at::Tensor magnitude = at::maximum(-low, high);
  const at::Tensor amax = format.per_head ? magnitude.amax(1) : magnitude.max();
  // The divisor is a tensor: a GPU would divide by a number through its reciprocal.
  const at::Tensor scale = amax / at::full_like(amax, kFp8Max);
  result.scale = at::where(amax == 0, at::ones_like(amax), scale.clamp_min(0x1p-126));
  return result;
}

KvScale unit_kv_scale() { return {at::ones({}, at::kFloat), {}}; }

at::Tensor hadamard_transform(const at::Tensor& x) {
  const int64_t width = x.size(-1), block = width & -width;
  at::Tensor y = x.contiguous().view({-1, block});
  // Sums of two in a fixed order, so that the result does not depend on the threads.
  for (int64_t step = 1; step < block; step *= 2) {
    const at::Tensor pairs = y.view({-1, 2, step});
    const at::Tensor a = pairs.select(1, 0), b = pairs.select(1, 1);
    y = at::stack({a + b, a - b}, 1).view({-1, block});
  }
  return (y * (1 / std::sqrt(static_cast<double>(block)))).view(x.sizes());
}

namespace {

/// @param states  f32
at::Tensor rounded(const KvFormat& format, const at::Tensor& states, const at::Tensor& scale) {
  if (format.nvfp4) return simulate_nvfp4(states, scale.item<float>() / 6);
  if (!format.per_head) return simulate_fp8(states, scale.item<float>());
  const at::Tensor by = scale.unsqueeze(1);  // [kv_heads, 1]
  return simulate_fp8(states / by, 1.0f) * by;
}

at::Tensor simulate(const KvFormat& format, const at::Tensor& states, const KvScale& scale, bool rotate) {
  at::Tensor x = states.to(at::kFloat);
  if (scale.bias.defined()) x = x - scale.bias;
  if (rotate) x = hadamard_transform(x);
  x = rounded(format, x, scale.scale);
  if (rotate) x = hadamard_transform(x);
  if (scale.bias.defined()) x = x + scale.bias;
  return x.to(states.scalar_type());
}

}  // namespace

at::Tensor simulate_keys(const KvFormat& format, const at::Tensor& states, const KvScale& scale) {
  return simulate(format, states, scale, format.rotated);
}

at::Tensor simulate_values(const KvFormat& format, const at::Tensor& states, const KvScale& scale) {
  return simulate(format, states, scale, /*rotate=*/false);
}

}  // namespace visq

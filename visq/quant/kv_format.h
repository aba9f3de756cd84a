// Number formats of the KV cache: their scales, from calibration, and what is read back of keys and values.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace visq {

enum class KvCacheFormat {
  none,
  fp8,
  fp8_attn_head,
  fp8_cast,
  fp8_affine,
  nvfp4,
  nvfp4_cast,
  nvfp4_affine,
  nvfp4_rotate
};

/// What a format of the KV cache does (spec/quantization.md §7).
struct KvFormat {
  KvCacheFormat format = KvCacheFormat::none;
  std::string name;
  bool nvfp4 = false;       ///< E2M1 in blocks of 16 along head_dim with E4M3 scales; else E4M3
  bool calibrated = false;  ///< scales come from data; else they are 1
  bool per_head = false;  ///< a scale for every KV head; else one for the keys of a layer, one for its values
  bool affine = false;    ///< the mean of every channel is subtracted before, and added after
  bool rotated = false;   ///< keys, and with them queries, go through a Hadamard transform
  std::string values;     ///< for people: "FP8 E4M3, one scale a layer"
  std::string serves;     ///< when to choose it, in a few words

  double bits() const { return nvfp4 ? 4.5 : 8; }
};

/// All of them but `none`.
const std::vector<KvFormat>& kv_formats();
/// @throws Error for `none`
const KvFormat& kv_format(KvCacheFormat format);
/// "none" for none.
const std::string& kv_cache_name(KvCacheFormat format);
/// @throws Error listing the names when there is none of that name
KvCacheFormat parse_kv_cache(const std::string& name);
/// False for `none`.
bool needs_calibration(KvCacheFormat format);

/// What calibration keeps of keys or values, by KV head and channel. Additive.
struct KvStatistics {
  int64_t tokens = 0;
  at::Tensor min, max;  ///< f32 [kv_heads, head_dim]
  at::Tensor sum;       ///< f64 [kv_heads, head_dim]

  /// @param states  [tokens, kv_heads, head_dim]; nothing happens when it has no tokens
  void add(const at::Tensor& states);
  void merge(const KvStatistics& other);
  /// Those of states whose channels are divided. @param divisor  f32, positive, kv_heads · head_dim of them
  KvStatistics divided_by(const at::Tensor& divisor) const;
};

/// What calibration keeps of the cache of a layer: rotation mixes channels, so rotated keys are observed too.
struct KvCacheStatistics {
  KvStatistics keys, rotated_keys, values;
  void add(const at::Tensor& key_states, const at::Tensor& value_states);
  void merge(const KvCacheStatistics& other);
};

/// real = code · scale + bias (nvfp4: code · block scale · scale / 6 + bias).
struct KvScale {
  at::Tensor scale;  ///< f32 [] or, per head, [kv_heads]: largest magnitude / 448, whatever the format
  at::Tensor bias;   ///< [kv_heads, head_dim] in the type in which it is stored; undefined: none
};
struct KvScales {
  KvScale key, value;
};

/// Scale and bias of keys or values. Nothing but zeros: scale 1. The mean is rounded to `bias_dtype` before
/// the largest magnitude is taken from what it leaves.
KvScale solve_kv_scale(const KvFormat& format, const KvStatistics& statistics, at::ScalarType bias_dtype);
/// Scales of 1, of a format that is not calibrated.
KvScale unit_kv_scale();

/// x ← H x / √n along the last dimension, which holds blocks of n channels: n is its largest power of two
/// that divides it, H Sylvester's Hadamard matrix. Its own inverse. f32 in and out.
at::Tensor hadamard_transform(const at::Tensor& x);

/// What is read back of keys and values in the cache, same shape and type. An engine that rotates keys
/// rotates queries too, and a product of both is what it was: here keys are rotated back, so queries need
/// nothing.
/// @param states  [tokens, kv_heads, head_dim]
/// @throws Error when 16 does not divide head_dim (nvfp4)
at::Tensor simulate_keys(const KvFormat& format, const at::Tensor& states, const KvScale& scale);
at::Tensor simulate_values(const KvFormat& format, const at::Tensor& states, const KvScale& scale);

}  // namespace visq

// What the layouts share: reading checked tensors, scalars, and the entries of tables.
#pragma once
#include "visq/export/layout.h"

namespace visq {

/// The tensor, with its dtype and shape checked. @param shape  −1 stands for any extent
/// @throws Error naming checkpoint and tensor
at::Tensor read_checked(const Checkpoint& checkpoint, const std::string& name, at::ScalarType dtype,
                        const std::vector<int64_t>& shape);
/// A scale of one element, any floating dtype and shape. @throws Error unless it is finite and positive
float read_scale(const Checkpoint& checkpoint, const std::string& name);

/// The scheme of `preset` with the solvers that a configuration of ours says beside its producer: schemes
/// that differ in these alone are stored alike.
Scheme named_scheme(const Json& quantization_config, const char* preset);

/// Likewise of the KV cache: formats whose scales are 1 look like others.
KvCacheFormat named_kv_cache(const Json& quantization_config, KvCacheFormat kv_cache);
/// What a configuration of ours says beside its producer.
Json producer_of(const char* name, const ExportSummary& summary);
/// The recipe that a configuration of ours names; "": none.
std::string named_recipe(const Json& quantization_config);

/// ModelOpt's names of low-rank factors in language models (spec/export.md §3.4).
inline constexpr const char *kLowRankA = ".weight_quantizer._svdquant_lora_a",
                            *kLowRankB = ".weight_quantizer._svdquant_lora_b";

/// Blocks of 128 that cover an extent.
inline int64_t blocks_of(int64_t extent) { return (extent + kFp8Block - 1) / kFp8Block; }

/// f32 scalar as a tensor of `shape` ([] or [1]) and dtype.
at::Tensor scalar_tensor(float value, at::ScalarType dtype, at::IntArrayRef shape);

}  // namespace visq

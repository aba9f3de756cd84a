// What the layouts share: reading checked tensors, scalars, and the entries of tables.
#pragma once
#include "visq/export/layout.h"

namespace visq {

/// The tensor, with its dtype and shape checked. @param shape  −1 stands for any extent
/// @throws Error naming checkpoint and tensor
at::Tensor read_checked(const Checkpoint& checkpoint, const std::string& name, at::ScalarType dtype,
                        const std::vector<int64_t>& shape);
/// A linear of this scheme, to be filled.
PackedLinear unfilled(const Scheme& scheme);
/// A scale of one element, any floating dtype and shape. @throws Error unless it is finite and positive
float read_scale(const Checkpoint& checkpoint, const std::string& name);

/// The scheme of `preset` with the solvers that a configuration of ours says beside its producer: schemes
/// that differ in these alone are stored alike.
Scheme named_scheme(const Json& quantization_config, const char* preset);

/// Likewise of a scheme that stands in no table.
Scheme named_scheme(const Json& quantization_config, Scheme scheme);

/// Likewise of the KV cache: formats whose scales are 1 look like others.
KvCacheFormat named_kv_cache(const Json& quantization_config, KvCacheFormat kv_cache);
/// What a configuration of ours says beside its producer.
Json producer_of(const char* name, const ExportSummary& summary);
/// The recipe that a configuration of ours names; "": none.
std::string named_recipe(const Json& quantization_config);

/// ModelOpt's names of low-rank factors in language models (spec/export.md §3.4).
inline constexpr const char *kLowRankA = ".weight_quantizer._svdquant_lora_a",
                            *kLowRankB = ".weight_quantizer._svdquant_lora_b";

/// "layers.3.mlp.up_proj" of a decoder linear: what its names in all engines and naming generations end in;
/// the name itself where there is no such part.
std::string name_from_layers(const std::string& module);
/// "…qkv_proj" of "…q_proj", "…k_proj", "…v_proj", likewise "…gate_up_proj"; "" of others.
std::string fused_name(const std::string& module);
/// Linears by all names that engines compare: those given and those of what they are fused in.
std::vector<std::string> with_fused_names(const std::vector<std::string>& linears);
/// Decoder linears so, and by the text model's own names ("model.layers.3…", TensorRT-LLM) and what all end
/// in (SGLang renames entries to other names than modules have).
std::vector<std::string> names_in_engines(const std::vector<std::string>& linears);

/// A name as an expression that matches it.
std::string escape_dots(const std::string& name);

/// Blocks of 128 that cover an extent.
inline int64_t blocks_of(int64_t extent) { return (extent + kFp8Block - 1) / kFp8Block; }

/// f32 scalar as a tensor of `shape` ([] or [1]) and dtype.
at::Tensor scalar_tensor(float value, at::ScalarType dtype, at::IntArrayRef shape);

}  // namespace visq

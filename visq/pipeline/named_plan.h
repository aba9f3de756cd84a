// The plan of a model whose architecture visq does not know: its decoder linears are found by their names,
// which is all that formats without calibration data need.
#pragma once
#include "visq/pipeline/plan.h"

namespace visq {

/// Whether this is the name of a decoder linear: "….layers.N.….q_proj" and the like ("blocks.N", "h.N").
/// Names with a part of another modality, an encoder, a projector or an adapter in them are none, so that
/// what is chosen rather lacks a linear than holds one that no engine expects to be quantized.
bool is_decoder_linear(const std::string& module);

/// The modules with such names and a matrix of a type that can be quantized, in groups that read the same
/// input: q/k/v, gate/up, all others alone. Incomplete groups are left out, and so are all experts of a layer
/// when one of their matrices is.
std::vector<std::vector<std::string>> decoder_linears_by_name(const Checkpoint& checkpoint);

/// As make_plan; Plan::groups says which sites read the same input.
/// @throws Error also when the checkpoint has no such linear, or when the exclude list cannot be written such
///         that the engines read from it what is quantized
Plan make_named_plan(const Checkpoint& checkpoint, const Recipe& recipe, const LayoutChoice& layout,
                     std::filesystem::path directory, KvCacheFormat default_kv_cache = KvCacheFormat::none);

/// As summarize(), of sites that were found by their names.
/// @throws Error when the exclude list cannot be written such that the engines read from it what is quantized
ExportSummary summarize_by_name(const Plan& plan, const Checkpoint& checkpoint);

/// "model.layers.*.mlp.up_proj × 24, …": what the plan quantizes, and what it leaves, in a line.
std::string describe_choice(const Plan& plan, const Checkpoint& checkpoint);

}  // namespace visq

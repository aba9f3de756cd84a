// The configuration of compressed-tensors (spec/export.md §5.1, §5.3): schemes as its arguments, and back.
#pragma once
#include "visq/export/layout.h"

namespace visq::compressed_tensors {

/// The value of "quantization_config". Several schemes are groups whose targets are names of modules, which
/// is what TensorRT-LLM demands.
Json write_config(const ExportSummary& summary);

/// Empty: the configuration is another layout's. Where groups have several schemes, `linears` has the modules
/// that targets name; resolve() finds all.
/// @throws Error naming group and argument that visq does not read
std::optional<StoredQuantization> read_config(const Json& config, const std::string& origin);

/// The scheme of each of these quantized linears: of the group that says most of it (its name, then an
/// expression, then the class).
/// @throws Error when two groups say the same of a linear and have unlike schemes, or none has it, or it is
/// ignored
void resolve(StoredQuantization& stored, const Json& config, const std::vector<std::string>& modules,
             const std::string& origin);

}  // namespace visq::compressed_tensors

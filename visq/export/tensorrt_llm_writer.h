#pragma once
#include "visq/export/tensorrt_llm_form.h"

namespace visq::trt {

/// Writes config.json and a file for each rank. Every linear is read once, on any thread, and goes to all
/// ranks at its place in their files: memory is that of a few linears, however large the model.
/// @throws Error naming what q, k and v do not share, and other numbers that the format has no place for
void write_ranks(const Model& model, const QuantizedCheckpoint& quantized, const Form& form,
                 const std::filesystem::path& directory);

}  // namespace visq::trt

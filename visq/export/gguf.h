// GGUF, what llama.cpp and its kin load: one file with the language model, one ("mmproj") with the vision
// side.
#pragma once
#include "visq/export/model_format.h"

namespace visq {

inline constexpr const char *kGgufTextFile = "model.gguf", *kGgufVisionFile = "mmproj.gguf";

/// name() "gguf". Reads and writes what gguf_blocks.h says, exactly; without the vision file, and with a
/// warning, where llama.cpp does not know tower or projector.
/// Source: spec/export.md §6.4.
const ModelFormat& gguf_format();

}  // namespace visq

// The vision side of a checkpoint as llama.cpp's second file, "mmproj": tower and projector.
// Source: spec/export.md §6.4; the Python package `gguf` (constants, tensor_mapping); tools/mtmd of
// llama.cpp, which says what each projector computes.
#pragma once
#include <filesystem>
#include <string>

#include "visq/families/model.h"

namespace visq {

/// Why there is no such file for a model: its name for what is missing; "": there is one.
std::string mmproj_refusal(const Model& model);

/// @throws Error when mmproj_refusal() says something, or a tensor is missing
void write_mmproj(const Model& model, const std::filesystem::path& path);

}  // namespace visq

// A checkpoint's tokenizer as the metadata of a GGUF file.
#pragma once
#include <filesystem>

#include "visq/export/gguf_format.h"
#include "visq/families/family.h"

namespace visq {

/// tokenizer.ggml.* and the chat template.
/// @param directory  that holds the tokenizer's files
/// @param rows       of the embedding: there must be as many tokens, and unused ones fill up
/// @throws Error when llama.cpp has no tokenizer that cuts text by these rules, or there are fewer rows than
///         tokens
/// @param warn       of what llama.cpp may do otherwise
GgufMetadata tokenizer_metadata(const std::filesystem::path& directory, const ModelSpec& spec, int64_t rows,
                                bool warn = false);

}  // namespace visq

// Reading the language model of a GGUF file by the names of the checkpoint that it was made of.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>

#include "visq/export/gguf_file.h"
#include "visq/export/model_format.h"

namespace visq {

/// The file with the language model: `path` itself, or the one of a directory that is no "mmproj"; empty:
/// there is none, or several.
std::optional<std::filesystem::path> find_gguf_text(const std::filesystem::path& path);

/// Whether a directory has a file with a vision tower, an "mmproj", too.
bool has_gguf_vision(const std::filesystem::path& directory);

/// @throws Error when the file is malformed, of another model, or holds a tensor in a type that visq does not
///         read (IQ3_S …)
std::unique_ptr<StoredModel> open_gguf(const std::filesystem::path& path, const Model& source);

}  // namespace visq

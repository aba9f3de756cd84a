// What `visq inspect` says of GGUF files.
#pragma once
#include <filesystem>
#include <vector>

namespace visq {

/// Those of a path: the file itself, or all of a directory that holds no config.json; empty: it is none.
std::vector<std::filesystem::path> gguf_files(const std::filesystem::path& path);

void inspect_gguf(const std::vector<std::filesystem::path>& files, bool json);

}  // namespace visq

#include "visq/cli/inspect_gguf.h"

#include <algorithm>
#include <map>

#include "visq/core/format.h"
#include "visq/core/json.h"
#include "visq/core/text.h"
#include "visq/export/gguf_file.h"

namespace visq {
namespace {

struct OfType {
  size_t tensors = 0;
  uint64_t bytes = 0;
};

std::map<std::string, OfType> by_type(const GgufFile& file) {
  std::map<std::string, OfType> types;
  for (const GgufTensor& tensor : file.tensors()) {
    OfType& own = types[find_ggml_type(tensor.type)->name];
    ++own.tensors;
    own.bytes += tensor.bytes();
  }
  return types;
}

/// Lists by their lengths: vocabularies are long.
Json value_json(const GgufValue& value) {
  return std::visit(
      [](const auto& data) -> Json {
        using Data = std::decay_t<decltype(data)>;
        if constexpr (std::is_arithmetic_v<Data> || std::is_same_v<Data, std::string>) {
          return data;
        } else {
          if (data.size() > 8) return visq::format("{} entries", data.size());
          Json list = Json::array();
          for (const auto& entry : data) list.push_back(entry);
          return list;
        }
      },
      value.data);
}

Json describe(const GgufFile& file) {
  Json out = {{"file", file.path().string()},
              {"architecture", file.text("general.architecture")},
              {"tensors", file.tensors().size()}};
  for (const auto& [name, type] : by_type(file))
    out["types"][name] = {{"tensors", type.tensors}, {"bytes", type.bytes}};
  for (const auto& [key, value] : file.metadata()) out["metadata"][key] = value_json(value);
  return out;
}

}  // namespace

std::vector<std::filesystem::path> gguf_files(const std::filesystem::path& path) {
  if (is_gguf(path)) return {path};
  std::vector<std::filesystem::path> files;
  std::error_code ignored;
  if (std::filesystem::exists(path / "config.json")) return files;
  for (const auto& entry : std::filesystem::directory_iterator(path, ignored))
    if (entry.path().extension() == ".gguf") files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

void inspect_gguf(const std::vector<std::filesystem::path>& files, bool json) {
  Json all = Json::array();
  for (const std::filesystem::path& path : files) all.push_back(describe(GgufFile(path)));
  if (json) return visq::print("{}\n", json_text(all.size() == 1 ? all.front() : all, 2));
  for (const Json& file : all) {
    visq::print("{}: GGUF, architecture {}, {} tensors\n", file.at("file").get<std::string>(),
                file.at("architecture").get<std::string>(), file.at("tensors").get<size_t>());
    const Json types = file.value("types", Json::object()), metadata = file.value("metadata", Json::object());
    std::vector<std::vector<std::string>> rows = {{"type", "tensors", "size"}};
    for (const auto& [name, type] : types.items())
      rows.push_back({name, std::to_string(type.at("tensors").get<size_t>()),
                      human_bytes(type.at("bytes").get<uint64_t>())});
    visq::print("{}", format_table(rows, {1, 2}));
    for (const auto& [key, value] : metadata.items()) visq::print("  {} = {}\n", key, json_excerpt(value));
    visq::print("\n");
  }
}

}  // namespace visq

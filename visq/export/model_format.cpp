#include "visq/export/model_format.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/format.h"
#include "visq/export/gguf.h"
#include "visq/export/layout.h"

namespace visq {

const std::vector<const ModelFormat*>& model_formats() {
  static const std::vector<const ModelFormat*> all = {&tensorrt_llm_format(), &gguf_format()};
  return all;
}

const ModelFormat* find_model_format(const std::string& name) {
  const auto found = std::ranges::find_if(model_formats(),
                                          [&](const ModelFormat* format) { return format->name() == name; });
  return found == model_formats().end() ? nullptr : *found;
}

std::string layout_names() {
  std::vector<std::string> names;
  for (const Layout* layout : layouts()) names.push_back(layout->name());
  for (const ModelFormat* format : model_formats())
    if (std::ranges::find(names, format->name()) == names.end()) names.push_back(format->name());
  return visq::format("{}", fmt::join(names, ", "));
}

at::Tensor without_added_one(const at::Tensor& stored, const Checkpoint& original, const std::string& name) {
  const at::Tensor value = stored.to(at::kFloat) - 1;
  if (!original.contains(name)) return value;
  const at::Tensor before = original.tensor(name).to(at::kFloat);
  return (before + 1).to(stored.scalar_type()).equal(stored) ? before : value;
}

const ModelFormat* model_format_at(const std::filesystem::path& path) {
  const auto found = std::ranges::find_if(model_formats(),
                                          [&](const ModelFormat* format) { return format->recognise(path); });
  return found == model_formats().end() ? nullptr : *found;
}

}  // namespace visq

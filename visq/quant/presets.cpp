#include "visq/quant/presets.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/quant/presets_text.h"

namespace visq {
namespace {

constexpr size_t kMaxRecipeBytes = 1u << 20;

std::vector<std::string> documents(const std::string& text) {
  static const std::string kSeparator = "---\n";
  std::vector<std::string> all;
  size_t begin = text.find(kSeparator);  // what stands before is said to the reader of the file
  while (begin != std::string::npos) {
    begin += kSeparator.size();
    const size_t end = text.find("\n" + kSeparator, begin);
    all.push_back(end == std::string::npos ? text.substr(begin) : text.substr(begin, end + 1 - begin));
    begin = end == std::string::npos ? end : end + 1;
  }
  return all;
}

const Recipe* find_recipe(const std::vector<Preset>& presets, const std::string& name) {
  const auto found = std::ranges::find(presets, name, &Preset::name);
  return found == presets.end() ? nullptr : &found->recipe;
}

/// @param before  the presets that stand before it, which it may name
Preset read_preset(std::string text, const std::vector<Preset>& before) {
  Preset preset;
  preset.recipe =
      parse_recipe(text, "presets.yaml", [&](const std::string& name) { return find_recipe(before, name); });
  preset.name = preset.recipe.name;
  preset.serves = preset.recipe.about;
  for (Rule& rule : preset.recipe.rules) rule.origin.clear();  // not every model has what they name
  preset.scheme = preset.recipe.rules.front().scheme.value();
  preset.weight = describe_weight(preset.scheme);
  preset.input = describe_input(preset.scheme);
  preset.text = std::move(text);
  return preset;
}

}  // namespace

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = [] {
    std::vector<Preset> read;
    for (std::string& text : documents(kPresetsText)) read.push_back(read_preset(std::move(text), read));
    return read;
  }();
  return all;
}

const Preset& find_preset(const std::string& name) {
  std::string names;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
    names += (names.empty() ? "" : ", ") + preset.name;
  }
  fail("--format {}: no such format; choose from {}", name, names);
}

const Preset* preset_of(const Scheme& scheme) {
  const auto found = std::ranges::find(presets(), scheme, &Preset::scheme);
  return found == presets().end() ? nullptr : &*found;
}

Recipe recipe_of(const Preset& preset, KvCacheFormat kv_cache, std::vector<std::string> only,
                 std::vector<std::string> skip) {
  Recipe recipe = preset.recipe;
  recipe.kv_cache = kv_cache;
  recipe.only = std::move(only);
  recipe.skip = std::move(skip);
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& file) {
  return parse_recipe(read_text(file, kMaxRecipeBytes), file.string(),
                      [](const std::string& name) { return find_recipe(presets(), name); });
}

}  // namespace visq

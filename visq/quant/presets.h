// The recipes that the program brings along, under the names users know (the column "preset" of
// spec/quantization.md §4). They are written in presets.yaml.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "visq/quant/recipe.h"

namespace visq {

struct Preset {
  std::string name;
  Scheme scheme;              ///< of all linears that it quantizes
  std::string weight, input;  ///< for people: "INT4, blocks of 128", "as is"
  std::string serves;         ///< when to choose it, in a few words
  Recipe recipe;
  std::string text;  ///< its YAML
};

const std::vector<Preset>& presets();
/// @throws Error listing the presets when there is none of that name
const Preset& find_preset(const std::string& name);
/// The first preset with this scheme for all linears; nullptr: there is none.
const Preset* preset_of(const Scheme& scheme);

/// A recipe from a file, which may name presets. @throws Error as parse_recipe(), and when the file cannot be
/// read or is larger than 1 MB
Recipe load_recipe(const std::filesystem::path& file);

/// The preset's recipe with choices of a run.
Recipe recipe_of(const Preset& preset, KvCacheFormat kv_cache, std::vector<std::string> only = {},
                 std::vector<std::string> skip = {});

}  // namespace visq

#include "visq/quant/recipe.h"

#include <fnmatch.h>

namespace visq {

bool glob_match(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

Recipe Recipe::from_preset(const Preset& preset, KvCacheFormat kv_cache, const std::vector<std::string>& only,
                           const std::vector<std::string>& skip) {
  Recipe recipe{preset.name, {}, kv_cache};
  if (only.empty()) recipe.rules.push_back({"*", preset.scheme});
  for (const std::string& pattern : only) recipe.rules.push_back({pattern, preset.scheme});
  for (const std::string& pattern : skip) recipe.rules.push_back({pattern, std::nullopt});
  return recipe;
}

std::optional<Scheme> Recipe::scheme_for(const std::string& module) const {
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule)
    if (glob_match(rule->pattern, module)) return rule->scheme;
  return std::nullopt;
}

}  // namespace visq

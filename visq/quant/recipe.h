// Which linears get which scheme: ordered rules from module-name globs to schemes, the last match wins.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/quant/scheme.h"

namespace visq {

/// `*` and `?` as in the shell; `*` crosses dots.
bool glob_match(const std::string& pattern, const std::string& name);

struct Rule {
  std::string pattern;           ///< glob over module names as they stand in the checkpoint
  std::optional<Scheme> scheme;  ///< empty: leave unquantized
};

struct Recipe {
  std::string name;
  std::vector<Rule> rules;
  KvCacheFormat kv_cache = KvCacheFormat::fp8;

  /// The preset on every linear, then `skip` patterns left out; with `only` patterns, nothing else is
  /// quantized.
  static Recipe from_preset(const Preset& preset, KvCacheFormat kv_cache,
                            const std::vector<std::string>& only = {},
                            const std::vector<std::string>& skip = {});
  std::optional<Scheme> scheme_for(const std::string& module) const;
};

}  // namespace visq

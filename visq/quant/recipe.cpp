#include "visq/quant/recipe.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>

#include "visq/core/error.h"
#include "visq/core/format.h"

namespace visq {

bool glob_match(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

std::optional<Scheme> Recipe::scheme_for(const std::string& module) const {
  const auto matches = [&](const std::string& pattern) { return glob_match(pattern, module); };
  if (!only.empty() && std::ranges::none_of(only, matches)) return std::nullopt;
  if (std::ranges::any_of(skip, matches)) return std::nullopt;
  for (auto rule = rules.rbegin(); rule != rules.rend(); ++rule)
    if (matches(rule->sites)) return rule->scheme;
  return std::nullopt;
}

bool Recipe::needs_calibration() const {
  return without_data.empty() && std::ranges::any_of(rules, [](const Rule& rule) {
           return rule.scheme && rule.scheme->needs_calibration();
         });
}

std::optional<double> parse_modality_weight(const std::string& text) {
  if (text == "auto") return std::nullopt;
  double weight = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), weight);
  if (code != std::errc() || end != text.data() + text.size() || !(weight > 0) || !(weight <= 1e6))
    fail("modality weight: '{}' is neither auto nor a number above 0 and up to 1000000", text);
  return weight;
}

std::string modality_weight_text(std::optional<double> weight) {
  return weight ? visq::format("{}", *weight) : "auto";
}

}  // namespace visq

// Which linears get which scheme: ordered rules from module-name globs to schemes, the last match wins.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "visq/quant/scheme.h"

namespace visq {

/// `*` and `?` as in the shell; `*` crosses dots.
bool glob_match(const std::string& pattern, const std::string& name);

struct Rule {
  std::string sites;             ///< glob over module names as they stand in the checkpoint
  std::optional<Scheme> scheme;  ///< empty: leave unquantized
  /// "file:line" of a rule that its author expects to match something; empty: of others (presets').
  std::string origin = {};
};

struct Recipe {
  std::string name;
  std::string about = {};  ///< for people
  std::vector<Rule> rules = {};
  std::optional<KvCacheFormat> kv_cache = {};  ///< empty: the program's default
  /// The preset whose rules take the place of these where there are no calibration data; "": none does.
  std::string without_data = {};
  /// How much an image token counts beside a text token in what solvers minimise; empty ("auto"): by how much
  /// answers depend on the tokens of either.
  std::optional<double> modality_weight = 1.0;
  std::vector<std::string> only = {}, skip = {};  ///< globs: nothing but `only` (if any), and none of `skip`

  std::optional<Scheme> scheme_for(const std::string& module) const;
  /// Whether a rule's scheme does and no other recipe takes its place.
  bool needs_calibration() const;
};

/// "auto" or a positive number, as Recipe::modality_weight. @throws Error for anything else
std::optional<double> parse_modality_weight(const std::string& text);
std::string modality_weight_text(std::optional<double> weight);

/// A recipe as YAML:
///
///     name: mine                # default: the file's name
///     about: for people         # optional
///     extends: nvfp4            # optional: a preset, whose rules come first
///     kv_cache: fp8             # optional
///     without_data: w4a16       # optional: the preset to take where there are no calibration data
///     modality_weight: auto     # optional, or a number
///     only: ["*.layers.*"]      # optional, as skip
///     rules:
///       - sites: "*.self_attn.*"  # default: "*"
///         scheme: fp8             # a preset's, which the other keys change; none: leave as it is
///       - sites: "*.down_proj"
///         weight: int4            # weight, block, second_stage, input, smoothing, …
///         block: 128
///         smoothing: awq
///
/// @param origin  the file that the text is from, for errors and for the default name
/// @param find    a preset's recipe by its name; nullptr: there is none
/// @throws Error naming origin and line: not YAML, unknown keys or values, settings that do not go together
Recipe parse_recipe(const std::string& text, const std::string& origin,
                    const std::function<const Recipe*(const std::string& name)>& find);

/// The text that parse_recipe() reads as the same recipe; schemes are written in full.
std::string recipe_text(const Recipe& recipe);

}  // namespace visq

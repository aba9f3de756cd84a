// How the serving engines decide which modules an exclude list covers (spec/export.md §7.6, §7.7).
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"

namespace visq {

enum class Engine { vllm, sglang, tensorrt_llm };
const char* engine_name(Engine engine);
/// @throws Error listing the engines when there is none of that name
Engine parse_engine(const std::string& name);

/// What the entries of a layout's exclude list stand for.
enum class ExcludeRule {
  patterns,     ///< modules that match, by the engine's own rule
  whole_names,  ///< the module of this name
  components    ///< modules whose name has this part, or begins with these
};

/// Whether the engine takes `module` (as named in the files) for excluded from quantization.
/// @param entries      exclude_modules / ignore as written in the configuration
/// @param model_type   config.json: decides the engine's renaming of modules
/// @throws Error when an entry is a regular expression of a kind that visq does not judge
/// @param rule         the layout's
bool engine_excludes(Engine engine, const std::vector<std::string>& entries, const std::string& module,
                     const std::string& model_type, ExcludeRule rule = ExcludeRule::patterns);

}  // namespace visq

// Internal to visq/inputs: the `post_processor` of a tokenizer.json: ids around every encoded text.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "visq/core/json.h"

namespace visq {

struct PostProcessor {
  std::vector<int64_t> prefix, suffix;

  /// TemplateProcessing (single texts), ByteLevel (changes no ids), a Sequence of these, or null.
  /// @throws Error naming any other component
  static PostProcessor parse(const Json& component, const std::string& origin);
};

}  // namespace visq

// Internal to the chat template: source text → tokens, with Jinja's control of white space.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "visq/inputs/template_value.h"

namespace visq::jinja {

struct Token {
  enum class Kind {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    number,
    op,
    end
  };
  Kind kind;
  std::string text;  ///< of a name, an operator; decoded of data and strings
  Value number;
  int line;
};

/// Mimics trim_blocks, lstrip_blocks, `-` and `+` marks, {% raw %} and comments (spec/inputs.md §4.1, §4.3).
/// @throws Error naming `origin` and the line
std::vector<Token> tokenize(std::string_view source, const std::string& origin);

}  // namespace visq::jinja

// Internal to the chat template: runs the tree.
#pragma once
#include <string>

#include "visq/core/json.h"
#include "visq/inputs/template_ast.h"

namespace visq::jinja {

/// One rendering of `block`. @param variables  an object: what the template's names mean
/// @throws Error naming `origin` and the line
std::string interpret(const Block& block, const std::string& origin, const Json& variables);

/// @throws Error for integers beyond 64 bits, and nesting deeper than kMaxDepth
Value from_json(Runtime&, const Json&);

}  // namespace visq::jinja

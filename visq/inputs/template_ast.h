// Internal to the chat template: what a template says, as a tree.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "visq/inputs/template_value.h"

namespace visq::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

/// (a, b, key=c, *d, **e)
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keywords;
  ExpressionPtr more_positional, more_keywords;  ///< may be null
};

struct Expression {
  enum class Kind {
    constant,
    name,         ///< text
    list,         ///< operands
    tuple,        ///< operands
    dict,         ///< operands: key, value, key, value, …
    logical_not,  ///< operands[0]
    logical_and,  ///< operands[0], [1]
    logical_or,   ///< operands[0], [1]
    condition,    ///< operands: [0] if [1] else [2]; [2] may be missing
    negate,       ///< operands[0]
    plus,         ///< operands[0]
    arithmetic,   ///< operands[0] text operands[1]
    concat,       ///< operands, with ~ between them
    compare,      ///< operands, with operators[i] between [i] and [i + 1]
    attribute,    ///< operands[0].text
    item,         ///< operands[0][operands[1]]
    slice,        ///< operands[0][[1]:[2]:[3]]; bounds may be null
    call,         ///< operands[0](arguments)
    filter,       ///< operands[0] | text(arguments); operands[0] is null in {% filter %} and {% set | %}
    test,         ///< operands[0] is text(arguments)
  };
  Kind kind;
  int line;
  std::string text = {};
  Value constant = Value();
  std::vector<ExpressionPtr> operands = {};
  std::vector<std::string> operators = {};
  CallArguments arguments = {};
  int height = 1;  ///< longest way down to a leaf
};

/// What an assignment writes to.
struct Target {
  enum class Kind { name, attribute, tuple };
  Kind kind;
  int line;
  std::string name = {};
  std::string attribute = {};        ///< Kind::attribute: of a namespace
  std::vector<Target> targets = {};  ///< Kind::tuple
};

struct Statement;
using Block = std::vector<Statement>;

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  ///< of the last parameters
  Block body;
  bool uses_varargs = false, uses_kwargs = false, uses_caller = false;
};

struct Statement {
  enum class Kind {
    text,         ///< text
    print,        ///< expressions
    conditional,  ///< expressions[i] guards bodies[i]; one body more: else
    loop,    ///< targets[0] in expressions[0], if expressions[1] (may be null): bodies[0], else bodies[1]
    assign,  ///< targets[0] = expressions[0]
    assign_block,  ///< targets[0] = bodies[0], filtered by expressions[0] (may be null)
    with,          ///< targets[i] = expressions[i] in bodies[0]
    macro,         ///< macro
    call_block,    ///< expressions[0] is called with macro as its caller
    filter_block,  ///< bodies[0], filtered by expressions[0]
    scope,         ///< bodies[0]: {% generation %}
    break_loop,
    continue_loop,
  };
  Kind kind;
  int line;
  std::string text = {};
  std::vector<ExpressionPtr> expressions = {};
  std::vector<Target> targets = {};
  std::vector<Block> bodies = {};
  std::shared_ptr<const Macro> macro = nullptr;
  bool is_recursive = false;
};

}  // namespace visq::jinja

#include "visq/inputs/template_parser.h"

#include <algorithm>
#include <map>

#include "visq/core/error.h"
#include "visq/inputs/template_runtime.h"

namespace visq::jinja {
namespace {

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Block run() { return block_until({}); }

 private:
  using Statements = Statement::Kind;

  /// Statements up to a tag of one of the names, whose name is then the current token; or up to the end of
  /// the template when there is no name.
  Block block_until(Words ends) {
    const Nesting nesting(*this);
    Block block;
    while (!at(Token::Kind::end)) {
      if (at(Token::Kind::data)) {
        const Token& token = take();
        block.push_back({.kind = Statements::text, .line = token.line, .text = token.text});
      } else if (at(Token::Kind::variable_begin)) {
        block.push_back(print(take().line));
        expect(Token::Kind::variable_end, "'}}'");
      } else {
        expect(Token::Kind::block_begin, "a tag");
        if (at_any(ends)) return block;
        statement(block);
        expect(Token::Kind::block_end, "'%}'");
      }
    }
    if (ends.size() > 0) complain(visq::format("the template ends, but '{}' is missing", *(ends.end() - 1)));
    return block;
  }

  /// The rest of a tag, and what follows it up to the tag that ends it; that tag's name is taken.
  Block body(Words ends) {
    skip_op(":");
    expect(Token::Kind::block_end, "'%}'");
    Block block = block_until(ends);
    take();
    return block;
  }

  Statement print(int line) {
    Statement result{.kind = Statements::print, .line = line};
    result.expressions.push_back(tuple());
    return result;
  }

  void statement(Block& block) {
    using Method = void (Parser::*)(Statement&);
    static const std::map<std::string_view, std::pair<Statements, Method>> methods{
        {"if", {Statements::conditional, &Parser::conditional}},
        {"for", {Statements::loop, &Parser::loop}},
        {"set", {Statements::assign, &Parser::assign}},
        {"with", {Statements::with, &Parser::with}},
        {"macro", {Statements::macro, &Parser::macro}},
        {"call", {Statements::call_block, &Parser::call_block}},
        {"filter", {Statements::filter_block, &Parser::filter_block}},
        {"print", {Statements::print, &Parser::print_list}},
        {"generation", {Statements::scope, &Parser::generation}},
        {"break", {Statements::break_loop, &Parser::jump}},
        {"continue", {Statements::continue_loop, &Parser::jump}},
    };
    const Token& tag = expect(Token::Kind::name, "the name of a tag");
    const auto it = methods.find(tag.text);
    if (it == methods.end())
      complain(tag.text.starts_with("end") || tag.text == "else" || tag.text == "elif"
                   ? visq::format("'{}' without a beginning", tag.text)
                   : visq::format("tag '{}' is not supported", tag.text),
               tag.line);
    Statement result{.kind = it->second.first, .line = tag.line};
    (this->*it->second.second)(result);
    block.push_back(std::move(result));
  }

  void conditional(Statement& result) {
    while (true) {
      result.expressions.push_back(tuple(false));
      skip_op(":");
      expect(Token::Kind::block_end, "'%}'");
      result.bodies.push_back(block_until({"elif", "else", "endif"}));
      const std::string& word = take().text;
      if (word == "else") result.bodies.push_back(body({"endif"}));
      if (word != "elif") return;
    }
  }

  void loop(Statement& result) {
    result.targets.push_back(target({"in"}, false));
    expect_word("in");
    result.expressions.push_back(tuple(false, {"recursive"}));
    result.expressions.push_back(skip_word("if") ? expression() : nullptr);
    result.is_recursive = skip_word("recursive");
    if (names(result.targets[0], "loop")) complain("'loop' cannot be assigned to in a loop", result.line);
    ++loops_;
    ++loops_or_macros_;
    skip_op(":");
    expect(Token::Kind::block_end, "'%}'");
    result.bodies.push_back(block_until({"endfor", "else"}));
    --loops_;
    result.bodies.push_back(take().text == "else" ? body({"endfor"}) : Block());
    --loops_or_macros_;
  }

  void assign(Statement& result) {
    result.targets.push_back(target({}, true));
    check_loop_variable(result.targets[0]);
    if (skip_op("=")) {
      result.expressions.push_back(tuple());
      return;
    }
    result.kind = Statements::assign_block;
    result.expressions.push_back(filters(nullptr));
    result.bodies.push_back(body({"endset"}));
  }

  void with(Statement& result) {
    while (!at(Token::Kind::block_end)) {
      if (!result.targets.empty()) expect_op(",");
      result.targets.push_back(target({}, false));
      check_loop_variable(result.targets.back());
      expect_op("=");
      result.expressions.push_back(expression());
    }
    result.bodies.push_back(body({"endwith"}));
  }

  void macro(Statement& result) {
    auto macro = std::make_shared<Macro>();
    macro->name = parameter_name();
    if (macro->name == "loop" && loops_or_macros_ > 0) complain("'loop' cannot be assigned to in a loop");
    signature(*macro);
    macro_body(*macro, {"endmacro"});
    result.macro = std::move(macro);
  }

  void call_block(Statement& result) {
    auto macro = std::make_shared<Macro>();
    macro->name = "caller";
    if (at_op("(")) signature(*macro);
    result.expressions.push_back(expression());
    if (result.expressions[0]->kind != Expression::Kind::call) complain("'call' needs a call", result.line);
    macro_body(*macro, {"endcall"});
    result.macro = std::move(macro);
  }

  void filter_block(Statement& result) {
    result.expressions.push_back(filters(nullptr, /*first_without_pipe=*/true));
    result.bodies.push_back(body({"endfilter"}));
  }

  void print_list(Statement& result) {
    while (!at(Token::Kind::block_end)) {
      if (!result.expressions.empty()) expect_op(",");
      result.expressions.push_back(expression());
    }
  }

  void generation(Statement& result) { result.bodies.push_back(closed_body({"endgeneration"})); }

  void jump(Statement& result) {
    if (loops_ == 0) complain("'break' or 'continue' outside a loop", result.line);
  }

  /// The body of a function: loops around it do not count.
  Block closed_body(Words ends) {
    const int loops = std::exchange(loops_, 0);
    Block block = body(ends);
    loops_ = loops;
    return block;
  }

  void macro_body(Macro& macro, Words ends) {
    const SpecialNames outer = std::exchange(special_, {});
    macro.body = closed_body(ends);
    const auto is_parameter = [&](std::string_view name) {
      return std::ranges::find(macro.parameters, name) != macro.parameters.end();
    };
    macro.uses_varargs = special_.varargs && !is_parameter("varargs");
    macro.uses_kwargs = special_.kwargs && !is_parameter("kwargs");
    macro.uses_caller = special_.caller && !is_parameter("caller");
    special_.varargs |= outer.varargs;
    special_.kwargs |= outer.kwargs;
    special_.caller |= outer.caller;
  }

  void signature(Macro& macro) {
    expect_op("(");
    while (!at_op(")")) {
      if (!macro.parameters.empty()) expect_op(",");
      macro.parameters.push_back(parameter_name());
      if (skip_op("=")) {
        macro.defaults.push_back(expression());
      } else if (!macro.defaults.empty()) {
        complain("a parameter without default follows one that has one");
      }
    }
    take();
  }

  static bool is_constant(std::string_view name) {
    for (const std::string_view word : {"true", "True", "false", "False", "none", "None"})
      if (name == word) return true;
    return false;
  }

  std::string parameter_name() {
    const Token& token = expect(Token::Kind::name, "a name");
    if (is_constant(token.text)) complain(visq::format("cannot assign to '{}'", token.text), token.line);
    return token.text;
  }

  Target target(Words ends, bool with_attributes) {
    Target result{.kind = Target::Kind::tuple, .line = current().line};
    bool is_tuple = false;
    while (!at(Token::Kind::block_end) && !at_op(")") && !at_any(ends)) {
      result.targets.push_back(single_target(with_attributes));
      if (!skip_op(",")) break;
      is_tuple = true;
    }
    if (result.targets.empty()) complain_unexpected();
    return is_tuple ? std::move(result) : Target(std::move(result.targets[0]));
  }

  Target single_target(bool with_attributes) {
    const Nesting nesting(*this);
    if (skip_op("(")) {
      Target result = target({}, with_attributes);
      expect_op(")");
      return result;
    }
    const int line = current().line;
    Target result{.kind = Target::Kind::name, .line = line, .name = parameter_name()};
    if (with_attributes && skip_op(".")) {
      result.kind = Target::Kind::attribute;
      result.attribute = expect(Token::Kind::name, "a name").text;
    }
    return result;
  }

  static bool names(const Target& target, std::string_view name) {
    if (target.kind == Target::Kind::name) return target.name == name;
    return std::ranges::any_of(target.targets, [&](const Target& part) { return names(part, name); });
  }

  void check_loop_variable(const Target& target) {
    if (loops_or_macros_ > 0 && names(target, "loop")) complain("'loop' cannot be assigned to in a loop");
  }

  int loops_ = 0;            ///< around the statement, within its function: where `break` leads
  int loops_or_macros_ = 0;  ///< around the statement, at all
};

}  // namespace

Block parse_template(std::string_view source, const std::string& origin) {
  return Parser(tokenize(source, origin), origin).run();
}

}  // namespace visq::jinja

#include <algorithm>

#include "visq/core/error.h"
#include "visq/inputs/template_parser.h"
#include "visq/inputs/template_runtime.h"

namespace visq::jinja {
namespace {

template <typename... Operands>
Expression node(Expression::Kind kind, int line, Operands... operands) {
  Expression result{.kind = kind, .line = line};
  (result.operands.push_back(std::move(operands)), ...);
  return result;
}

}  // namespace

bool ExpressionParser::at_any(Words words) const {
  return std::any_of(words.begin(), words.end(), [&](std::string_view word) { return at_word(word); });
}

bool ExpressionParser::skip_op(std::string_view op) {
  if (!at_op(op)) return false;
  take();
  return true;
}

bool ExpressionParser::skip_word(std::string_view word) {
  if (!at_word(word)) return false;
  take();
  return true;
}

void ExpressionParser::expect_op(std::string_view op) {
  if (!skip_op(op)) complain_unexpected();
}

void ExpressionParser::expect_word(std::string_view word) {
  if (!skip_word(word)) complain_unexpected();
}

const Token& ExpressionParser::expect(Token::Kind kind, std::string_view what) {
  if (!at(kind)) complain(visq::format("expected {}, not '{}'", what, current().text));
  return take();
}

void ExpressionParser::complain(const std::string& message, int line) const {
  fail("{}:{}: {}", origin_, line ? line : current().line, message);
}

void ExpressionParser::complain_unexpected() const {
  if (at(Token::Kind::end)) complain("the template ends within a tag");
  complain(visq::format("unexpected '{}'", current().text.substr(0, 40)));
}

ExpressionPtr ExpressionParser::finish(Expression result) const {
  const auto grow = [&](const ExpressionPtr& part) {
    if (part) result.height = std::max(result.height, part->height + 1);
  };
  for (const ExpressionPtr& operand : result.operands) grow(operand);
  for (const ExpressionPtr& argument : result.arguments.positional) grow(argument);
  for (const auto& [key, argument] : result.arguments.keywords) grow(argument);
  grow(result.arguments.more_positional);
  grow(result.arguments.more_keywords);
  if (result.height > kMaxDepth) complain(visq::format("an expression nests deeper than {}", kMaxDepth));
  return std::make_unique<const Expression>(std::move(result));
}

ExpressionPtr ExpressionParser::expression(bool with_condition) {
  const Nesting nesting(*this);
  return with_condition ? condition() : logical_or();
}

ExpressionPtr ExpressionParser::condition() {
  int line = current().line;
  ExpressionPtr left = logical_or();
  while (skip_word("if")) {
    Expression result = node(Kind::condition, line, std::move(left), logical_or());
    if (skip_word("else")) result.operands.push_back(expression());
    left = finish(std::move(result));
    line = current().line;
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_or() {
  ExpressionPtr left = logical_and();
  while (at_word("or")) {
    const int line = take().line;
    left = finish(node(Kind::logical_or, line, std::move(left), logical_and()));
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_and() {
  ExpressionPtr left = logical_not();
  while (at_word("and")) {
    const int line = take().line;
    left = finish(node(Kind::logical_and, line, std::move(left), logical_not()));
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_not() {
  if (!at_word("not")) return compare();
  const Nesting nesting(*this);
  const int line = take().line;
  return finish(node(Kind::logical_not, line, logical_not()));
}

ExpressionPtr ExpressionParser::compare() {
  static constexpr std::string_view kOperators[] = {"==", "!=", ">", ">=", "<", "<="};
  const int line = current().line;
  ExpressionPtr first = sum();
  Expression result{.kind = Kind::compare, .line = line};
  while (true) {
    if (at(Token::Kind::op) && std::ranges::find(kOperators, current().text) != std::end(kOperators)) {
      result.operators.push_back(take().text);
    } else if (skip_word("in")) {
      result.operators.emplace_back("in");
    } else if (at_word("not") && ahead().kind == Token::Kind::name && ahead().text == "in") {
      take();
      take();
      result.operators.emplace_back("not in");
    } else {
      break;
    }
    if (result.operands.empty()) result.operands.push_back(std::move(first));
    result.operands.push_back(sum());
  }
  return result.operators.empty() ? std::move(first) : finish(std::move(result));
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concat();
  while (at_op("+") || at_op("-")) {
    const Token& op = take();
    Expression result = node(Kind::arithmetic, op.line, std::move(left), concat());
    result.text = op.text;
    left = finish(std::move(result));
  }
  return left;
}

ExpressionPtr ExpressionParser::concat() {
  ExpressionPtr first = product();
  if (!at_op("~")) return first;
  Expression result = node(Kind::concat, current().line, std::move(first));
  while (skip_op("~")) result.operands.push_back(product());
  return finish(std::move(result));
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (at_op("*") || at_op("/") || at_op("//") || at_op("%")) {
    const Token& op = take();
    Expression result = node(Kind::arithmetic, op.line, std::move(left), power());
    result.text = op.text;
    left = finish(std::move(result));
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary();
  while (at_op("**")) {  // Jinja groups powers from the left, unlike Python
    const Token& op = take();
    Expression result = node(Kind::arithmetic, op.line, std::move(left), unary());
    result.text = op.text;
    left = finish(std::move(result));
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Nesting nesting(*this);
  ExpressionPtr result;
  if (at_op("-") || at_op("+")) {
    const Token& op = take();
    result = finish(node(op.text == "-" ? Kind::negate : Kind::plus, op.line, unary(false)));
  } else {
    result = primary();
  }
  result = postfix(std::move(result));
  return with_filters ? filters_and_tests(std::move(result)) : std::move(result);
}

ExpressionPtr ExpressionParser::constant(Value value, int line) const {
  return finish(Expression{.kind = Kind::constant, .line = line, .constant = std::move(value)});
}

ExpressionPtr ExpressionParser::primary() {
  if (at(Token::Kind::name)) return name();
  if (at(Token::Kind::string)) return string();
  if (at(Token::Kind::number)) {
    const Token& token = take();
    return constant(token.number, token.line);
  }
  if (at_op("(")) return parenthesized();
  if (at_op("[")) return list();
  if (at_op("{")) return dict();
  complain_unexpected();
}

ExpressionPtr ExpressionParser::name() {
  const Token& token = take();
  const std::string& text = token.text;
  if (text == "true" || text == "True") return constant(Value(true), token.line);
  if (text == "false" || text == "False") return constant(Value(false), token.line);
  if (text == "none" || text == "None") return constant(Value(), token.line);
  special_.varargs |= text == "varargs";
  special_.kwargs |= text == "kwargs";
  special_.caller |= text == "caller";
  return finish(Expression{.kind = Kind::name, .line = token.line, .text = text});
}

ExpressionPtr ExpressionParser::string() {
  const int line = current().line;
  std::string text;
  while (at(Token::Kind::string)) text += take().text;  // neighbours are one string, as in Python
  return constant(Value(std::make_shared<const std::string>(std::move(text))), line);
}

ExpressionPtr ExpressionParser::parenthesized() {
  expect_op("(");
  ExpressionPtr result = tuple(true, {}, true);
  expect_op(")");
  return result;
}

bool ExpressionParser::is_tuple_end(Words ends) const {
  return at(Token::Kind::variable_end) || at(Token::Kind::block_end) || at_op(")") || at_any(ends);
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, Words ends, bool in_parentheses) {
  Expression result{.kind = Kind::tuple, .line = current().line};
  bool is_tuple = false;
  while (!is_tuple_end(ends)) {
    result.operands.push_back(expression(with_condition));
    if (!at_op(",")) break;
    take();
    is_tuple = true;
  }
  if (!is_tuple && !result.operands.empty()) return std::move(result.operands[0]);
  if (!is_tuple && !in_parentheses) complain_unexpected();
  return finish(std::move(result));
}

ExpressionPtr ExpressionParser::list() {
  Expression result{.kind = Kind::list, .line = take().line};
  while (!at_op("]")) {
    if (!result.operands.empty()) expect_op(",");
    if (at_op("]")) break;
    result.operands.push_back(expression());
  }
  take();
  return finish(std::move(result));
}

ExpressionPtr ExpressionParser::dict() {
  Expression result{.kind = Kind::dict, .line = take().line};
  while (!at_op("}")) {
    if (!result.operands.empty()) expect_op(",");
    if (at_op("}")) break;
    result.operands.push_back(expression());
    expect_op(":");
    result.operands.push_back(expression());
  }
  take();
  return finish(std::move(result));
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr left) {
  while (true) {
    if (at_op(".") || at_op("[")) {
      left = subscript(std::move(left));
    } else if (at_op("(")) {
      Expression result = node(Kind::call, current().line, std::move(left));
      result.arguments = call_arguments();
      left = finish(std::move(result));
    } else {
      return left;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr left) {
  const Token& token = take();
  if (token.text == ".") {
    const Token& name = take();
    if (name.kind == Token::Kind::number && integer_of(name.number))
      return finish(node(Kind::item, token.line, std::move(left), constant(name.number, name.line)));
    if (name.kind != Token::Kind::name) complain("expected a name after '.'", name.line);
    Expression result = node(Kind::attribute, token.line, std::move(left));
    result.text = name.text;
    return finish(std::move(result));
  }
  ExpressionPtr bounds[3];
  size_t colons = 0;
  Expression key{.kind = Kind::tuple, .line = token.line};
  while (!at_op("]") || colons > 0) {
    if (!at_op(":") && !at_op("]") && !at_op(",")) bounds[colons] = expression();
    if (at_op(":") && colons < 2 && key.operands.empty()) {
      take();
      ++colons;
      continue;
    }
    if (colons > 0 || !bounds[0]) break;
    key.operands.push_back(std::move(bounds[0]));
    if (at_op("]")) break;
    expect_op(",");
    if (at_op("]")) complain_unexpected();
  }
  expect_op("]");
  if (colons > 0)
    return finish(node(Kind::slice, token.line, std::move(left), std::move(bounds[0]), std::move(bounds[1]),
                       std::move(bounds[2])));
  ExpressionPtr index = key.operands.size() == 1 ? std::move(key.operands[0]) : finish(std::move(key));
  return finish(node(Kind::item, token.line, std::move(left), std::move(index)));
}

CallArguments ExpressionParser::call_arguments() {
  const Nesting nesting(*this);
  CallArguments result;
  expect_op("(");
  for (bool first = true; !at_op(")"); first = false) {
    if (!first) {
      expect_op(",");
      if (at_op(")")) break;
    }
    call_argument(result);
  }
  take();
  return result;
}

void ExpressionParser::call_argument(CallArguments& result) {
  const bool is_keyword = at(Token::Kind::name) && ahead().kind == Token::Kind::op && ahead().text == "=";
  const int line = current().line;
  bool in_order = !result.more_keywords;
  if (skip_op("*")) {
    in_order &= !result.more_positional;
    result.more_positional = expression();
  } else if (skip_op("**")) {
    result.more_keywords = expression();
  } else if (is_keyword) {
    std::string key = take().text;
    take();
    result.keywords.emplace_back(std::move(key), expression());
  } else {
    in_order &= !result.more_positional && result.keywords.empty();
    result.positional.push_back(expression());
  }
  if (!in_order) complain("arguments of a call are out of order", line);
}

std::string ExpressionParser::dotted_name() {
  std::string name = expect(Token::Kind::name, "a name").text;
  while (skip_op(".")) name += "." + expect(Token::Kind::name, "a name").text;
  return name;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr left, bool first_without_pipe) {
  while (first_without_pipe || at_op("|")) {
    if (!first_without_pipe) take();
    first_without_pipe = false;
    Expression result = node(Kind::filter, current().line, std::move(left));
    result.text = dotted_name();
    if (at_op("(")) result.arguments = call_arguments();
    left = finish(std::move(result));
  }
  return left;
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr left) {
  while (true) {
    if (at_op("|")) {
      left = filters(std::move(left));
    } else if (at_word("is")) {
      left = test(std::move(left));
    } else if (at_op("(")) {
      left = postfix(std::move(left));
    } else {
      return left;
    }
  }
}

ExpressionPtr ExpressionParser::test(ExpressionPtr left) {
  const int line = take().line;
  const bool negated = skip_word("not");
  Expression result = node(Kind::test, line, std::move(left));
  result.text = dotted_name();
  const bool starts_value =
      at(Token::Kind::name) || at(Token::Kind::string) || at(Token::Kind::number) || at_op("[") || at_op("{");
  if (at_op("(")) {
    result.arguments = call_arguments();
  } else if (starts_value && !at_any({"else", "or", "and"})) {
    if (at_word("is")) complain("tests cannot be chained with 'is'");
    result.arguments.positional.push_back(postfix(primary()));
  }
  ExpressionPtr tested = finish(std::move(result));
  return negated ? finish(node(Kind::logical_not, line, std::move(tested))) : std::move(tested);
}

}  // namespace visq::jinja

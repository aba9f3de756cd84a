// Internal to the chat template: tokens → tree.
#pragma once
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "visq/inputs/template_ast.h"
#include "visq/inputs/template_lexer.h"

namespace visq::jinja {

/// @throws Error naming `origin` and the line: malformed, an unknown tag, nested deeper than kMaxDepth
Block parse_template(std::string_view source, const std::string& origin);

/// Internal to the parser: the token at hand, and expressions.
class ExpressionParser {
 public:
  ExpressionParser(std::vector<Token> tokens, const std::string& origin)
      : tokens_(std::move(tokens)), origin_(origin) {}

 protected:
  using Kind = Expression::Kind;
  /// Ends of a tuple without brackets, beside the end of the tag.
  using Words = std::initializer_list<std::string_view>;

  const Token& current() const { return tokens_[position_]; }
  const Token& ahead() const { return tokens_[std::min(position_ + 1, tokens_.size() - 1)]; }
  const Token& take() {
    const Token& token = tokens_[position_];
    if (position_ + 1 < tokens_.size()) ++position_;
    return token;
  }
  bool at(Token::Kind kind) const { return current().kind == kind; }
  bool at_op(std::string_view op) const { return at(Token::Kind::op) && current().text == op; }
  bool at_word(std::string_view word) const { return at(Token::Kind::name) && current().text == word; }
  bool at_any(Words words) const;
  bool skip_op(std::string_view op);
  bool skip_word(std::string_view word);
  void expect_op(std::string_view op);
  void expect_word(std::string_view word);
  const Token& expect(Token::Kind kind, std::string_view what);
  [[noreturn]] void complain(const std::string& message, int line = 0) const;
  [[noreturn]] void complain_unexpected() const;

  ExpressionPtr expression(bool with_condition = true);
  /// One expression, or several with commas between them.
  ExpressionPtr tuple(bool with_condition = true, Words ends = {}, bool in_parentheses = false);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr);
  /// `| name | name(…)` after an expression, or after nothing.
  ExpressionPtr filters(ExpressionPtr, bool first_without_pipe = false);
  /// @throws Error when the tree under the node becomes too high
  ExpressionPtr finish(Expression) const;

  /// Counts how deep the parser's functions call each other.
  class Nesting {
   public:
    explicit Nesting(ExpressionParser& parser) : parser_(parser) {
      if (++parser.nesting_ > kMaxNesting) parser.complain("the template nests too deep");
    }
    ~Nesting() { --parser_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    static constexpr int kMaxNesting = 200;
    ExpressionParser& parser_;
  };

  /// Which special names the macro that is being parsed reads.
  struct SpecialNames {
    bool varargs = false, kwargs = false, caller = false;
  };
  SpecialNames special_;

 private:
  ExpressionPtr condition();
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr compare();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters = true);
  ExpressionPtr filters_and_tests(ExpressionPtr);
  ExpressionPtr test(ExpressionPtr);
  ExpressionPtr subscript(ExpressionPtr);
  ExpressionPtr constant(Value, int line) const;
  ExpressionPtr name();
  ExpressionPtr string();
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr parenthesized();
  std::string dotted_name();
  CallArguments call_arguments();
  void call_argument(CallArguments&);
  bool is_tuple_end(Words ends) const;

  std::vector<Token> tokens_;
  const std::string& origin_;
  size_t position_ = 0;
  int nesting_ = 0;
};

}  // namespace visq::jinja

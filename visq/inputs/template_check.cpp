#include "visq/core/error.h"
#include "visq/inputs/template_parser.h"
#include "visq/inputs/template_runtime.h"

namespace visq::jinja {
namespace {

/// Looks for filters and tests that do not exist. As in Jinja they are refused at once, except where a
/// condition may keep them from being reached.
class NameCheck {
 public:
  explicit NameCheck(const std::string& origin) : origin_(origin) {}

  void check(const Block& block, bool is_conditional) const {
    for (const Statement& statement : block) check(statement, is_conditional);
  }

 private:
  void check(const Statement& statement, bool is_conditional) const {
    using Kind = Statement::Kind;
    const bool is_if = statement.kind == Kind::conditional;
    const bool filters_body = statement.kind == Kind::assign_block || statement.kind == Kind::filter_block;
    for (size_t i = 0; i < statement.expressions.size(); ++i) {
      const bool is_filter_of_items = statement.kind == Kind::loop && i == 1;
      check(statement.expressions[i], is_if || (is_conditional && !filters_body && !is_filter_of_items));
    }
    for (const Block& body : statement.bodies) check(body, is_if);
    if (!statement.macro) return;
    for (const ExpressionPtr& value : statement.macro->defaults) check(value, false);
    check(statement.macro->body, false);
  }

  void check(const ExpressionPtr& expression, bool is_conditional) const {
    using Kind = Expression::Kind;
    if (!expression) return;
    const bool known = expression->kind == Kind::filter
                           ? is_filter(expression->text)
                           : expression->kind != Kind::test || is_test(expression->text);
    if (!known && !is_conditional)
      fail("{}:{}: {} '{}' is not supported", origin_, expression->line,
           expression->kind == Kind::filter ? "filter" : "test", expression->text);
    const bool inner = is_conditional || expression->kind == Kind::condition;
    for (const ExpressionPtr& operand : expression->operands) check(operand, inner);
    for (const ExpressionPtr& argument : expression->arguments.positional) check(argument, inner);
    for (const auto& [name, argument] : expression->arguments.keywords) check(argument, inner);
    check(expression->arguments.more_positional, inner);
    check(expression->arguments.more_keywords, inner);
  }

  const std::string& origin_;
};

}  // namespace

void check_names(const Block& block, const std::string& origin) { NameCheck(origin).check(block, false); }

}  // namespace visq::jinja

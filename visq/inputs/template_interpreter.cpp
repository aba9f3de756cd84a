#include "visq/inputs/template_interpreter.h"

#include <algorithm>

#include "visq/inputs/template_loop.h"
#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_scope.h"

namespace visq::jinja {
namespace {

using Statements = Statement::Kind;
using Expressions = Expression::Kind;
using ScopePtr = std::shared_ptr<Scope>;

class Interpreter {
 public:
  explicit Interpreter(Runtime& runtime) : runtime_(runtime) {}

  std::string run(const Block& block, const ScopePtr& globals) {
    TextBuilder out(runtime_);
    const ScopeGuard scope(globals);
    execute(block, *scope, out);
    return out.take();
  }

 private:
  enum class Flow { next, break_loop, continue_loop };

  // --- statements ---

  Flow execute(const Block& block, const ScopePtr& scope, TextBuilder& out) {
    const Nesting nesting(*this);
    for (const Statement& statement : block) {
      runtime_.spend();
      runtime_.line = statement.line;
      const Flow flow = execute(statement, scope, out);
      if (flow != Flow::next) return flow;
    }
    return Flow::next;
  }

  Flow execute(const Statement& statement, const ScopePtr& scope, TextBuilder& out) {
    switch (statement.kind) {
      case Statements::text:
        out.add(statement.text);
        break;
      case Statements::print:
        for (const auto& each : statement.expressions) out.add(to_text(runtime_, evaluate(*each, scope)));
        break;
      case Statements::conditional:
        return conditional(statement, scope, out);
      case Statements::loop:
        run_loop(statement, evaluate(*statement.expressions[0], scope), scope, out, 0);
        break;
      case Statements::assign:
        assign(statement.targets[0], evaluate(*statement.expressions[0], scope), scope);
        break;
      case Statements::assign_block:
        assign(statement.targets[0], filtered_body(statement, scope), scope);
        break;
      case Statements::filter_block:
        out.add(to_text(runtime_, filtered_body(statement, scope)));
        break;
      case Statements::with:
        with(statement, scope, out);
        break;
      case Statements::macro:
        scope->set(statement.macro->name, macro_object(statement.macro, scope));
        break;
      case Statements::call_block:
        out.add(to_text(runtime_, call_with_caller(statement, scope)));
        break;
      case Statements::scope:
        execute(statement.bodies[0], *ScopeGuard(scope), out);
        break;
      case Statements::break_loop:
        return Flow::break_loop;
      case Statements::continue_loop:
        return Flow::continue_loop;
    }
    return Flow::next;
  }

  Flow conditional(const Statement& statement, const ScopePtr& scope, TextBuilder& out) {
    for (size_t i = 0; i < statement.bodies.size(); ++i)
      if (i == statement.expressions.size() || is_true(evaluate(*statement.expressions[i], scope)))
        return execute(statement.bodies[i], scope, out);
    return Flow::next;
  }

  void run_loop(const Statement& statement, const Value& iterable, const ScopePtr& scope, TextBuilder& out,
                int64_t depth) {
    const auto loop = std::make_shared<Loop>(runtime_, iterable);
    if (const auto& condition = statement.expressions[1])
      loop->set_filter([&](const Value& item) {
        const ScopeGuard inner(scope);
        assign(statement.targets[0], item, *inner);
        return is_true(evaluate(*condition, *inner));
      });
    if (statement.is_recursive)
      loop->set_recursion([this, &statement, scope, depth](const Value& inner) {
        TextBuilder text(runtime_);
        run_loop(statement, inner, scope, text, depth + 1);
        return runtime_.text(text.take());
      });
    loop->set_depth(depth);
    const Loop::Guard guard(*loop);
    const Value object = Loop::object(runtime_, loop);
    bool completed = false;  // as in Jinja, `else` runs unless some round reaches its end
    while (const auto item = loop->next()) {
      runtime_.spend();
      const ScopeGuard inner(scope);
      inner->set("loop", object);
      assign(statement.targets[0], *item, *inner);
      const Flow flow = execute(statement.bodies[0], *inner, out);
      if (flow == Flow::break_loop) break;
      completed |= flow == Flow::next;
    }
    if (!completed) execute(statement.bodies[1], *ScopeGuard(scope), out);
  }

  Value filtered_body(const Statement& statement, const ScopePtr& scope) {
    TextBuilder text(runtime_);
    const ScopeGuard inner(scope);
    execute(statement.bodies[0], *inner, text);
    Value value = runtime_.text(text.take());
    const auto& filter = statement.expressions[0];
    return filter ? filter_chain(*filter, value, scope) : value;
  }

  /// The filters of {% filter a|b %}, whose innermost has no operand.
  Value filter_chain(const Expression& filter, const Value& value, const ScopePtr& scope) {
    const auto& operand = filter.operands[0];
    const Value input = operand ? filter_chain(*operand, value, scope) : value;
    Arguments arguments = evaluate(filter.arguments, scope);
    runtime_.line = filter.line;
    return apply_filter(runtime_, filter.text, input, arguments);
  }

  void with(const Statement& statement, const ScopePtr& scope, TextBuilder& out) {
    const ScopeGuard inner(scope);
    for (size_t i = 0; i < statement.targets.size(); ++i)
      assign(statement.targets[i], evaluate(*statement.expressions[i], scope), *inner);
    execute(statement.bodies[0], *inner, out);
  }

  void assign(const Target& target, const Value& value, const ScopePtr& scope) {
    if (target.kind == Target::Kind::name) return scope->set(target.name, value);
    if (target.kind == Target::Kind::attribute) return assign_attribute(target, value, scope);
    const std::vector<Value> parts = iterate(runtime_, value);
    if (parts.size() != target.targets.size())
      fail("{} values cannot be assigned to {} names", parts.size(), target.targets.size());
    for (size_t i = 0; i < parts.size(); ++i) assign(target.targets[i], parts[i], scope);
  }

  void assign_attribute(const Target& target, const Value& value, const ScopePtr& scope) {
    Namespace* names = lookup(target.name, scope).names();
    if (!names) fail("'{}' is no namespace: its attribute '{}' cannot be set", target.name, target.attribute);
    set_attribute(*names, target.attribute, value);
  }

  // --- macros ---

  Value macro_object(const std::shared_ptr<const Macro>& macro, const ScopePtr& scope) {
    Object object{.name = macro->name, .is_macro = true};
    object.call = [this, macro, scope](Runtime&, Arguments& arguments) {
      const int line = runtime_.line;
      Value text = run_macro(*macro, scope, arguments);
      runtime_.line = line;
      return text;
    };
    object.attribute = [macro](Runtime& runtime, std::string_view name) -> std::optional<Value> {
      if (name == "name") return runtime.text(macro->name);
      return {};
    };
    return runtime_.object(std::move(object));
  }

  Value run_macro(const Macro& macro, const ScopePtr& outer, Arguments& arguments) {
    const ScopeGuard scope(outer);
    bind(macro, arguments, *scope);
    TextBuilder text(runtime_);
    execute(macro.body, *scope, text);
    return runtime_.text(text.take());
  }

  static std::optional<Value> take_keyword(Arguments& arguments, std::string_view name) {
    const auto it =
        std::ranges::find(arguments.keywords, name, [](const auto& entry) { return entry.first; });
    if (it == arguments.keywords.end()) return {};
    Value value = std::move(it->second);
    arguments.keywords.erase(it);
    return value;
  }

  void bind(const Macro& macro, Arguments& arguments, const ScopePtr& scope) {
    const size_t count = macro.parameters.size(), first_default = count - macro.defaults.size();
    const size_t given = std::min(count, arguments.positional.size());
    for (size_t i = 0; i < given; ++i) scope->set(macro.parameters[i], arguments.positional[i]);
    std::vector<size_t> absent;
    for (size_t i = given; i < count; ++i) {
      if (auto value = take_keyword(arguments, macro.parameters[i])) {
        scope->set(macro.parameters[i], *std::move(value));
      } else {
        absent.push_back(i);
        scope->set(macro.parameters[i],
                   Value::undefined(visq::format("parameter '{}' was not provided", macro.parameters[i])));
      }
    }
    for (const size_t i : absent)
      if (i >= first_default)
        scope->set(macro.parameters[i], evaluate(*macro.defaults[i - first_default], scope));
    bind_special(macro, arguments, scope);
  }

  void bind_special(const Macro& macro, Arguments& arguments, const ScopePtr& scope) {
    if (macro.uses_caller) {
      auto caller = take_keyword(arguments, "caller");
      scope->set("caller", caller && !caller->is_none() ? *caller : Value::undefined("no caller is defined"));
    }
    if (macro.uses_kwargs) {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [name, value] : arguments.keywords) entries.emplace_back(runtime_.text(name), value);
      scope->set("kwargs", runtime_.dict(std::move(entries)));
    } else if (!arguments.keywords.empty()) {
      fail("macro '{}' has no parameter '{}'", macro.name, arguments.keywords[0].first);
    }
    const size_t taken = std::min(macro.parameters.size(), arguments.positional.size());
    const auto rest = arguments.positional.begin() + static_cast<ptrdiff_t>(taken);
    if (macro.uses_varargs) {
      scope->set("varargs", runtime_.tuple({rest, arguments.positional.end()}));
    } else if (rest != arguments.positional.end()) {
      fail("macro '{}' takes at most {} arguments", macro.name, macro.parameters.size());
    }
  }

  Value call_with_caller(const Statement& statement, const ScopePtr& scope) {
    const Expression& expression = *statement.expressions[0];
    const Value function = evaluate(*expression.operands[0], scope);
    Arguments arguments = evaluate(expression.arguments, scope);
    arguments.keywords.emplace_back("caller", macro_object(statement.macro, scope));
    runtime_.line = expression.line;
    return call(runtime_, function, arguments);
  }

  // --- expressions ---

  Value evaluate(const Expression& expression, const ScopePtr& scope) {
    const Nesting nesting(*this);
    runtime_.spend();
    switch (expression.kind) {
      case Expressions::constant:
        return expression.constant;
      case Expressions::name:
        return lookup(expression.text, scope);
      case Expressions::list:
        return runtime_.list(evaluate(expression.operands, scope));
      case Expressions::tuple:
        return runtime_.tuple(evaluate(expression.operands, scope));
      case Expressions::dict:
        return dict(expression, scope);
      case Expressions::logical_not:
        return Value(!is_true(evaluate(*expression.operands[0], scope)));
      case Expressions::logical_and:
      case Expressions::logical_or:
        return logical(expression, scope);
      case Expressions::condition:
        return condition(expression, scope);
      case Expressions::negate:
        return negative(runtime_, evaluate(*expression.operands[0], scope));
      case Expressions::plus:
        return negative(runtime_, negative(runtime_, evaluate(*expression.operands[0], scope)));
      case Expressions::arithmetic:
        return arithmetic(expression, scope);
      case Expressions::concat:
        return concat(expression, scope);
      case Expressions::compare:
        return comparison(expression, scope);
      case Expressions::attribute:
      case Expressions::item:
      case Expressions::slice:
        return part(expression, scope);
      case Expressions::call:
      case Expressions::filter:
      case Expressions::test:
        return applied(expression, scope);
    }
    return Value();
  }

  std::vector<Value> evaluate(const std::vector<ExpressionPtr>& expressions, const ScopePtr& scope) {
    std::vector<Value> values;
    values.reserve(expressions.size());
    for (const auto& expression : expressions) values.push_back(evaluate(*expression, scope));
    return values;
  }

  Arguments evaluate(const CallArguments& call_arguments, const ScopePtr& scope) {
    Arguments arguments{.positional = evaluate(call_arguments.positional, scope)};
    for (const auto& [name, value] : call_arguments.keywords)
      arguments.keywords.emplace_back(name, evaluate(*value, scope));
    if (call_arguments.more_positional)
      for (Value& value : iterate(runtime_, evaluate(*call_arguments.more_positional, scope)))
        arguments.positional.push_back(std::move(value));
    if (call_arguments.more_keywords) add_keywords(arguments, evaluate(*call_arguments.more_keywords, scope));
    return arguments;
  }

  static void add_keywords(Arguments& arguments, const Value& value) {
    const Dict* dict = value.dict();
    if (!dict) fail("'**' needs a dictionary, not '{}'", type_name(value));
    for (const auto& [key, each] : dict->entries) {
      if (!key.text()) fail("the name of an argument is a text, not '{}'", type_name(key));
      arguments.keywords.emplace_back(*key.text(), each);
    }
  }

  Value lookup(const std::string& name, const ScopePtr& scope) {
    if (const Value* value = scope->find(name)) return *value;
    if (const Value* value = find_global(name)) return *value;
    return Value::undefined(visq::format("'{}' is undefined", name));
  }

  Value dict(const Expression& expression, const ScopePtr& scope) {
    std::vector<std::pair<Value, Value>> entries;
    for (size_t i = 0; i < expression.operands.size(); i += 2) {
      Value key = evaluate(*expression.operands[i], scope);
      entries.emplace_back(std::move(key), evaluate(*expression.operands[i + 1], scope));
    }
    return runtime_.dict(std::move(entries));
  }

  Value logical(const Expression& expression, const ScopePtr& scope) {
    Value left = evaluate(*expression.operands[0], scope);
    const bool decided = is_true(left) == (expression.kind == Expressions::logical_or);
    return decided ? left : evaluate(*expression.operands[1], scope);
  }

  Value condition(const Expression& expression, const ScopePtr& scope) {
    if (is_true(evaluate(*expression.operands[1], scope))) return evaluate(*expression.operands[0], scope);
    if (expression.operands.size() > 2) return evaluate(*expression.operands[2], scope);
    return Value::undefined("an inline if without else was false");
  }

  Value arithmetic(const Expression& expression, const ScopePtr& scope) {
    const Value left = evaluate(*expression.operands[0], scope);
    const Value right = evaluate(*expression.operands[1], scope);
    runtime_.line = expression.line;
    return binary(runtime_, expression.text, left, right);
  }

  Value concat(const Expression& expression, const ScopePtr& scope) {
    TextBuilder out(runtime_);
    for (const auto& operand : expression.operands) out.add(to_text(runtime_, evaluate(*operand, scope)));
    return runtime_.text(out.take());
  }

  bool holds(std::string_view op, const Value& left, const Value& right) {
    if (op == "in") return contains(runtime_, right, left);
    if (op == "not in") return !contains(runtime_, right, left);
    if (op == "==") return equals(left, right);
    if (op == "!=") return !equals(left, right);
    const int order = compare(left, right);
    if (op == "<") return order == -1;
    if (op == "<=") return order == -1 || order == 0;
    if (op == ">") return order == 1;
    return order == 1 || order == 0;
  }

  /// a < b < c: each operand once, up to the first comparison that does not hold.
  Value comparison(const Expression& expression, const ScopePtr& scope) {
    Value left = evaluate(*expression.operands[0], scope);
    for (size_t i = 0; i < expression.operators.size(); ++i) {
      Value right = evaluate(*expression.operands[i + 1], scope);
      runtime_.line = expression.line;
      if (!holds(expression.operators[i], left, right)) return Value(false);
      left = std::move(right);
    }
    return Value(true);
  }

  Value part(const Expression& expression, const ScopePtr& scope) {
    const Value object = evaluate(*expression.operands[0], scope);
    std::vector<Value> keys;
    for (size_t i = 1; i < expression.operands.size(); ++i)
      keys.push_back(expression.operands[i] ? evaluate(*expression.operands[i], scope) : Value());
    runtime_.line = expression.line;
    if (expression.kind == Expressions::attribute) return get_attribute(runtime_, object, expression.text);
    if (expression.kind == Expressions::item) return get_item(runtime_, object, keys[0]);
    return get_slice(runtime_, object, keys[0], keys[1], keys[2]);
  }

  Value applied(const Expression& expression, const ScopePtr& scope) {
    const Value operand = evaluate(*expression.operands[0], scope);
    Arguments arguments = evaluate(expression.arguments, scope);
    runtime_.line = expression.line;
    if (expression.kind == Expressions::call) return call(runtime_, operand, arguments);
    if (expression.kind == Expressions::filter)
      return apply_filter(runtime_, expression.text, operand, arguments);
    return Value(apply_test(runtime_, expression.text, operand, arguments));
  }

  /// Calls of macros multiply what the template itself nests: the sum is what the stack must hold.
  class Nesting {
   public:
    explicit Nesting(Interpreter& interpreter) : interpreter_(interpreter) {
      if (interpreter.nesting_ == kMaxNesting) fail("rendering nests too deep");
      ++interpreter.nesting_;
    }
    ~Nesting() { --interpreter_.nesting_; }
    Nesting(const Nesting&) = delete;
    Nesting& operator=(const Nesting&) = delete;

   private:
    static constexpr int kMaxNesting = 2000;
    Interpreter& interpreter_;
  };

  Runtime& runtime_;
  int nesting_ = 0;
};

}  // namespace

std::string interpret(const Block& block, const std::string& origin, const Json& variables) {
  Runtime runtime;
  try {
    const auto globals = std::make_shared<Scope>();
    for (const auto& [name, value] : variables.items()) globals->set(name, from_json(runtime, value));
    return Interpreter(runtime).run(block, globals);
  } catch (const Error& e) {
    fail("{}:{}: {}", origin, runtime.line, e.what());
  }
}

}  // namespace visq::jinja

#include <map>

#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"

namespace visq::jinja {
namespace {

/// `value is name(arguments)`; `other` is the first argument.
using Test = bool (*)(Runtime&, const Value& value, const Value& other);

struct Entry {
  size_t arguments;
  Test test;
};

bool divides(Runtime& runtime, const Value& value, const Value& divisor, int64_t rest) {
  return equals(binary(runtime, "%", value, divisor), Value(rest));
}

bool is_sequence(const Value& value) {
  using Flavor = Sequence::Flavor;
  if (const auto* sequence = value.sequence())
    return sequence->flavor != Flavor::keys && sequence->flavor != Flavor::values &&
           sequence->flavor != Flavor::items;
  return value.text() || value.dict() || value.is_undefined();
}

template <bool less, bool equal>
bool ordered(Runtime&, const Value& a, const Value& b) {
  const int order = compare(a, b);
  return order == (less ? -1 : 1) || (equal && order == 0);
}

bool equal(Runtime&, const Value& a, const Value& b) { return equals(a, b); }
bool unequal(Runtime&, const Value& a, const Value& b) { return !equals(a, b); }

const std::map<std::string_view, Entry>& tests() {
  using V = const Value&;
  static const std::map<std::string_view, Entry> table{
      {"odd", {0, [](Runtime& r, V a, V) { return divides(r, a, Value(int64_t{2}), 1); }}},
      {"even", {0, [](Runtime& r, V a, V) { return divides(r, a, Value(int64_t{2}), 0); }}},
      {"divisibleby", {1, [](Runtime& r, V a, V b) { return divides(r, a, b, 0); }}},
      {"defined", {0, [](Runtime&, V a, V) { return !a.is_undefined(); }}},
      {"undefined", {0, [](Runtime&, V a, V) { return a.is_undefined(); }}},
      {"none", {0, [](Runtime&, V a, V) { return a.is_none(); }}},
      {"boolean", {0, [](Runtime&, V a, V) { return a.as<bool>() != nullptr; }}},
      {"true", {0, [](Runtime&, V a, V) { return a.as<bool>() && *a.as<bool>(); }}},
      {"false", {0, [](Runtime&, V a, V) { return a.as<bool>() && !*a.as<bool>(); }}},
      {"integer", {0, [](Runtime&, V a, V) { return a.as<int64_t>() != nullptr; }}},
      {"float", {0, [](Runtime&, V a, V) { return is_float(a); }}},
      {"number", {0, [](Runtime&, V a, V) { return number_of(a).has_value(); }}},
      {"string", {0, [](Runtime&, V a, V) { return a.text() != nullptr; }}},
      {"mapping", {0, [](Runtime&, V a, V) { return a.dict() != nullptr; }}},
      {"sequence", {0, [](Runtime&, V a, V) { return is_sequence(a); }}},
      {"iterable", {0, [](Runtime&, V a, V) { return is_iterable(a); }}},
      {"callable",
       {0, [](Runtime&, V a, V) { return a.is_undefined() || (a.object() && a.object()->call); }}},
      {"lower", {0, [](Runtime& r, V a, V) { return is_lower(to_text(r, a)); }}},
      {"upper", {0, [](Runtime& r, V a, V) { return is_upper(to_text(r, a)); }}},
      {"sameas", {1, [](Runtime&, V a, V b) { return is_same(a, b); }}},
      {"escaped", {0, [](Runtime&, V, V) { return false; }}},
      {"in", {1, [](Runtime& r, V a, V b) { return contains(r, b, a); }}},
      {"filter", {0, [](Runtime&, V a, V) { return a.text() && is_filter(*a.text()); }}},
      {"test", {0, [](Runtime&, V a, V) { return a.text() && is_test(*a.text()); }}},
      {"==", {1, equal}},
      {"eq", {1, equal}},
      {"equalto", {1, equal}},
      {"!=", {1, unequal}},
      {"ne", {1, unequal}},
      {"<", {1, ordered<true, false>}},
      {"lt", {1, ordered<true, false>}},
      {"lessthan", {1, ordered<true, false>}},
      {"<=", {1, ordered<true, true>}},
      {"le", {1, ordered<true, true>}},
      {">", {1, ordered<false, false>}},
      {"gt", {1, ordered<false, false>}},
      {"greaterthan", {1, ordered<false, false>}},
      {">=", {1, ordered<false, true>}},
      {"ge", {1, ordered<false, true>}},
  };
  return table;
}

}  // namespace

bool is_test(std::string_view name) { return tests().contains(name); }

bool apply_test(Runtime& runtime, const std::string& name, const Value& value, Arguments& arguments) {
  const auto it = tests().find(name);
  if (it == tests().end()) fail("test '{}' is not supported", name);
  if (arguments.positional.size() + arguments.keywords.size() != it->second.arguments)
    fail("test '{}' takes {} arguments", name, it->second.arguments);
  if (!arguments.keywords.empty()) return it->second.test(runtime, value, arguments.keywords[0].second);
  return it->second.test(runtime, value, it->second.arguments > 0 ? arguments.positional[0] : Value());
}

}  // namespace visq::jinja

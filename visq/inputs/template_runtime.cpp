#include "visq/inputs/template_runtime.h"

#include <algorithm>

namespace visq::jinja {

int Runtime::nested(const std::vector<Value>& items) const {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, depth_of(item));
  if (depth >= kMaxDepth) fail("a value nests deeper than {}", kMaxDepth);
  return depth + 1;
}

Value Runtime::text(std::string text) {
  require_size(text.size());
  return Value(std::make_shared<const std::string>(std::move(text)));
}

Value Runtime::sequence(Sequence sequence) {
  spend(sequence.items.size());
  sequence.depth = nested(sequence.items);
  return Value(std::make_shared<const Sequence>(std::move(sequence)));
}

Value Runtime::list(std::vector<Value> items) {
  return sequence({.flavor = Sequence::Flavor::list, .items = std::move(items)});
}

Value Runtime::tuple(std::vector<Value> items) {
  return sequence({.flavor = Sequence::Flavor::tuple, .items = std::move(items)});
}

Value Runtime::iterator(std::vector<Value> items) {
  spend(items.size());
  const int depth = nested(items);
  return Value(std::make_shared<Iterator>(Iterator{.items = std::move(items), .depth = depth}));
}

Value Runtime::dict(std::vector<std::pair<Value, Value>> entries) {
  Dict dict;
  spend(entries.size());
  for (auto& [key, value] : entries) {
    dict.depth = std::max(dict.depth, nested({key, value}));
    if (const Value* known = find(*this, dict, key)) {
      *const_cast<Value*>(known) = std::move(value);
    } else {
      dict.entries.emplace_back(std::move(key), std::move(value));
    }
  }
  return Value(std::make_shared<const Dict>(std::move(dict)));
}

Value Runtime::object(Object object) {
  spend();
  if (object.depth > kMaxDepth) fail("a value nests deeper than {}", kMaxDepth);
  return Value(std::make_shared<const Object>(std::move(object)));
}

Parameters::Parameters(std::string_view function, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, size_t required)
    : function_(function), values_(names.size()) {
  if (arguments.positional.size() > names.size())
    fail("{}() takes at most {} arguments, not {}", function, names.size(), arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.keywords) {
    const auto it = std::ranges::find(names, name);
    if (it == names.end()) fail("{}() has no argument '{}'", function, name);
    const Value*& slot = values_[static_cast<size_t>(it - names.begin())];
    if (slot) fail("{}() got the argument '{}' twice", function, name);
    slot = &value;
  }
  for (size_t i = 0; i < required; ++i)
    if (!values_[i]) fail("{}() lacks the argument '{}'", function, *(names.begin() + i));
}

int64_t Parameters::integer(size_t i, int64_t fallback) const {
  if (!values_[i]) return fallback;
  const auto value = integer_of(*values_[i]);
  if (!value) fail("{}() needs an integer, not '{}'", function_, type_name(*values_[i]));
  return *value;
}

std::string Parameters::text(size_t i, std::string_view fallback) const {
  if (!values_[i]) return std::string(fallback);
  const std::string* value = values_[i]->text();
  if (!value) fail("{}() needs a text, not '{}'", function_, type_name(*values_[i]));
  return *value;
}

}  // namespace visq::jinja

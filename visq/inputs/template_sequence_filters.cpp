#include <algorithm>

#include "visq/inputs/template_filters.h"
#include "visq/inputs/template_text.h"

namespace visq::jinja {
namespace {

using Flavor = Sequence::Flavor;
using Key = std::function<Value(const Value&)>;

Value without_case(Runtime& runtime, const Value& value) {
  return value.text() ? runtime.text(lower(*value.text())) : value;
}

/// "3" and "-" as steps of an attribute: Python's str.isdigit() decides which is an index.
Value step_of(const std::string& text) {
  const bool is_number = consists_of(text, Has::digits);
  const auto index = is_number ? parse_integer(text, 10) : std::nullopt;
  return index ? Value(*index) : Value(std::make_shared<const std::string>(text));
}

Value count(Runtime&, const Value& value, Arguments& arguments) {
  Parameters("length", arguments, {});
  return Value(length(value));
}

Value list(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("list", arguments, {});
  return runtime.list(iterate(runtime, value));
}

Value first(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("first", arguments, {});
  if (auto* iterator = value.iterator(); iterator && iterator->position < iterator->items.size())
    return iterator->items[iterator->position++];
  const std::vector<Value> items = iterate(runtime, value);
  return items.empty() ? Value::undefined("the sequence has no first item") : items.front();
}

Value last(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("last", arguments, {});
  if (value.iterator()) fail("a generator has no last item: make it a list first");
  const std::vector<Value> items = iterate(runtime, value);
  return items.empty() ? Value::undefined("the sequence has no last item") : items.back();
}

Value reverse(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("reverse", arguments, {});
  if (value.text()) return get_slice(runtime, value, Value(), Value(), Value(int64_t{-1}));
  std::vector<Value> items = iterate(runtime, value);
  std::ranges::reverse(items);
  // Python reverses a generator by making it a list; anything else stays lazy.
  return value.iterator() ? runtime.list(std::move(items)) : runtime.iterator(std::move(items));
}

Value items(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("items", arguments, {});
  std::vector<Value> pairs;
  if (value.is_undefined()) return runtime.iterator({});
  if (!value.dict()) fail("items needs a dictionary, not '{}'", type_name(value));
  for (const auto& [key, each] : value.dict()->entries) pairs.push_back(runtime.tuple({key, each}));
  return runtime.iterator(std::move(pairs));
}

/// Stable, also when reversed: as Python's sorted().
std::vector<Value> sorted(Runtime& runtime, std::vector<Value> values, const Key& key_of, bool reverse) {
  std::vector<std::pair<Value, Value>> keyed;
  runtime.spend(values.size() * 20);
  for (Value& value : values) {
    Value key = key_of(value);
    keyed.emplace_back(std::move(key), std::move(value));
  }
  std::ranges::stable_sort(keyed, [&](const auto& a, const auto& b) {
    return reverse ? compare(b.first, a.first) == -1 : compare(a.first, b.first) == -1;
  });
  std::vector<Value> result;
  for (auto& [key, value] : keyed) result.push_back(std::move(value));
  return result;
}

/// Sorting by several attributes compares lists of them.
Key sort_key(Runtime& runtime, const Value* attribute, bool ignore_case) {
  std::vector<AttributeGetter> getters;
  if (attribute && attribute->text()) {
    for (const std::string& part : split(*attribute->text(), ",", -1)) {
      const Value name = runtime.text(part);
      getters.emplace_back(&name, ignore_case);
    }
  } else {
    getters.emplace_back(attribute, ignore_case);
  }
  return [&runtime, getters](const Value& item) {
    std::vector<Value> keys;
    for (const auto& getter : getters) keys.push_back(getter(runtime, item));
    return runtime.list(std::move(keys));
  };
}

const Value* given(const Parameters& parameters, size_t i) {
  return parameters.is_given(i) ? parameters[i] : nullptr;
}

Value sort(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const Key key = sort_key(runtime, given(parameters, 2), !parameters.flag(1));
  return runtime.list(sorted(runtime, iterate(runtime, value), key, parameters.flag(0)));
}

Value dict_sort(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = parameters.text(1, "key");
  if (by != "key" && by != "value") fail("dictsort goes by 'key' or 'value', not '{}'", by);
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
  if (!value.dict()) fail("dictsort needs a dictionary, not '{}'", type_name(value));
  std::vector<Value> pairs;
  for (const auto& [key, each] : value.dict()->entries) pairs.push_back(runtime.tuple({key, each}));
  const Key key = [&](const Value& pair) {
    const Value& part = pair.sequence()->items[by == "key" ? 0 : 1];
    return parameters.flag(0) ? part : without_case(runtime, part);
  };
  return runtime.list(sorted(runtime, std::move(pairs), key, parameters.flag(2)));
}

Value unique(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("unique", arguments, {"case_sensitive", "attribute"});
  const AttributeGetter key(given(parameters, 1), !parameters.flag(0));
  Dict seen;
  std::vector<Value> result;
  for (const Value& item : iterate(runtime, value)) {
    Value each = key(runtime, item);
    if (find(runtime, seen, each)) continue;
    seen.entries.emplace_back(std::move(each), Value());
    result.push_back(item);
  }
  return runtime.iterator(std::move(result));
}

template <int wanted>
Value extreme(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters(wanted < 0 ? "min" : "max", arguments, {"case_sensitive", "attribute"});
  const AttributeGetter key(given(parameters, 1), !parameters.flag(0));
  std::optional<Value> best, best_key;
  for (const Value& item : iterate(runtime, value)) {
    Value each = key(runtime, item);
    if (best && compare(each, *best_key) != wanted) continue;
    best = item;
    best_key = std::move(each);
  }
  return best ? *best : Value::undefined("the sequence is empty");
}

Value sum(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("sum", arguments, {"attribute", "start"});
  const AttributeGetter attribute(given(parameters, 0));
  Value total = parameters[1] ? *parameters[1] : Value(int64_t{0});
  if (total.text()) fail("sum cannot add texts: use join");
  for (const Value& item : iterate(runtime, value))
    total = binary(runtime, "+", total, attribute(runtime, item));
  return total;
}

Value batch(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = parameters.integer(0, 1);
  std::vector<Value> rows, row;
  for (const Value& item : iterate(runtime, value)) {
    if (static_cast<int64_t>(row.size()) == size) rows.push_back(runtime.list(std::exchange(row, {})));
    row.push_back(item);
  }
  while (!row.empty() && parameters.is_given(1) && static_cast<int64_t>(row.size()) < size) {
    runtime.spend();
    row.push_back(*parameters[1]);
  }
  if (!row.empty()) rows.push_back(runtime.list(std::move(row)));
  return runtime.iterator(std::move(rows));
}

Value group_by(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const AttributeGetter key(parameters[0], !parameters.flag(2), given(parameters, 1));
  const AttributeGetter shown(parameters[0], false, given(parameters, 1));
  std::vector<std::pair<Value, std::vector<Value>>> groups;
  const Key key_of = [&](const Value& item) { return key(runtime, item); };
  for (Value& item : sorted(runtime, iterate(runtime, value), key_of, false)) {
    Value each = key(runtime, item);
    if (groups.empty() || !equals(groups.back().first, each)) groups.push_back({std::move(each), {}});
    groups.back().second.push_back(std::move(item));
  }
  std::vector<Value> result;
  for (auto& [name, members] : groups) {
    Value title = parameters.flag(2) ? std::move(name) : shown(runtime, members[0]);
    result.push_back(runtime.sequence({Flavor::group, {std::move(title), runtime.list(std::move(members))}}));
  }
  return runtime.list(std::move(result));
}

Value attribute(Runtime& runtime, const Value& value, Arguments& arguments) {
  const std::string name = Parameters("attr", arguments, {"name"}, 1).text(0);
  if (value.dict()) {  // unlike the dot, this does not look for a key
    auto method = find_method(runtime, value, name);
    return method ? *std::move(method)
                  : Value::undefined(visq::format("a dictionary has no attribute '{}'", name));
  }
  return get_attribute(runtime, value, name);
}

std::optional<Value> take_keyword(Arguments& arguments, std::string_view name) {
  const auto it = std::ranges::find(arguments.keywords, name, [](const auto& entry) { return entry.first; });
  if (it == arguments.keywords.end()) return {};
  Value value = std::move(it->second);
  arguments.keywords.erase(it);
  return value;
}

Value map(Runtime& runtime, const Value& value, Arguments& arguments) {
  std::vector<Value> result;
  if (!is_true(value)) return runtime.iterator({});
  if (arguments.positional.empty()) {
    const auto name = take_keyword(arguments, "attribute");
    const auto fallback = take_keyword(arguments, "default");
    if (!name || !arguments.keywords.empty()) fail("map needs the name of a filter, or 'attribute='");
    const AttributeGetter getter(&*name, false, fallback && !fallback->is_none() ? &*fallback : nullptr);
    for (const Value& item : iterate(runtime, value)) result.push_back(getter(runtime, item));
    return runtime.iterator(std::move(result));
  }
  const Value name = arguments.positional[0];
  if (!name.text()) fail("map needs the name of a filter, not '{}'", type_name(name));
  Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.keywords};
  for (const Value& item : iterate(runtime, value)) {
    Arguments each = rest;
    result.push_back(apply_filter(runtime, *name.text(), item, each));
  }
  return runtime.iterator(std::move(result));
}

/// select, reject: items that pass a test, or are true. selectattr, rejectattr: items whose attribute does.
template <bool wanted, bool by_attribute>
Value select(Runtime& runtime, const Value& value, Arguments& arguments) {
  constexpr size_t kTest = by_attribute ? 1 : 0;
  auto& positional = arguments.positional;
  if (!is_true(value)) return runtime.iterator({});
  if (by_attribute && positional.empty()) fail("selectattr and rejectattr need the name of an attribute");
  const AttributeGetter getter(by_attribute ? &positional[0] : nullptr);
  const bool has_test = positional.size() > kTest;
  if (has_test && !positional[kTest].text()) fail("the name of a test is a text");
  Arguments rest{{}, arguments.keywords};
  if (has_test) rest.positional.assign(positional.begin() + kTest + 1, positional.end());
  std::vector<Value> result;
  for (const Value& item : iterate(runtime, value)) {
    const Value tested = getter(runtime, item);
    Arguments each = rest;
    const bool passes =
        has_test ? apply_test(runtime, *positional[kTest].text(), tested, each) : is_true(tested);
    if (passes == wanted) result.push_back(item);
  }
  return runtime.iterator(std::move(result));
}

}  // namespace

AttributeGetter::AttributeGetter(const Value* attribute, bool ignore_case, const Value* fallback)
    : ignore_case_(ignore_case), fallback_(fallback) {
  if (!attribute || attribute->is_none()) return;
  if (!attribute->text()) {
    steps_.push_back(*attribute);
    return;
  }
  for (const std::string& step : split(*attribute->text(), ".", -1)) steps_.push_back(step_of(step));
}

Value AttributeGetter::operator()(Runtime& runtime, const Value& item) const {
  Value value = item;
  for (const Value& step : steps_) {
    value = get_item(runtime, value, step);
    if (fallback_ && value.is_undefined()) value = *fallback_;
  }
  return ignore_case_ ? without_case(runtime, value) : value;
}

const Filters& sequence_filters() {
  static const Filters filters{
      {"attr", attribute},
      {"batch", batch},
      {"count", count},
      {"dictsort", dict_sort},
      {"first", first},
      {"groupby", group_by},
      {"items", items},
      {"last", last},
      {"length", count},
      {"list", list},
      {"map", map},
      {"max", extreme<1>},
      {"min", extreme<-1>},
      {"reject", select<false, false>},
      {"rejectattr", select<false, true>},
      {"reverse", reverse},
      {"select", select<true, false>},
      {"selectattr", select<true, true>},
      {"sort", sort},
      {"sum", sum},
      {"unique", unique},
  };
  return filters;
}

}  // namespace visq::jinja

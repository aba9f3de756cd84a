#include "visq/inputs/template_value.h"

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

using Flavor = Sequence::Flavor;

/// Lists and tuples equal those of their kind only; a view of a dictionary nothing but itself.
bool are_comparable(const Sequence& a, const Sequence& b) {
  const auto kind = [](Flavor flavor) { return flavor == Flavor::group ? Flavor::tuple : flavor; };
  return kind(a.flavor) == kind(b.flavor);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries.size() != b.entries.size()) return false;
  return std::ranges::all_of(a.entries, [&](const auto& entry) {
    return std::ranges::any_of(b.entries, [&](const auto& other) {
      return equals(entry.first, other.first) && equals(entry.second, other.second);
    });
  });
}

/// -1, 0, 1; 2 with a NaN. long double holds every int64 and every double.
int compare_numbers(const Value& a, const Value& b) {
  const auto exact = [](const Value& value) {
    const auto integer = integer_of(value);
    return integer ? static_cast<long double>(*integer) : static_cast<long double>(*value.as<double>());
  };
  const long double x = exact(a), y = exact(b);
  return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
}

int compare_sequences(const Sequence& a, const Sequence& b) {
  const size_t common = std::min(a.items.size(), b.items.size());
  for (size_t i = 0; i < common; ++i)
    if (!equals(a.items[i], b.items[i])) return compare(a.items[i], b.items[i]);
  return a.items.size() < b.items.size() ? -1 : a.items.size() > b.items.size() ? 1 : 0;
}

[[noreturn]] void fail_undefined(const Undefined& value) { fail("{}", *value.hint); }

std::vector<Value> characters_of(Runtime& runtime, const std::string& text) {
  std::vector<Value> characters;
  runtime.spend(text.size());
  for (size_t i = 0; i < text.size();) {
    const size_t start = i;
    next_char(text, i);
    characters.push_back(runtime.text(text.substr(start, i - start)));
  }
  return characters;
}

/// Prints into one text; how deep it is counts, since a namespace may contain itself.
class Printer {
 public:
  explicit Printer(Runtime& runtime) : runtime_(runtime), out_(runtime) {}

  std::string run(const Value& value) {
    repr(value);
    return out_.take();
  }

 private:
  void repr(const Value& value) {
    const Runtime::Call nesting(runtime_);
    if (value.is_undefined()) {
      out_.add("Undefined");
    } else if (value.is_none()) {
      out_.add("None");
    } else if (const auto* flag = value.as<bool>()) {
      out_.add(*flag ? "True" : "False");
    } else if (const auto* integer = value.as<int64_t>()) {
      out_.add(std::to_string(*integer));
    } else if (const auto* number = value.as<double>()) {
      out_.add(show_float(*number));
    } else if (const auto* text = value.text()) {
      out_.add(quote(*text));
    } else if (const auto* sequence = value.sequence()) {
      repr(*sequence);
    } else if (const auto* dict = value.dict()) {
      repr(*dict);
    } else if (const auto* names = value.names()) {
      repr(*names);
    } else if (const auto* object = value.object(); object && object->is_macro) {
      out_.add("<Macro " + quote(object->name) + ">");
    } else {
      fail("a value of type '{}' cannot be printed: its printed form is a memory address", type_name(value));
    }
  }

  void join(const std::vector<Value>& items) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_.add(", ");
      repr(items[i]);
    }
  }

  void repr(const Sequence& sequence) {
    switch (sequence.flavor) {
      case Flavor::range:
        out_.add(visq::format("range({}, {}", sequence.start, sequence.stop));
        if (sequence.step != 1) out_.add(visq::format(", {}", sequence.step));
        out_.add(")");
        return;
      case Flavor::tuple:
      case Flavor::group:
        out_.add("(");
        join(sequence.items);
        out_.add(sequence.items.size() == 1 ? ",)" : ")");
        return;
      default:
        break;
    }
    const std::string_view view = sequence.flavor == Flavor::keys     ? "dict_keys("
                                  : sequence.flavor == Flavor::values ? "dict_values("
                                  : sequence.flavor == Flavor::items  ? "dict_items("
                                                                      : "";
    out_.add(view);
    out_.add("[");
    join(sequence.items);
    out_.add(view.empty() ? "]" : "])");
  }

  void repr(const Dict& dict) {
    out_.add("{");
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out_.add(", ");
      repr(dict.entries[i].first);
      out_.add(": ");
      repr(dict.entries[i].second);
    }
    out_.add("}");
  }

  void repr(const Namespace& names) {
    out_.add("<Namespace {");
    for (size_t i = 0; i < names.attributes.size(); ++i) {
      out_.add((i > 0 ? ", " : "") + quote(names.attributes[i].first) + ": ");
      repr(names.attributes[i].second);
    }
    out_.add("}>");
  }

  Runtime& runtime_;
  TextBuilder out_;
};

void require_hashable(const Value& key) {
  const Sequence* sequence = key.sequence();
  const bool is_tuple = sequence && sequence->flavor != Flavor::list;
  if (key.dict() || (sequence && !is_tuple)) fail("a value of type '{}' cannot be a key", type_name(key));
  if (is_tuple)
    for (const Value& item : sequence->items) require_hashable(item);
}

}  // namespace

std::optional<int64_t> integer_of(const Value& value) {
  if (const auto* flag = value.as<bool>()) return *flag;
  if (const auto* integer = value.as<int64_t>()) return *integer;
  return {};
}

std::optional<double> number_of(const Value& value) {
  if (const auto* number = value.as<double>()) return *number;
  if (const auto integer = integer_of(value)) return static_cast<double>(*integer);
  return {};
}

bool is_float(const Value& value) { return value.as<double>() != nullptr; }

int depth_of(const Value& value) {
  if (const auto* sequence = value.sequence()) return sequence->depth;
  if (const auto* dict = value.dict()) return dict->depth;
  if (const auto* iterator = value.iterator()) return iterator->depth;
  if (const auto* object = value.object()) return object->depth;
  return 0;
}

std::string type_name(const Value& value) {
  static constexpr std::string_view kSequences[] = {"list",        "tuple",      "range", "dict_keys",
                                                    "dict_values", "dict_items", "tuple"};
  static constexpr std::string_view kTypes[] = {
      "Undefined", "None", "bool", "int", "float", "str", "", "dict", "generator", "namespace", "function"};
  if (const auto* sequence = value.sequence())
    return std::string(kSequences[static_cast<size_t>(sequence->flavor)]);
  return std::string(kTypes[value.kind()]);
}

bool is_true(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (const auto number = number_of(value)) return *number != 0;
  if (const auto* text = value.text()) return !text->empty();
  if (const auto* sequence = value.sequence()) return !sequence->items.empty();
  if (const auto* dict = value.dict()) return !dict->entries.empty();
  return true;
}

bool is_same(const Value& a, const Value& b) {
  if (a.kind() != b.kind()) return false;
  if (const auto* sequence = a.sequence()) return sequence == b.sequence();
  if (const auto* dict = a.dict()) return dict == b.dict();
  if (const auto* iterator = a.iterator()) return iterator == b.iterator();
  if (const auto* names = a.names()) return names == b.names();
  if (const auto* object = a.object()) return object == b.object();
  return a.is_undefined() || equals(a, b);
}

bool equals(const Value& a, const Value& b) {
  if (number_of(a) && number_of(b)) return compare_numbers(a, b) == 0;
  if (a.kind() != b.kind()) return false;
  if (a.is_undefined() || a.is_none()) return true;
  if (const auto* text = a.text()) return *text == *b.text();
  if (const auto* dict = a.dict()) return equal_dicts(*dict, *b.dict());
  const auto *x = a.sequence(), *y = b.sequence();
  if (!x) return is_same(a, b);
  return are_comparable(*x, *y) && std::ranges::equal(x->items, y->items, equals);
}

int compare(const Value& a, const Value& b) {
  for (const Value* value : {&a, &b})
    if (const auto* undefined = value->as<Undefined>()) fail_undefined(*undefined);
  if (number_of(a) && number_of(b)) return compare_numbers(a, b);
  if (a.text() && b.text()) {
    const int order = a.text()->compare(*b.text());  // UTF-8 sorts as code points do
    return order < 0 ? -1 : order > 0 ? 1 : 0;
  }
  const auto *x = a.sequence(), *y = b.sequence();
  const bool ordered =
      x && y && are_comparable(*x, *y) &&
      (x->flavor == Flavor::list || x->flavor == Flavor::tuple || x->flavor == Flavor::group);
  if (!ordered) fail("'{}' and '{}' cannot be ordered", type_name(a), type_name(b));
  return compare_sequences(*x, *y);
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (const auto* text = container.text()) {
    if (!item.text()) fail("'in' a text needs a text, not '{}'", type_name(item));
    runtime.spend(text->size() / 64);
    return text->find(*item.text()) != std::string::npos;
  }
  if (const auto* dict = container.dict()) return find(runtime, *dict, item) != nullptr;
  if (const auto* sequence = container.sequence()) {
    runtime.spend(sequence->items.size());
    return std::ranges::any_of(sequence->items, [&](const Value& each) { return equals(each, item); });
  }
  const auto items = iterate(runtime, container);
  return std::ranges::any_of(items, [&](const Value& each) { return equals(each, item); });
}

int64_t length(const Value& value) {
  if (const auto* text = value.text()) return static_cast<int64_t>(count_characters(*text));
  if (const auto* sequence = value.sequence()) return static_cast<int64_t>(sequence->items.size());
  if (const auto* dict = value.dict()) return static_cast<int64_t>(dict->entries.size());
  if (value.is_undefined()) return 0;
  if (const auto* object = value.object(); object && object->length) return object->length();
  fail("a value of type '{}' has no length", type_name(value));
}

bool is_iterable(const Value& value) {
  return value.text() || value.sequence() || value.dict() || value.iterator() || value.is_undefined() ||
         (value.object() && value.object()->length);
}

std::vector<Value> iterate(Runtime& runtime, const Value& value) {
  if (const auto* text = value.text()) return characters_of(runtime, *text);
  std::vector<Value> items;
  if (const auto* sequence = value.sequence()) {
    runtime.spend(sequence->items.size());
    items = sequence->items;
  } else if (const auto* dict = value.dict()) {
    runtime.spend(dict->entries.size());
    for (const auto& [key, ignored] : dict->entries) items.push_back(key);
  } else if (auto* iterator = value.iterator()) {
    runtime.spend(iterator->items.size() - iterator->position);
    items.assign(iterator->items.begin() + static_cast<ptrdiff_t>(iterator->position), iterator->items.end());
    iterator->position = iterator->items.size();
  } else if (!value.is_undefined()) {
    fail("a value of type '{}' cannot be iterated over", type_name(value));
  }
  return items;
}

const Value* find(Runtime& runtime, const Dict& dict, const Value& key) {
  require_hashable(key);
  runtime.spend(dict.entries.size() / 16);
  for (const auto& [candidate, value] : dict.entries)
    if (equals(candidate, key)) return &value;
  return nullptr;
}

std::string to_repr(Runtime& runtime, const Value& value) { return Printer(runtime).run(value); }

std::string to_text(Runtime& runtime, const Value& value) {
  if (const auto* text = value.text()) return *text;
  if (value.is_undefined()) return "";
  return to_repr(runtime, value);
}

}  // namespace visq::jinja

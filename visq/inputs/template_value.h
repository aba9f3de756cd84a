// Internal to the chat template: the values of a template, which behave like Python's.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace visq::jinja {

class Runtime;
class Value;

struct None {};

/// What a missing name, key or argument is: printed as nothing, false; any operation on it fails with `hint`.
struct Undefined {
  std::shared_ptr<const std::string> hint;
};

using Text = std::shared_ptr<const std::string>;  // UTF-8

/// Whatever holds other values counts its nesting, which is limited: so walking and freeing a value cannot
/// exhaust the stack.
struct Sequence {
  enum class Flavor { list, tuple, range, keys, values, items, group };
  Flavor flavor = Flavor::list;
  std::vector<Value> items = {};
  int depth = 1;
  int64_t start = 0, stop = 0, step = 1;  ///< of Flavor::range, for its printed form
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries = {};  ///< in order of insertion; equal keys once
  int depth = 1;
};

/// A Python generator: can be walked once, has no length. Its items are computed ahead.
struct Iterator {
  std::vector<Value> items = {};
  size_t position = 0;
  int depth = 1;
};

/// namespace(...): the only value that a template can change. Owned by the Runtime, so cycles do no harm.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes = {};
};

struct Arguments {
  std::vector<Value> positional = {};
  std::vector<std::pair<std::string, Value>> keywords = {};
};

/// A function, a bound method, a macro, `loop`, a joiner…
struct Object {
  std::string name;
  bool is_macro = false;
  std::function<Value(Runtime&, Arguments&)> call = {};  ///< empty: cannot be called
  std::function<std::optional<Value>(Runtime&, std::string_view name)> attribute = {};  ///< empty: has none
  std::function<int64_t()> length = {};                                                 ///< empty: has none
  int depth = 1;
};

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const Sequence>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Iterator>, Namespace*,
                            std::shared_ptr<const Object>>;

  Value() : data_(None{}) {}
  template <typename T>
  requires std::is_constructible_v<Data, std::in_place_type_t<T>, T>
  explicit Value(T value) : data_(std::in_place_type<T>, std::move(value)) {}
  static Value undefined(std::string hint) {
    return Value(Undefined{std::make_shared<const std::string>(std::move(hint))});
  }

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data_);
  }
  const std::string* text() const { return pointee<Text>(); }
  const Sequence* sequence() const { return pointee<std::shared_ptr<const Sequence>>(); }
  const Dict* dict() const { return pointee<std::shared_ptr<const Dict>>(); }
  Iterator* iterator() const { return pointee<std::shared_ptr<Iterator>>(); }
  const Object* object() const { return pointee<std::shared_ptr<const Object>>(); }
  Namespace* names() const {
    const auto* pointer = as<Namespace*>();
    return pointer ? *pointer : nullptr;
  }
  bool is_undefined() const { return as<Undefined>() != nullptr; }
  bool is_none() const { return as<None>() != nullptr; }
  size_t kind() const { return data_.index(); }  ///< in the order of Data

 private:
  template <typename Pointer>
  auto pointee() const -> decltype(std::declval<Pointer>().get()) {
    const auto* pointer = std::get_if<Pointer>(&data_);
    return pointer ? pointer->get() : nullptr;
  }

  Data data_;
};

/// The integer that a Python int or bool holds.
std::optional<int64_t> integer_of(const Value&);
/// The number that a Python int, bool or float holds.
std::optional<double> number_of(const Value&);
bool is_float(const Value&);

int depth_of(const Value&);
/// "str", "list", … as Python names the type, for errors.
std::string type_name(const Value&);

bool is_true(const Value&);
bool equals(const Value&, const Value&);
/// Whether both are the same object; equal constants are.
bool is_same(const Value&, const Value&);
/// -1, 0, 1; 2 when unordered (NaN). @throws Error when Python cannot order the two
int compare(const Value&, const Value&);
/// @throws Error when `container` is not one, or a text is searched for something else
bool contains(Runtime&, const Value& container, const Value& item);

/// @throws Error when Python's len() would
int64_t length(const Value&);
/// The values that a `for` loop sees. @throws Error when the value is not iterable
std::vector<Value> iterate(Runtime&, const Value&);
bool is_iterable(const Value&);
/// The value of `key`, or null. @throws Error when `key` cannot be one (a list, a dictionary)
const Value* find(Runtime&, const Dict&, const Value& key);

/// Python's str() and repr(). @throws Error for values whose printed form would be a memory address
std::string to_text(Runtime&, const Value&);
std::string to_repr(Runtime&, const Value&);

}  // namespace visq::jinja

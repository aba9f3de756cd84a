#include <algorithm>
#include <cmath>
#include <limits>

#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"

namespace visq::jinja {
namespace {

using Flavor = Sequence::Flavor;

[[noreturn]] void fail_operands(std::string_view op, const Value& a, const Value& b) {
  fail("operator {} does not apply to '{}' and '{}'", op, type_name(a), type_name(b));
}

Value integer_power(int64_t base, int64_t exponent) {
  int64_t result = 1;
  // A base beyond ±1 overflows within 64 rounds.
  for (int64_t i = 0; i < exponent && base != 1; ++i) {
    if (base == -1 || base == 0) return Value(base == 0 ? int64_t{0} : exponent % 2 == 0 ? int64_t{1} : base);
    if (__builtin_mul_overflow(result, base, &result)) fail("a number needs more than 64 bits");
  }
  return Value(result);
}

/// Python's division rounds down, and the remainder has the divisor's sign.
Value integer_division(std::string_view op, int64_t a, int64_t b) {
  if (b == 0) fail("division by zero");
  if (b == -1 && a == std::numeric_limits<int64_t>::min()) fail("a number needs more than 64 bits");
  const int64_t remainder = a % b;
  const bool below = remainder != 0 && (remainder < 0) != (b < 0);
  return Value(op == "%" ? remainder + (below ? b : 0) : a / b - (below ? 1 : 0));
}

Value integer_arithmetic(std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    return integer_power(a, b);
  } else {
    return integer_division(op, a, b);
  }
  if (overflow) fail("a number needs more than 64 bits");
  return Value(result);
}

double float_power(double a, double b) {
  if (a == 0 && b < 0) fail("zero cannot be raised to a negative power");
  const double result = std::pow(a, b);
  if (std::isnan(result) && !std::isnan(a) && !std::isnan(b)) fail("a power is a complex number");
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) fail("a power is too large");
  return result;
}

double float_division(std::string_view op, double a, double b) {
  if (b == 0) fail("division by zero");
  if (op == "/") return a / b;
  double remainder = std::fmod(a, b);
  double quotient = (a - remainder) / b;
  if (remainder != 0) {
    if ((b < 0) != (remainder < 0)) {
      remainder += b;
      quotient -= 1;
    }
  } else {
    remainder = std::copysign(0.0, b);
  }
  if (op == "%") return remainder;
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double rounded = std::floor(quotient);
  return quotient - rounded > 0.5 ? rounded + 1 : rounded;
}

double float_arithmetic(std::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  return op == "**" ? float_power(a, b) : float_division(op, a, b);
}

Value repeat(Runtime& runtime, const Value& value, int64_t count) {
  const size_t times = static_cast<size_t>(std::max<int64_t>(count, 0));
  if (const auto* text = value.text()) {
    TextBuilder out(runtime);
    if (!text->empty()) out.add(times, *text);
    return runtime.text(out.take());
  }
  const Sequence& sequence = *value.sequence();
  std::vector<Value> items;
  for (size_t i = 0; i < times && !sequence.items.empty(); ++i) {
    runtime.spend(sequence.items.size());
    items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  }
  return runtime.sequence({.flavor = sequence.flavor, .items = std::move(items)});
}

bool is_list_or_tuple(const Value& value) {
  const auto* sequence = value.sequence();
  return sequence && (sequence->flavor == Flavor::list || sequence->flavor == Flavor::tuple);
}

Value add(Runtime& runtime, const Value& a, const Value& b) {
  if (a.text() && b.text()) {
    runtime.require_size(a.text()->size() + b.text()->size());
    return runtime.text(*a.text() + *b.text());
  }
  if (!is_list_or_tuple(a) || !is_list_or_tuple(b) || a.sequence()->flavor != b.sequence()->flavor)
    fail_operands("+", a, b);
  runtime.spend(a.sequence()->items.size() + b.sequence()->items.size());
  std::vector<Value> items = a.sequence()->items;
  items.insert(items.end(), b.sequence()->items.begin(), b.sequence()->items.end());
  return runtime.sequence({.flavor = a.sequence()->flavor, .items = std::move(items)});
}

/// Python's slice.indices(): the first index, the one before which to end, the step.
struct Indices {
  int64_t start, stop, step;
  int64_t count() const {
    if (step > 0) return start < stop ? (stop - start - 1) / step + 1 : 0;
    return stop < start ? (start - stop - 1) / -step + 1 : 0;
  }
};

std::optional<int64_t> bound_of(const Value& value) {
  if (value.is_none()) return {};
  const auto bound = integer_of(value);
  if (!bound) fail("the bounds of a slice are integers, not '{}'", type_name(value));
  return bound;
}

Indices indices_of(int64_t size, const Value& start, const Value& stop, const Value& step) {
  // A step beyond any size acts as the size does; the least integer has no opposite.
  const int64_t stride = std::clamp<int64_t>(bound_of(step).value_or(1), -INT64_MAX / 2, INT64_MAX / 2);
  if (stride == 0) fail("the step of a slice is zero");
  const int64_t low = stride < 0 ? -1 : 0, high = stride < 0 ? size - 1 : size;
  const auto place = [&](std::optional<int64_t> bound, int64_t fallback) {
    if (!bound) return fallback;
    return std::clamp(*bound < 0 ? *bound + size : *bound, low, high);
  };
  return {place(bound_of(start), stride < 0 ? high : low), place(bound_of(stop), stride < 0 ? low : high),
          stride};
}

Value slice_text(Runtime& runtime, const std::string& text, const Value& start, const Value& stop,
                 const Value& step) {
  runtime.spend(text.size() / 16);
  const std::u32string characters = decode(text);
  const Indices indices = indices_of(static_cast<int64_t>(characters.size()), start, stop, step);
  std::u32string out;
  for (int64_t i = 0; i < indices.count(); ++i)
    out += characters[static_cast<size_t>(indices.start + i * indices.step)];
  return runtime.text(encode(out));
}

Value slice_sequence(Runtime& runtime, const Sequence& sequence, const Value& start, const Value& stop,
                     const Value& step) {
  const Indices indices = indices_of(static_cast<int64_t>(sequence.items.size()), start, stop, step);
  Sequence result{.flavor = sequence.flavor == Flavor::group ? Flavor::tuple : sequence.flavor};
  for (int64_t i = 0; i < indices.count(); ++i)
    result.items.push_back(sequence.items[static_cast<size_t>(indices.start + i * indices.step)]);
  // Only the printed form of a range shows these, and no range that short needs more than 64 bits.
  const auto step_size = static_cast<uint64_t>(sequence.step);
  const auto place = [&](int64_t i) {
    return static_cast<int64_t>(static_cast<uint64_t>(sequence.start) + static_cast<uint64_t>(i) * step_size);
  };
  result.start = place(indices.start);
  result.stop = place(indices.stop);
  result.step = static_cast<int64_t>(static_cast<uint64_t>(indices.step) * step_size);
  return runtime.sequence(std::move(result));
}

bool is_indexable(const Sequence& sequence) {
  return sequence.flavor != Flavor::keys && sequence.flavor != Flavor::values &&
         sequence.flavor != Flavor::items;
}

/// `object[key]` in Python; nothing for what Jinja turns into an undefined value.
std::optional<Value> subscript(Runtime& runtime, const Value& object, const Value& key) {
  if (const auto* dict = object.dict()) {
    const Sequence* sequence = key.sequence();
    if (key.dict() || (sequence && sequence->flavor == Flavor::list)) return {};
    const Value* value = find(runtime, *dict, key);
    return value ? std::optional(*value) : std::nullopt;
  }
  const auto index = integer_of(key);
  if (!index) return {};
  const auto place = [&](size_t size) -> std::optional<size_t> {
    const auto count = static_cast<int64_t>(size);
    if (*index < -count || *index >= count) return {};
    return static_cast<size_t>(*index < 0 ? *index + count : *index);
  };
  if (const auto* text = object.text()) {
    runtime.spend(text->size() / 16);
    const std::u32string characters = decode(*text);
    const auto at = place(characters.size());
    return at ? std::optional(runtime.text(encode({&characters[*at], 1}))) : std::nullopt;
  }
  const auto* sequence = object.sequence();
  if (!sequence || !is_indexable(*sequence)) return {};
  const auto at = place(sequence->items.size());
  return at ? std::optional(sequence->items[*at]) : std::nullopt;
}

/// `object.name` in Python.
std::optional<Value> attribute(Runtime& runtime, const Value& object, const std::string& name) {
  if (const auto* names = object.names()) {
    for (const auto& [key, value] : names->attributes)
      if (key == name) return value;
    return {};
  }
  if (const auto* sequence = object.sequence(); sequence && sequence->flavor == Flavor::group) {
    if (name == "grouper") return sequence->items[0];
    if (name == "list") return sequence->items[1];
  }
  if (const auto* function = object.object(); function && function->attribute)
    return function->attribute(runtime, name);
  return find_method(runtime, object, name);
}

void require_defined(const Value& value) {
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
}

Value missing(const Value& object, const std::string& name) {
  return Value::undefined(visq::format("a value of type '{}' has no '{}'", type_name(object), name));
}

}  // namespace

Value binary(Runtime& runtime, std::string_view op, const Value& a, const Value& b) {
  if (op == "%" && a.text()) return percent_format(runtime, *a.text(), b);
  require_defined(a);
  require_defined(b);
  const auto x = integer_of(a), y = integer_of(b);
  if (x && y && op != "/" && (op != "**" || *y >= 0)) return integer_arithmetic(op, *x, *y);
  if (number_of(a) && number_of(b)) return Value(float_arithmetic(op, *number_of(a), *number_of(b)));
  if (op == "+") return add(runtime, a, b);
  if (op == "*" && y && (a.text() || is_list_or_tuple(a))) return repeat(runtime, a, *y);
  if (op == "*" && x && (b.text() || is_list_or_tuple(b))) return repeat(runtime, b, *x);
  fail_operands(op, a, b);
}

Value negative(Runtime& runtime, const Value& value) {
  require_defined(value);
  if (is_float(value)) return Value(-*value.as<double>());
  if (!integer_of(value)) fail("operator - does not apply to '{}'", type_name(value));
  return binary(runtime, "-", Value(int64_t{0}), value);
}

Value get_attribute(Runtime& runtime, const Value& object, const std::string& name) {
  require_defined(object);
  if (auto value = attribute(runtime, object, name)) return *std::move(value);
  if (object.dict())
    if (auto value = subscript(runtime, object, Value(std::make_shared<const std::string>(name))))
      return *std::move(value);
  return missing(object, name);
}

Value get_item(Runtime& runtime, const Value& object, const Value& key) {
  require_defined(object);
  if (auto value = subscript(runtime, object, key)) return *std::move(value);
  const std::string* name = key.text();
  if (!name)
    return Value::undefined(visq::format("a value of type '{}' has no such item", type_name(object)));
  if (auto value = attribute(runtime, object, *name)) return *std::move(value);
  return missing(object, *name);
}

Value get_slice(Runtime& runtime, const Value& object, const Value& start, const Value& stop,
                const Value& step) {
  require_defined(object);
  if (const auto* text = object.text()) return slice_text(runtime, *text, start, stop, step);
  const auto* sequence = object.sequence();
  if (!sequence || !is_indexable(*sequence)) fail("a value of type '{}' has no slices", type_name(object));
  return slice_sequence(runtime, *sequence, start, stop, step);
}

Value call(Runtime& runtime, const Value& function, Arguments& arguments) {
  require_defined(function);
  const auto* object = function.object();
  if (!object || !object->call) fail("a value of type '{}' cannot be called", type_name(function));
  const Runtime::Call nesting(runtime);
  return object->call(runtime, arguments);
}

}  // namespace visq::jinja

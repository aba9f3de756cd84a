// Internal to the chat template: what one rendering may spend, and the values that it makes.
#pragma once
#include <deque>
#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "visq/core/error.h"
#include "visq/inputs/template_value.h"

namespace visq::jinja {

inline constexpr size_t kMaxTextBytes = 16u << 20;
inline constexpr size_t kMaxSteps = 10'000'000;
inline constexpr int kMaxDepth = 200;

/// A template is untrusted: every value that it makes is paid for in steps, so time and memory are bounded
/// (spec/inputs.md §4.3, §9).
class Runtime {
 public:
  void spend(size_t steps = 1) {
    if (steps > steps_left_) fail("rendering takes more than {} steps", kMaxSteps);
    steps_left_ -= steps;
  }
  /// Called before a text of so many bytes is made.
  void require_size(size_t bytes) {
    if (bytes > kMaxTextBytes) fail("a text grows beyond {} MiB", kMaxTextBytes >> 20);
    spend(bytes / 64);
  }

  Value text(std::string);
  Value list(std::vector<Value>);
  Value tuple(std::vector<Value>);
  Value sequence(Sequence);
  Value iterator(std::vector<Value>);
  /// Later entries replace the value of earlier ones with an equal key.
  Value dict(std::vector<std::pair<Value, Value>>);
  Value object(Object);
  Namespace& new_namespace() { return namespaces_.emplace_back(); }

  /// Counts the calls that are open. @throws Error beyond kMaxDepth, as Python ends endless recursion
  class Call {
   public:
    explicit Call(Runtime& runtime) : runtime_(runtime) {
      if (runtime.calls_ == kMaxDepth) fail("calls nest deeper than {}", kMaxDepth);
      ++runtime.calls_;
    }
    ~Call() { --runtime_.calls_; }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

   private:
    Runtime& runtime_;
  };

  int line = 1;  ///< of the template, where rendering is: for errors

 private:
  int nested(const std::vector<Value>&) const;

  size_t steps_left_ = kMaxSteps;
  int calls_ = 0;
  std::deque<Namespace> namespaces_;
};

/// A text that grows piece by piece within the limits.
class TextBuilder {
 public:
  explicit TextBuilder(Runtime& runtime) : runtime_(runtime) {}
  void add(std::string_view piece) {
    if (text_.size() + piece.size() > kMaxTextBytes) runtime_.require_size(text_.size() + piece.size());
    runtime_.spend(piece.size() / 64);
    text_ += piece;
  }
  void add(size_t count, std::string_view piece) {
    if (count > kMaxTextBytes) runtime_.require_size(count);
    for (size_t i = 0; i < count; ++i) add(piece);
  }
  std::string take() { return std::move(text_); }

 private:
  Runtime& runtime_;
  std::string text_;
};

/// Arguments matched to the parameters' names, as Python does it.
class Parameters {
 public:
  /// @throws Error for too many, twice given or unknown ones, and fewer than `required`
  Parameters(std::string_view function, const Arguments&, std::initializer_list<std::string_view> names,
             size_t required = 0);
  /// Null when absent.
  const Value* operator[](size_t i) const { return values_[i]; }
  bool flag(size_t i) const { return values_[i] && is_true(*values_[i]); }
  /// @throws Error when the argument is given but not an integer
  int64_t integer(size_t i, int64_t fallback) const;
  /// @throws Error when the argument is given but not a text
  std::string text(size_t i, std::string_view fallback = {}) const;
  bool is_given(size_t i) const { return values_[i] && !values_[i]->is_none(); }

 private:
  std::string function_;
  std::vector<const Value*> values_;
};

/// `value | name(arguments)`, `value is name(arguments)`. @throws Error naming an unknown one
Value apply_filter(Runtime&, const std::string& name, const Value&, Arguments&);
bool apply_test(Runtime&, const std::string& name, const Value&, Arguments&);
bool is_filter(std::string_view name);
bool is_test(std::string_view name);

/// `object.name`, `object[key]`: each tries what the other stands for next, as Jinja does; undefined when
/// neither exists. @throws Error when `object` is undefined
Value get_attribute(Runtime&, const Value& object, const std::string& name);
Value get_item(Runtime&, const Value& object, const Value& key);
/// `object[start:stop:step]`; absent bounds are none.
Value get_slice(Runtime&, const Value& object, const Value& start, const Value& stop, const Value& step);
/// A method of texts, lists, dictionaries, bound to `self`; undefined when Jinja's sandbox refuses it.
std::optional<Value> find_method(Runtime&, const Value& self, std::string_view name);

/// "+", "-", "*", "/", "//", "%", "**". @throws Error when Python would
Value binary(Runtime&, std::string_view op, const Value&, const Value&);
Value negative(Runtime&, const Value&);

/// @throws Error for names that begin with an underscore, as in transformers
void set_attribute(Namespace&, const std::string& name, Value);

Value call(Runtime&, const Value& function, Arguments&);
/// range, namespace, dict, raise_exception, …; null when there is no such function.
const Value* find_global(std::string_view name);

/// transformers' tojson. @throws Error for values that JSON cannot express
Value to_json(Runtime&, const Value&, const Arguments&);

/// `text % value` and `text.format(arguments)`.
Value percent_format(Runtime&, const std::string& text, const Value&);
Value brace_format(Runtime&, const std::string& text, const Arguments&);
/// Python's format(value, spec).
std::string format_value(Runtime&, const Value&, const std::string& spec);

}  // namespace visq::jinja

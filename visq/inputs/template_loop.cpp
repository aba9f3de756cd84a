#include "visq/inputs/template_loop.h"

#include <algorithm>
#include <map>

#include "visq/core/error.h"
#include "visq/inputs/template_runtime.h"

namespace visq::jinja {

Loop::Loop(Runtime& runtime, const Value& iterable)
    : items_(iterate(runtime, iterable)), depth_(depth_of(iterable) + 1) {}

/// The next item that passes the filter.
std::optional<Value> Loop::pull() {
  while (position_ < items_.size()) {
    Value item = items_[position_++];
    if (!filter_ || filter_(item)) return item;
  }
  return {};
}

const std::optional<Value>& Loop::peek() {
  if (!after_) after_ = pull();
  return after_;
}

std::optional<Value> Loop::next() {
  std::optional<Value> item = after_ ? std::exchange(after_, {}) : pull();
  if (!item) return {};
  ++index0_;
  before_ = std::exchange(current_, item);
  return item;
}

/// Asking for the length applies the filter to all items at once, as in Jinja.
int64_t Loop::length() {
  if (filter_) {
    std::vector<Value> rest;
    while (auto item = pull()) rest.push_back(*std::move(item));
    const size_t done = static_cast<size_t>(index0_ + 1) + (after_ ? 1 : 0);
    items_.assign(done, Value());
    items_.insert(items_.end(), rest.begin(), rest.end());
    position_ = done;
    filter_ = nullptr;
  }
  return static_cast<int64_t>(items_.size());
}

void Loop::finish() {
  last_changed_.reset();
  before_ = current_ = after_ = std::nullopt;
  items_.clear();
  filter_ = nullptr;
  recursion_ = nullptr;
}

std::optional<Value> Loop::item(std::string_view name) {
  if (name == "previtem") return before_ ? *before_ : Value::undefined("there is no previous item");
  if (name != "nextitem") return {};
  const auto& item = peek();
  return item ? *item : Value::undefined("there is no next item");
}

Value Loop::cycle(const Arguments& arguments) const {
  const auto& values = arguments.positional;
  if (values.empty()) fail("loop.cycle() needs values");
  return values[static_cast<size_t>(index0_) % values.size()];
}

bool Loop::changed(std::vector<Value> values) {
  if (last_changed_ && std::ranges::equal(*last_changed_, values, equals)) return false;
  last_changed_ = std::move(values);
  return true;
}

std::optional<Value> Loop::method(Runtime& runtime, const std::shared_ptr<Loop>& self,
                                  std::string_view name) {
  if (name == "cycle")
    return runtime.object({.name = "cycle",
                           .call = [self](Runtime&, Arguments& arguments) { return self->cycle(arguments); },
                           .depth = depth_});
  if (name == "changed")
    return runtime.object(
        {.name = "changed",
         .call = [self](Runtime&,
                        Arguments& arguments) { return Value(self->changed(arguments.positional)); },
         .depth = depth_});
  return {};
}

std::optional<Value> Loop::attribute(Runtime& runtime, const std::shared_ptr<Loop>& self,
                                     std::string_view name) {
  if (name == "index") return Value(index0_ + 1);
  if (name == "index0") return Value(index0_);
  if (name == "first") return Value(index0_ == 0);
  if (name == "last") return Value(!peek().has_value());
  if (name == "length") return Value(length());
  if (name == "revindex") return Value(length() - index0_);
  if (name == "revindex0") return Value(length() - index0_ - 1);
  if (name == "depth") return Value(recursion_depth_ + 1);
  if (name == "depth0") return Value(recursion_depth_);
  if (auto value = item(name)) return value;
  return method(runtime, self, name);
}

Value Loop::object(Runtime& runtime, const std::shared_ptr<Loop>& self) {
  Object object{.name = "loop", .depth = self->depth_};
  object.attribute = [self](Runtime& r, std::string_view name) { return self->attribute(r, self, name); };
  object.length = [self] { return self->length(); };
  object.call = [self](Runtime&, Arguments& arguments) {
    if (!self->recursion_) fail("loop() needs a loop that is marked 'recursive'");
    return self->recursion_(*Parameters("loop", arguments, {"iterable"}, 1)[0]);
  };
  return runtime.object(std::move(object));
}

}  // namespace visq::jinja

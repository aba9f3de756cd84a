// Internal to the chat template: the state of a `for` loop, which the template sees as `loop`.
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "visq/inputs/template_value.h"

namespace visq::jinja {

class Loop {
 public:
  /// @throws Error when the value is not iterable
  Loop(Runtime&, const Value& iterable);

  /// Items that do not pass are no part of the loop. Asked when an item is due, not before: the answer may
  /// depend on what the body changed.
  void set_filter(std::function<bool(const Value&)> filter) { filter_ = std::move(filter); }
  /// What loop(items) does.
  void set_recursion(std::function<Value(const Value&)> recursion) { recursion_ = std::move(recursion); }
  void set_depth(int64_t depth) { recursion_depth_ = depth; }

  std::optional<Value> next();

  static Value object(Runtime&, const std::shared_ptr<Loop>&);

  /// At its end the loop lets go of what it refers to, which may refer to the loop.
  class Guard {
   public:
    explicit Guard(Loop& loop) : loop_(loop) {}
    ~Guard() { loop_.finish(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;

   private:
    Loop& loop_;
  };

 private:
  std::optional<Value> pull();
  const std::optional<Value>& peek();
  int64_t length();
  std::optional<Value> attribute(Runtime&, const std::shared_ptr<Loop>& self, std::string_view name);
  std::optional<Value> item(std::string_view name);
  std::optional<Value> method(Runtime&, const std::shared_ptr<Loop>& self, std::string_view name);
  Value cycle(const Arguments&) const;
  bool changed(std::vector<Value> values);
  void finish();

  std::vector<Value> items_;
  size_t position_ = 0;
  std::function<bool(const Value&)> filter_;
  std::function<Value(const Value&)> recursion_;
  int64_t index0_ = -1, recursion_depth_ = 0;
  int depth_ = 1;  ///< nesting of the items
  std::optional<Value> before_, current_, after_;
  std::optional<std::vector<Value>> last_changed_;
};

}  // namespace visq::jinja

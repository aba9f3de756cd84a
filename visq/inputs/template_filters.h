// Internal to the chat template's filters: tables, and what filters of texts and of sequences share.
#pragma once
#include <functional>
#include <map>
#include <string_view>

#include "visq/inputs/template_runtime.h"

namespace visq::jinja {

using Filter = Value (*)(Runtime&, const Value&, Arguments&);
using Filters = std::map<std::string_view, Filter>;

const Filters& text_filters();
const Filters& sequence_filters();

/// The text that a filter of texts works on: what str() makes of other values.
std::string soft_text(Runtime&, const Value&);

/// Reads the attribute that a filter's argument names: "a.0.b" goes step by step; all of the value when
/// absent.
class AttributeGetter {
 public:
  /// @param attribute  may be null; @param fallback  for undefined attributes; may be null
  AttributeGetter(const Value* attribute, bool ignore_case = false, const Value* fallback = nullptr);
  Value operator()(Runtime&, const Value& item) const;

 private:
  std::vector<Value> steps_;
  bool ignore_case_;
  const Value* fallback_;
};

}  // namespace visq::jinja

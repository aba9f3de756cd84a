#include <algorithm>
#include <map>

#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"

namespace visq::jinja {
namespace {

using Method = Value (*)(Runtime&, const Value& self, Arguments&);
using Methods = std::map<std::string_view, Method>;

template <std::string (*change)(std::string_view)>
Value changed(Runtime& runtime, const Value& self, Arguments& arguments) {
  Parameters("str method", arguments, {});
  return runtime.text(change(*self.text()));
}

template <Has wanted>
Value consists(Runtime&, const Value& self, Arguments& arguments) {
  Parameters("str method", arguments, {});
  return Value(consists_of(*self.text(), wanted));
}

template <bool (*holds)(std::string_view)>
Value check(Runtime&, const Value& self, Arguments& arguments) {
  Parameters("str method", arguments, {});
  return Value(holds(*self.text()));
}

template <Side side>
Value stripped(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("strip", arguments, {"chars"});
  if (!parameters.is_given(0)) return runtime.text(std::string(strip(*self.text(), side)));
  return runtime.text(std::string(strip(*self.text(), side, parameters.text(0))));
}

Value texts(Runtime& runtime, std::vector<std::string> parts) {
  std::vector<Value> items;
  for (std::string& part : parts) items.push_back(runtime.text(std::move(part)));
  return runtime.list(std::move(items));
}

template <std::vector<std::string> (*cut)(std::string_view, std::optional<std::string_view>, int64_t)>
Value split_text(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("split", arguments, {"sep", "maxsplit"});
  const int64_t limit = parameters.integer(1, -1);
  runtime.spend(self.text()->size());
  if (!parameters.is_given(0)) return texts(runtime, cut(*self.text(), {}, limit));
  const std::string separator = parameters.text(0);
  if (separator.empty()) fail("split() by an empty text");
  return texts(runtime, cut(*self.text(), separator, limit));
}

Value split_into_lines(Runtime& runtime, const Value& self, Arguments& arguments) {
  const bool keep_ends = Parameters("splitlines", arguments, {"keepends"}).flag(0);
  runtime.spend(self.text()->size());
  return texts(runtime, split_lines(*self.text(), keep_ends));
}

template <bool from_right>
Value partition(Runtime& runtime, const Value& self, Arguments& arguments) {
  const std::string separator = Parameters("partition", arguments, {"sep"}, 1).text(0), &text = *self.text();
  if (separator.empty()) fail("partition() by an empty text");
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  if (at == text.npos)
    return from_right ? runtime.tuple({runtime.text(""), runtime.text(""), self})
                      : runtime.tuple({self, runtime.text(""), runtime.text("")});
  return runtime.tuple({runtime.text(text.substr(0, at)), runtime.text(separator),
                        runtime.text(text.substr(at + separator.size()))});
}

/// The part of a text that optional start and end arguments leave: bytes, and the characters before it.
struct Window {
  std::string text;
  int64_t start = 0;
  bool is_valid = true;  ///< false when it begins behind the end: then not even "" is found
};

Window window_of(Runtime& runtime, const std::string& text, const Parameters& parameters) {
  if (!parameters.is_given(1) && !parameters.is_given(2)) return {.text = text};
  const auto size = static_cast<int64_t>(count_characters(text));
  const Value start = parameters.is_given(1) ? *parameters[1] : Value(),
              stop = parameters.is_given(2) ? *parameters[2] : Value();
  const Value part =
      get_slice(runtime, Value(std::make_shared<const std::string>(text)), start, stop, Value());
  const int64_t first = integer_of(start).value_or(0);
  const int64_t from = first < 0 ? std::max<int64_t>(first + size, 0) : first;
  const int64_t last = integer_of(stop).value_or(size);
  return {*part.text(), from, from <= size && from <= (last < 0 ? std::max<int64_t>(last + size, 0) : last)};
}

template <bool from_right, bool must_exist>
Value find_text(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("find", arguments, {"sub", "start", "end"}, 1);
  const std::string part = parameters.text(0);
  const Window window = window_of(runtime, *self.text(), parameters);
  const size_t at = from_right ? window.text.rfind(part) : window.text.find(part);
  runtime.spend(window.text.size() / 64);
  if (at != std::string::npos && window.is_valid)
    return Value(window.start +
                 static_cast<int64_t>(count_characters(std::string_view(window.text).substr(0, at))));
  if (must_exist) fail("the text that index() looks for is missing");
  return Value(int64_t{-1});
}

Value count_text(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("count", arguments, {"sub", "start", "end"}, 1);
  const std::string part = parameters.text(0);
  const Window window = window_of(runtime, *self.text(), parameters);
  if (!window.is_valid) return Value(int64_t{0});
  if (part.empty()) return Value(static_cast<int64_t>(count_characters(window.text)) + 1);
  int64_t count = 0;
  for (size_t at = 0; (at = window.text.find(part, at)) != std::string::npos; at += part.size()) ++count;
  return Value(count);
}

template <bool at_end>
Value has_affix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters(at_end ? "endswith" : "startswith", arguments, {"affix", "start", "end"}, 1);
  const Window window = window_of(runtime, *self.text(), parameters);
  const auto matches = [&](const Value& affix) {
    if (!affix.text()) fail("startswith() and endswith() need a text, not '{}'", type_name(affix));
    return window.is_valid &&
           (at_end ? window.text.ends_with(*affix.text()) : window.text.starts_with(*affix.text()));
  };
  const auto* several = parameters[0]->sequence();
  if (!several || several->flavor != Sequence::Flavor::tuple) return Value(matches(*parameters[0]));
  return Value(std::ranges::any_of(several->items, matches));
}

template <bool at_end>
Value without_affix(Runtime& runtime, const Value& self, Arguments& arguments) {
  const std::string affix = Parameters("removeprefix", arguments, {"affix"}, 1).text(0);
  std::string text = *self.text();
  if (at_end && text.ends_with(affix)) text.resize(text.size() - affix.size());
  if (!at_end && text.starts_with(affix)) text.erase(0, affix.size());
  return runtime.text(std::move(text));
}

/// An empty `old` stands before each character and at the end.
Value replace_empty(Runtime& runtime, const std::string& text, const std::string& replacement,
                    int64_t limit) {
  TextBuilder out(runtime);
  const std::u32string characters = decode(text);
  for (size_t i = 0; i <= characters.size(); ++i) {
    if (limit < 0 || static_cast<int64_t>(i) < limit) out.add(replacement);
    if (i < characters.size()) out.add(encode({&characters[i], 1}));
  }
  return runtime.text(out.take());
}

Value replace(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"}, 2);
  const std::string old = parameters.text(0), replacement = parameters.text(1), &text = *self.text();
  const int64_t limit = parameters.integer(2, -1);
  runtime.spend(text.size() / 16);
  if (old.empty()) return replace_empty(runtime, text, replacement, limit);
  TextBuilder out(runtime);
  size_t start = 0;
  for (int64_t i = 0; limit < 0 || i < limit; ++i) {
    const size_t at = text.find(old, start);
    if (at == text.npos) break;
    out.add(std::string_view(text).substr(start, at - start));
    out.add(replacement);
    start = at + old.size();
  }
  out.add(std::string_view(text).substr(start));
  return runtime.text(out.take());
}

Value join(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("join", arguments, {"iterable"}, 1);
  TextBuilder out(runtime);
  bool first = true;
  for (const Value& item : iterate(runtime, *parameters[0])) {
    if (!item.text()) fail("join() needs texts, not '{}'", type_name(item));
    if (!first) out.add(*self.text());
    first = false;
    out.add(*item.text());
  }
  return runtime.text(out.take());
}

template <char align>
Value padded(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("center", arguments, {"width", "fillchar"}, 1);
  const std::string fill = parameters.text(1, " ");
  if (count_characters(fill) != 1) fail("text is filled with one character");
  const int64_t missing = parameters.integer(0, 0) - length(self);
  if (missing <= 0) return self;
  // The odd blank of str.center() goes left when the width is odd.
  const int64_t left = align == '<'   ? 0
                       : align == '>' ? missing
                                      : missing / 2 + (missing & parameters.integer(0, 0) & 1);
  TextBuilder out(runtime);
  out.add(static_cast<size_t>(left), fill);
  out.add(*self.text());
  out.add(static_cast<size_t>(missing - left), fill);
  return runtime.text(out.take());
}

Value zero_filled(Runtime& runtime, const Value& self, Arguments& arguments) {
  const int64_t missing = Parameters("zfill", arguments, {"width"}, 1).integer(0, 0) - length(self);
  if (missing <= 0) return self;
  const std::string& text = *self.text();
  const size_t sign = text.starts_with('-') || text.starts_with('+') ? 1 : 0;
  TextBuilder out(runtime);
  out.add(text.substr(0, sign));
  out.add(static_cast<size_t>(missing), "0");
  out.add(text.substr(sign));
  return runtime.text(out.take());
}

Value format(Runtime& runtime, const Value& self, Arguments& arguments) {
  return brace_format(runtime, *self.text(), arguments);
}

Value count_items(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("count", arguments, {"value"}, 1);
  const auto& items = self.sequence()->items;
  runtime.spend(items.size());
  return Value(static_cast<int64_t>(
      std::ranges::count_if(items, [&](const Value& item) { return equals(item, *parameters[0]); })));
}

Value index_of_item(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("index", arguments, {"value"}, 1);
  const auto& items = self.sequence()->items;
  runtime.spend(items.size());
  const auto it =
      std::ranges::find_if(items, [&](const Value& item) { return equals(item, *parameters[0]); });
  if (it == items.end()) fail("the value that index() looks for is missing");
  return Value(static_cast<int64_t>(it - items.begin()));
}

Value copy(Runtime& runtime, const Value& self, Arguments& arguments) {
  Parameters("copy", arguments, {});
  return self.dict() ? runtime.dict(self.dict()->entries) : runtime.list(self.sequence()->items);
}

Value get(Runtime& runtime, const Value& self, Arguments& arguments) {
  const Parameters parameters("get", arguments, {"key", "default"}, 1);
  const Value* value = find(runtime, *self.dict(), *parameters[0]);
  return value ? *value : parameters[1] ? *parameters[1] : Value();
}

template <Sequence::Flavor flavor>
Value view(Runtime& runtime, const Value& self, Arguments& arguments) {
  using Flavor = Sequence::Flavor;
  Parameters("dict method", arguments, {});
  Sequence result{.flavor = flavor};
  for (const auto& [key, value] : self.dict()->entries)
    result.items.push_back(flavor == Flavor::keys     ? key
                           : flavor == Flavor::values ? value
                                                      : runtime.tuple({key, value}));
  return runtime.sequence(std::move(result));
}

const Methods& text_methods() {
  static const Methods methods{
      {"capitalize", changed<capitalize>},
      {"center", padded<'^'>},
      {"count", count_text},
      {"endswith", has_affix<true>},
      {"find", find_text<false, false>},
      {"format", format},
      {"index", find_text<false, true>},
      {"isalnum", consists<Has::letters_or_digits>},
      {"isalpha", consists<Has::letters>},
      {"isdecimal", consists<Has::digits>},
      {"isdigit", consists<Has::digits>},
      {"islower", check<is_lower>},
      {"isnumeric", consists<Has::digits>},
      {"isspace", consists<Has::spaces>},
      {"isupper", check<is_upper>},
      {"join", join},
      {"ljust", padded<'<'>},
      {"lower", changed<lower>},
      {"lstrip", stripped<Side::left>},
      {"partition", partition<false>},
      {"removeprefix", without_affix<false>},
      {"removesuffix", without_affix<true>},
      {"replace", replace},
      {"rfind", find_text<true, false>},
      {"rindex", find_text<true, true>},
      {"rjust", padded<'>'>},
      {"rpartition", partition<true>},
      {"rsplit", split_text<split_right>},
      {"rstrip", stripped<Side::right>},
      {"split", split_text<split>},
      {"splitlines", split_into_lines},
      {"startswith", has_affix<false>},
      {"strip", stripped<Side::both>},
      {"swapcase", changed<swap_case>},
      {"title", changed<title>},
      {"upper", changed<upper>},
      {"zfill", zero_filled},
  };
  return methods;
}

const Methods& sequence_methods() {
  static const Methods methods{{"copy", copy}, {"count", count_items}, {"index", index_of_item}};
  return methods;
}

const Methods& dict_methods() {
  static const Methods methods{{"copy", copy},
                               {"get", get},
                               {"items", view<Sequence::Flavor::items>},
                               {"keys", view<Sequence::Flavor::keys>},
                               {"values", view<Sequence::Flavor::values>}};
  return methods;
}

const Methods* methods_of(const Value& value) {
  using Flavor = Sequence::Flavor;
  if (value.text()) return &text_methods();
  if (value.dict()) return &dict_methods();
  const auto* sequence = value.sequence();
  const bool has_methods = sequence && sequence->flavor != Flavor::keys &&
                           sequence->flavor != Flavor::values && sequence->flavor != Flavor::items;
  return has_methods ? &sequence_methods() : nullptr;
}

/// Methods that change a value: the sandbox of the reference makes them undefined.
bool is_refused(const Value& self, std::string_view name) {
  static constexpr std::string_view kList[] = {"append", "clear",  "extend",  "insert",
                                               "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view kDict[] = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto is_in = [&](const auto& names) { return std::ranges::find(names, name) != std::end(names); };
  const auto* sequence = self.sequence();
  return self.dict() ? is_in(kDict) : sequence && sequence->flavor == Sequence::Flavor::list && is_in(kList);
}

/// Methods of Python's that are left out here: silence would be a wrong answer.
bool is_missing(const Value& self, std::string_view name) {
  static constexpr std::string_view kText[] = {"casefold",  "encode",       "expandtabs",  "format_map",
                                               "isascii",   "isidentifier", "isprintable", "istitle",
                                               "maketrans", "translate"};
  return self.text() && std::ranges::find(kText, name) != std::end(kText);
}

}  // namespace

std::optional<Value> find_method(Runtime& runtime, const Value& self, std::string_view name) {
  if (is_missing(self, name)) fail("the method '{}' of texts is not supported", name);
  if (is_refused(self, name))
    return Value::undefined(
        visq::format("the method '{}' changes its value, which a template may not", name));
  const Methods* methods = methods_of(self);
  const auto it = methods ? methods->find(name) : Methods::const_iterator();
  if (!methods || it == methods->end() ||
      (name == "copy" && self.sequence() && self.sequence()->flavor != Sequence::Flavor::list))
    return {};
  const auto call = [self, method = it->second](Runtime& r, Arguments& arguments) {
    return method(r, self, arguments);
  };
  return runtime.object({.name = std::string(name), .call = call, .depth = depth_of(self) + 1});
}

}  // namespace visq::jinja

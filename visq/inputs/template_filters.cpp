#include "visq/inputs/template_filters.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {

std::string soft_text(Runtime& runtime, const Value& value) {
  std::string text = to_text(runtime, value);
  runtime.require_size(text.size());
  return text;
}

namespace {

template <std::string (*change)(std::string_view)>
Value changed_text(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("filter", arguments, {});
  return runtime.text(change(soft_text(runtime, value)));
}

/// Words begin after white space, hyphens and opening brackets; unlike str.title().
std::string title_words(std::string_view text) {
  const auto is_gap = [](char32_t c) {
    return is_space(c) || std::u32string_view(U"-({[<").find(c) != std::u32string_view::npos;
  };
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i, first = i;
    const bool gap = is_gap(next_char(text, first));
    for (size_t next = i; next < text.size() && is_gap(next_char(text, next)) == gap;) end = next;
    out += upper(text.substr(i, first - i)) + lower(text.substr(first, end - first));
    i = end;
  }
  return out;
}

Value trim(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("trim", arguments, {"chars"});
  const std::string text = soft_text(runtime, value);
  if (!parameters.is_given(0)) return runtime.text(std::string(strip(text, Side::both)));
  return runtime.text(std::string(strip(text, Side::both, parameters.text(0))));
}

Value replace(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("replace", arguments, {"old", "new", "count"}, 2);
  const Value text = runtime.text(soft_text(runtime, value));
  Arguments plain{.positional = {runtime.text(soft_text(runtime, *parameters[0])),
                                 runtime.text(soft_text(runtime, *parameters[1]))}};
  if (parameters.is_given(2)) plain.positional.push_back(*parameters[2]);
  return call(runtime, *find_method(runtime, text, "replace"), plain);
}

Value join(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("join", arguments, {"d", "attribute"});
  const AttributeGetter attribute(parameters.is_given(1) ? parameters[1] : nullptr);
  const std::string separator = parameters[0] ? soft_text(runtime, *parameters[0]) : "";
  TextBuilder out(runtime);
  bool first = true;
  for (const Value& item : iterate(runtime, value)) {
    if (!first) out.add(separator);
    first = false;
    out.add(to_text(runtime, attribute(runtime, item)));
  }
  return runtime.text(out.take());
}

Value indent(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("indent", arguments, {"width", "first", "blank"});
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
  if (!value.text()) fail("indent needs a text, not '{}'", type_name(value));
  std::string indention;
  if (parameters[0] && parameters[0]->text()) {
    indention = *parameters[0]->text();
  } else {
    const int64_t width = std::max<int64_t>(parameters.integer(0, 4), 0);
    runtime.require_size(static_cast<size_t>(width));
    indention.assign(static_cast<size_t>(width), ' ');
  }
  TextBuilder out(runtime);
  const std::vector<std::string> lines = split_lines(*value.text() + "\n");
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.add("\n");
    if (i == 0 ? parameters.flag(1) : parameters.flag(2) || !lines[i].empty()) out.add(indention);
    out.add(lines[i]);
  }
  return runtime.text(out.take());
}

Value center(Runtime& runtime, const Value& value, Arguments& arguments) {
  Arguments plain{.positional = {Value(Parameters("center", arguments, {"width"}).integer(0, 80))}};
  const Value text = runtime.text(soft_text(runtime, value));
  return call(runtime, *find_method(runtime, text, "center"), plain);
}

Value truncate(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("truncate", arguments, {"length", "killwords", "end", "leeway"});
  if (!value.text()) fail("truncate needs a text, not '{}'", type_name(value));
  const std::u32string text = decode(*value.text()), end = decode(parameters.text(2, "..."));
  const int64_t limit = parameters.integer(0, 255),
                leeway = parameters.is_given(3) ? parameters.integer(3, 5) : 5;
  const auto end_size = static_cast<int64_t>(end.size());
  if (limit < end_size || leeway < 0) fail("truncate to {} characters with a leeway of {}", limit, leeway);
  if (static_cast<int64_t>(text.size()) - leeway <= limit) return value;
  std::u32string kept = text.substr(0, static_cast<size_t>(limit - end_size));
  if (!parameters.flag(1)) kept = kept.substr(0, kept.rfind(U' '));
  return runtime.text(encode(kept + end));
}

Value word_count(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("wordcount", arguments, {});
  const std::string text = soft_text(runtime, value);
  int64_t count = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_char(text, i);
    const bool is_word = c == '_' || consists_of(encode({&c, 1}), Has::letters_or_digits);
    count += is_word && !in_word;
    in_word = is_word;
  }
  return Value(count);
}

Value to_integer(Runtime&, const Value& value, Arguments& arguments) {
  const Parameters parameters("int", arguments, {"default", "base"});
  const Value fallback = parameters[0] ? *parameters[0] : Value(int64_t{0});
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
  if (const auto integer = integer_of(value)) return Value(*integer);
  std::optional<double> number;
  if (const auto* text = value.text()) {
    if (const auto integer = parse_integer(*text, parameters.integer(1, 10))) return Value(*integer);
    number = parse_float(*text);
    if (!number || !std::isfinite(*number)) return fallback;
  } else {
    number = number_of(value);
    if (!number || std::isnan(*number)) return fallback;
    if (std::isinf(*number)) fail("an infinite number has no integer");
  }
  if (std::abs(*number) >= 9.2e18) fail("a number needs more than 64 bits");
  return Value(static_cast<int64_t>(*number));
}

Value to_float(Runtime&, const Value& value, Arguments& arguments) {
  const Parameters parameters("float", arguments, {"default"});
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
  const auto number = value.text() ? parse_float(*value.text()) : number_of(value);
  if (number) return Value(*number);
  return parameters[0] ? *parameters[0] : Value(0.0);
}

Value absolute(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("abs", arguments, {});
  if (is_float(value)) return Value(std::abs(*value.as<double>()));
  const auto integer = integer_of(value);
  if (!integer) fail("abs needs a number, not '{}'", type_name(value));
  return *integer < 0 ? negative(runtime, value) : Value(*integer);
}

/// Python's round() goes by the decimal digits, as printf does.
double round_common(double number, int64_t precision) {
  if (!std::isfinite(number) || precision > 300) return number;
  if (precision < 0) {
    if (precision < -300) return std::copysign(0.0, number);
    const double unit = std::pow(10.0, static_cast<double>(-precision));
    return std::nearbyint(number / unit) * unit;
  }
  return std::strtod(visq::format("{:.{}f}", number, static_cast<int>(precision)).c_str(), nullptr);
}

/// An integer stays one; digits before the point are rounded half to even.
Value round_integer(int64_t number, int64_t precision) {
  if (precision >= 0) return Value(number);
  if (precision < -18) return Value(int64_t{0});
  int64_t unit = 1;
  for (int64_t i = precision; i < 0; ++i) unit *= 10;
  const int64_t rest = ((number % unit) + unit) % unit, below = number - rest;
  const bool up = rest > unit - rest || (rest == unit - rest && below / unit % 2 != 0);
  if (up && below > std::numeric_limits<int64_t>::max() - unit) fail("a number needs more than 64 bits");
  return Value(below + (up ? unit : 0));
}

Value round_number(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("round", arguments, {"precision", "method"});
  const int64_t precision = parameters.integer(0, 0);
  const std::string method = parameters.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor") fail("round has no method '{}'", method);
  if (const auto* undefined = value.as<Undefined>()) fail("{}", *undefined->hint);
  if (!number_of(value)) fail("round needs a number, not '{}'", type_name(value));
  if (method == "common")
    return is_float(value) ? Value(round_common(*value.as<double>(), precision))
                           : round_integer(*integer_of(value), precision);
  const Value unit = binary(runtime, "**", Value(int64_t{10}), Value(precision));
  const double scaled = *number_of(binary(runtime, "*", value, unit));
  if (!std::isfinite(scaled)) fail("an infinite number cannot be rounded");
  return binary(runtime, "/", Value(method == "ceil" ? std::ceil(scaled) : std::floor(scaled)), unit);
}

Value to_string(Runtime& runtime, const Value& value, Arguments& arguments) {
  Parameters("string", arguments, {});
  return value.text() ? value : runtime.text(soft_text(runtime, value));
}

Value default_value(Runtime& runtime, const Value& value, Arguments& arguments) {
  const Parameters parameters("default", arguments, {"default_value", "boolean"});
  if (!value.is_undefined() && !(parameters.flag(1) && !is_true(value))) return value;
  return parameters[0] ? *parameters[0] : runtime.text("");
}

Value format_text(Runtime& runtime, const Value& value, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keywords.empty())
    fail("format takes arguments with names or without, not both");
  if (arguments.keywords.empty())
    return percent_format(runtime, soft_text(runtime, value), runtime.tuple(arguments.positional));
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [name, each] : arguments.keywords) entries.emplace_back(runtime.text(name), each);
  return percent_format(runtime, soft_text(runtime, value), runtime.dict(std::move(entries)));
}

Value json(Runtime& runtime, const Value& value, Arguments& arguments) {
  return to_json(runtime, value, arguments);
}

const Filter* find_filter(std::string_view name) {
  for (const Filters* filters : {&text_filters(), &sequence_filters()})
    if (const auto it = filters->find(name); it != filters->end()) return &it->second;
  return nullptr;
}

}  // namespace

const Filters& text_filters() {
  static const Filters filters{
      {"abs", absolute},
      {"capitalize", changed_text<capitalize>},
      {"center", center},
      {"d", default_value},
      {"default", default_value},
      {"float", to_float},
      {"format", format_text},
      {"indent", indent},
      {"int", to_integer},
      {"join", join},
      {"lower", changed_text<lower>},
      {"replace", replace},
      {"round", round_number},
      {"safe", to_string},  // marks text for HTML; nothing is escaped here
      {"string", to_string},
      {"title", changed_text<title_words>},
      {"tojson", json},
      {"trim", trim},
      {"truncate", truncate},
      {"upper", changed_text<upper>},
      {"wordcount", word_count},
  };
  return filters;
}

bool is_filter(std::string_view name) { return find_filter(name) != nullptr; }

Value apply_filter(Runtime& runtime, const std::string& name, const Value& value, Arguments& arguments) {
  const Filter* filter = find_filter(name);
  if (!filter) fail("filter '{}' is not supported", name);
  runtime.spend();
  return (*filter)(runtime, value, arguments);
}

}  // namespace visq::jinja

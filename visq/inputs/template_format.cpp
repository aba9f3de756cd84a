#include <algorithm>
#include <cmath>

#include "visq/inputs/template_runtime.h"
#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

/// [[fill]align][sign][#][0][width][grouping][.precision][type], as both styles of formatting share it.
struct Spec {
  std::string fill = " ";
  char align = '\0';
  char sign = '-';
  bool alternate = false, zero = false;
  int64_t width = 0, precision = -1;
  char grouping = '\0';
  char type = '\0';
};

/// Bounds what one field may grow to.
int64_t parse_number(std::string_view text, size_t& position) {
  int64_t number = 0;
  for (; position < text.size() && text[position] >= '0' && text[position] <= '9'; ++position) {
    number = number * 10 + (text[position] - '0');
    if (number > static_cast<int64_t>(kMaxTextBytes)) fail("a format asks for {} characters or more", number);
  }
  return number;
}

bool is_align(char c) { return c == '<' || c == '>' || c == '^' || c == '='; }

Spec parse_spec(const std::string& text) {
  Spec spec;
  size_t i = 0, first = 0;
  if (!text.empty()) next_char(text, first);
  if (first < text.size() && is_align(text[first])) {
    spec.fill = text.substr(0, first);
    spec.align = text[first];
    i = first + 1;
  } else if (!text.empty() && is_align(text[0])) {
    spec.align = text[i++];
  }
  const auto at = [&](std::string_view set) { return i < text.size() && set.find(text[i]) != set.npos; };
  if (at("+- ")) spec.sign = text[i++];
  if (at("#")) spec.alternate = text[i++] == '#';
  if (at("0")) spec.zero = text[i++] == '0';
  spec.width = parse_number(text, i);
  if (at(",_")) spec.grouping = text[i++];
  if (at(".")) {
    const size_t start = ++i;
    spec.precision = parse_number(text, i);
    if (i == start) fail("the format '{}' lacks its precision", text);
  }
  if (i < text.size()) spec.type = text[i++];
  if (i < text.size()) fail("the format '{}' is malformed", text);
  return spec;
}

std::string pad(Runtime& runtime, const std::string& sign, const std::string& body, const Spec& spec,
                char fallback) {
  const char align = spec.align ? spec.align : fallback;
  const auto size = static_cast<int64_t>(count_characters(sign) + count_characters(body));
  const int64_t missing = std::max<int64_t>(spec.width - size, 0);
  const int64_t left = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
  TextBuilder out(runtime);
  if (align == '=') out.add(sign);
  out.add(static_cast<size_t>(left), spec.fill);
  if (align != '=') out.add(sign);
  out.add(body);
  out.add(static_cast<size_t>(missing - left), spec.fill);
  return out.take();
}

std::string group(std::string digits, char separator, size_t size) {
  if (!separator) return digits;
  const size_t end = std::min(digits.find_first_not_of("0123456789abcdefABCDEF"), digits.size());
  for (size_t i = end; i > size; i -= size) digits.insert(i - size, 1, separator);
  return digits;
}

std::string digits_of(uint64_t magnitude, char type) {
  switch (type) {
    case 'x':
      return visq::format("{:x}", magnitude);
    case 'X':
      return visq::format("{:X}", magnitude);
    case 'o':
      return visq::format("{:o}", magnitude);
    case 'b':
      return visq::format("{:b}", magnitude);
    default:
      return std::to_string(magnitude);
  }
}

/// Digits of a number without its sign, of the types e, f, g, %.
std::string float_digits(double magnitude, const Spec& spec) {
  const int precision = static_cast<int>(std::min<int64_t>(spec.precision < 0 ? 6 : spec.precision, 100000));
  const bool is_upper_type = spec.type == 'E' || spec.type == 'F' || spec.type == 'G';
  if (!std::isfinite(magnitude)) {
    const std::string name = std::isnan(magnitude) ? "nan" : "inf";
    return (is_upper_type ? upper(name) : name) + (spec.type == '%' ? "%" : "");
  }
  switch (spec.type) {
    case 'e':
      return visq::format("{:.{}e}", magnitude, precision);
    case 'E':
      return visq::format("{:.{}E}", magnitude, precision);
    case 'g':
      return visq::format("{:.{}g}", magnitude, precision);
    case 'G':
      return visq::format("{:.{}G}", magnitude, precision);
    case '%':
      return visq::format("{:.{}f}%", magnitude * 100, precision);
    default:
      return visq::format("{:.{}f}", magnitude, precision);
  }
}

/// Without a type, a precision counts digits as `g` does, but an integral number keeps its ".0".
std::string untyped_float(double magnitude, const Spec& spec) {
  if (spec.precision < 0 || !std::isfinite(magnitude)) return show_float(magnitude);
  const int precision = static_cast<int>(std::clamp<int64_t>(spec.precision, 1, 100000));
  std::string text = visq::format("{:.{}g}", magnitude, precision);
  if (text.find_first_of(".e") == text.npos) {
    if (static_cast<int>(text.size()) < precision) return text + ".0";
    if (static_cast<int>(text.size()) == precision)
      return visq::format("{:.{}e}", magnitude, std::max(precision - 1, 0));
  }
  return text;
}

std::string sign_of(bool negative, char sign) {
  if (negative) return "-";
  return sign == '-' ? "" : std::string(1, sign);
}

std::string format_number(Runtime& runtime, const Value& value, Spec spec) {
  if (spec.zero && !spec.align) {
    spec.align = '=';
    spec.fill = "0";
    if (spec.grouping && spec.width > 0)
      fail("a format that fills with zeros between separators is not supported");
  }
  const auto integer = integer_of(value);
  static constexpr std::string_view kFloats = "eEfFgG%", kIntegers = "dnxXob";
  const bool as_float = is_float(value) || (spec.type && kFloats.find(spec.type) != kFloats.npos);
  if (!as_float) {
    if (spec.type && kIntegers.find(spec.type) == kIntegers.npos)
      fail("integers have no format '{}'", spec.type);
    if (spec.precision >= 0) fail("integers have no precision");
    const bool negative = *integer < 0;
    const uint64_t magnitude =
        negative ? 0 - static_cast<uint64_t>(*integer) : static_cast<uint64_t>(*integer);
    const bool is_decimal = !spec.type || spec.type == 'd' || spec.type == 'n';
    if (!is_decimal && spec.grouping == ',') fail("',' groups decimal digits only");
    std::string sign = sign_of(negative, spec.sign);
    if (spec.alternate && !is_decimal) sign += std::string("0") + spec.type;
    return pad(runtime, sign, group(digits_of(magnitude, spec.type), spec.grouping, is_decimal ? 3 : 4), spec,
               '>');
  }
  if (spec.alternate) fail("the format '#' of floating-point numbers is not supported");
  if (spec.type && kFloats.find(spec.type) == kFloats.npos && spec.type != 'n')
    fail("floating-point numbers have no format '{}'", spec.type);
  const double number = *number_of(value);
  const bool negative = std::signbit(number) && !std::isnan(number);
  const double magnitude = std::abs(number);
  if (spec.type == 'n') spec.type = 'g';
  const std::string digits = spec.type ? float_digits(magnitude, spec) : untyped_float(magnitude, spec);
  return pad(runtime, sign_of(negative, spec.sign), group(digits, spec.grouping, 3), spec, '>');
}

std::string format_text(Runtime& runtime, const std::string& text, Spec spec) {
  if (spec.type && spec.type != 's') fail("texts have no format '{}'", spec.type);
  if (spec.sign != '-' || spec.alternate || spec.grouping || spec.align == '=')
    fail("texts have no sign, grouping or alternate format");
  if (spec.zero && !spec.align) spec.fill = "0";
  std::u32string characters = decode(text);
  if (spec.precision >= 0 && static_cast<size_t>(spec.precision) < characters.size())
    characters.resize(static_cast<size_t>(spec.precision));
  return pad(runtime, "", encode(characters), spec, '<');
}

/// text.format(...): replacement fields, which may name arguments, attributes, items, conversions and
/// formats.
class BraceFormatter {
 public:
  BraceFormatter(Runtime& runtime, const Arguments& arguments) : runtime_(runtime), arguments_(arguments) {}

  std::string run(std::string_view text, int depth = 0) {
    if (depth > 2) fail("replacement fields nest too deep");
    TextBuilder out(runtime_);
    for (size_t i = 0; i < text.size();) {
      const char c = text[i];
      const bool doubled = i + 1 < text.size() && text[i + 1] == c;
      if ((c == '{' || c == '}') && doubled) {
        out.add(std::string_view(&text[i], 1));
        i += 2;
      } else if (c == '{') {
        const size_t end = field_end(text, i + 1);
        out.add(field(text.substr(i + 1, end - i - 1), depth));
        i = end + 1;
      } else if (c == '}') {
        fail("single '}}' in a format");
      } else {
        const size_t end = std::min(text.find_first_of("{}", i), text.size());
        out.add(text.substr(i, end - i));
        i = end;
      }
    }
    return out.take();
  }

 private:
  static size_t field_end(std::string_view text, size_t start) {
    int open = 1;
    for (size_t i = start; i < text.size(); ++i) {
      open += text[i] == '{' ? 1 : text[i] == '}' ? -1 : 0;
      if (open == 0) return i;
    }
    fail("a replacement field has no end");
  }

  std::string field(std::string_view text, int depth) {
    size_t end = 0;
    for (int open = 0; end < text.size() && (open > 0 || (text[end] != '!' && text[end] != ':')); ++end)
      open += text[end] == '[' ? 1 : text[end] == ']' ? -1 : 0;
    Value value = lookup(text.substr(0, end));
    text.remove_prefix(end);
    if (text.starts_with('!')) {
      const bool known = text.size() > 1 && (text[1] == 's' || text[1] == 'r');
      if (!known || (text.size() > 2 && text[2] != ':')) fail("a conversion in a format is '!s' or '!r'");
      value = runtime_.text(text[1] == 'r' ? to_repr(runtime_, value) : to_text(runtime_, value));
      text.remove_prefix(2);
    }
    const std::string spec = text.empty() ? "" : run(text.substr(1), depth + 1);
    return format_value(runtime_, value, spec);
  }

  Value lookup(std::string_view name) {
    const size_t end = std::min(name.find_first_of(".["), name.size());
    Value value = argument(std::string(name.substr(0, end)));
    name.remove_prefix(end);
    while (!name.empty()) {
      if (name[0] == '.') {
        const size_t next = std::min(name.find_first_of(".[", 1), name.size());
        value = get_attribute(runtime_, value, std::string(name.substr(1, next - 1)));
        name.remove_prefix(next);
      } else {
        const size_t next = name.find(']');
        if (name[0] != '[' || next == name.npos) fail("a replacement field is malformed");
        value = get_item(runtime_, value, key(std::string(name.substr(1, next - 1))));
        name.remove_prefix(next + 1);
      }
    }
    return value;
  }

  Value key(const std::string& text) {
    const auto index = consists_of(text, Has::digits) ? parse_integer(text, 10) : std::nullopt;
    return index ? Value(*index) : runtime_.text(text);
  }

  Value argument(const std::string& name) {
    const bool is_number = consists_of(name, Has::digits);
    if (name.empty() || is_number) {
      if (numbered_ && *numbered_ != is_number) fail("a format numbers its fields, or none");
      numbered_ = is_number;
      const size_t index = is_number ? static_cast<size_t>(*parse_integer(name, 10)) : next_++;
      if (index >= arguments_.positional.size()) fail("a format has no argument {}", index);
      return arguments_.positional[index];
    }
    for (const auto& [known, value] : arguments_.keywords)
      if (known == name) return value;
    fail("a format has no argument '{}'", name);
  }

  Runtime& runtime_;
  const Arguments& arguments_;
  size_t next_ = 0;
  std::optional<bool> numbered_;
};

/// text % value: printf's conversions.
class PercentFormatter {
 public:
  PercentFormatter(Runtime& runtime, const Value& value) : runtime_(runtime), value_(value), out_(runtime) {
    const auto* sequence = value.sequence();
    using Flavor = Sequence::Flavor;
    const bool is_tuple =
        sequence && (sequence->flavor == Flavor::tuple || sequence->flavor == Flavor::group);
    items_ = is_tuple ? sequence->items : std::vector<Value>{value};
    // Anything that could be a mapping may stay unused.
    must_use_all_ = is_tuple || !(value.dict() || sequence);
  }

  std::string run(const std::string& text) {
    for (size_t i = 0; i < text.size();) {
      const size_t next = std::min(text.find('%', i), text.size());
      out_.add(std::string_view(text).substr(i, next - i));
      i = next == text.size() ? next : conversion(text, next + 1);
    }
    if (must_use_all_ && used_ < items_.size())
      fail("a format leaves {} arguments unused", items_.size() - used_);
    return out_.take();
  }

 private:
  const Value& next() {
    if (used_ == items_.size()) fail("a format lacks arguments");
    return items_[used_++];
  }

  /// Converts one value. Returns where the text goes on.
  size_t conversion(const std::string& text, size_t i) {
    std::optional<Value> named;
    if (i < text.size() && text[i] == '(') {
      const size_t end = text.find(')', i);
      if (end == text.npos || !value_.dict()) fail("a format that names its arguments needs a dictionary");
      const std::string name = text.substr(i + 1, end - i - 1);
      const Value* value = find(runtime_, *value_.dict(), runtime_.text(name));
      if (!value) fail("a format has no argument '{}'", name);
      named = *value;
      i = end + 1;
    }
    Spec spec{.align = '>'};
    bool left = false;
    for (; i < text.size() && std::string_view("-+ #0").find(text[i]) != std::string_view::npos; ++i) {
      left |= text[i] == '-';
      spec.alternate |= text[i] == '#';
      spec.zero |= text[i] == '0';
      if (text[i] == '+' || (text[i] == ' ' && spec.sign == '-')) spec.sign = text[i];
    }
    spec.width = size(text, i, left);
    if (i < text.size() && text[i] == '.') {
      bool ignored = false;
      spec.precision = std::max<int64_t>(size(text, ++i, ignored), 0);
    }
    while (i < text.size() && std::string_view("hlL").find(text[i]) != std::string_view::npos) ++i;
    if (i == text.size()) fail("a format is incomplete");
    spec.type = text[i];
    if (spec.type == '%') {
      out_.add("%");
      return i + 1;
    }
    if (left) spec.align = '<';
    convert(named ? *named : next(), spec, left);
    return i + 1;
  }

  int64_t size(const std::string& text, size_t& i, bool& left) {
    if (i >= text.size() || text[i] != '*') return parse_number(text, i);
    ++i;
    const auto number = integer_of(next());
    if (!number || *number > static_cast<int64_t>(kMaxTextBytes) ||
        *number < -static_cast<int64_t>(kMaxTextBytes))
      fail("the width '*' of a format is out of range");
    left |= *number < 0;
    return *number < 0 ? -*number : *number;
  }

  void convert(const Value& value, Spec spec, bool left) {
    const bool is_decimal = spec.type == 'd' || spec.type == 'i' || spec.type == 'u';
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      if (spec.type == 'a') fail("the format '%a' is not supported");
      const std::string shown = spec.type == 's' ? to_text(runtime_, value) : to_repr(runtime_, value);
      spec.type = 's';
      spec.sign = '-';
      spec.alternate = spec.zero = false;
      return out_.add(format_text(runtime_, shown, spec));
    }
    if (spec.type == 'c') return character(value, spec);
    if (!number_of(value)) fail("the format '%{}' needs a number, not '{}'", spec.type, type_name(value));
    if (!left && spec.zero) spec.align = '\0';
    if (left) spec.zero = false;
    if (is_decimal || spec.type == 'x' || spec.type == 'X' || spec.type == 'o') {
      if (is_float(value) && !is_decimal) fail("the format '%{}' needs an integer", spec.type);
      if (is_float(value) && std::abs(*number_of(value)) >= 9.2e18) fail("a number needs more than 64 bits");
      if (spec.precision >= 0) fail("the precision of integers in a format is not supported");
      if (is_decimal) spec.type = 'd';
      const auto integer = is_float(value) ? static_cast<int64_t>(*value.as<double>()) : *integer_of(value);
      return out_.add(format_number(runtime_, Value(integer), spec));
    }
    if (std::string_view("eEfFgG").find(spec.type) == std::string_view::npos)
      fail("a format has the unknown conversion '%{}'", spec.type);
    out_.add(format_number(runtime_, value, spec));
  }

  void character(const Value& value, Spec spec) {
    std::string shown;
    if (const auto code = integer_of(value)) {
      if (*code < 0 || *code > kMaxCodePoint || (*code >= 0xD800 && *code < 0xE000))
        fail("the format '%c' needs a character");
      append_utf8(shown, static_cast<char32_t>(*code));
    } else if (value.text() && count_characters(*value.text()) == 1) {
      shown = *value.text();
    } else {
      fail("the format '%c' needs a character");
    }
    out_.add(format_text(runtime_, shown, {.align = spec.align, .width = spec.width}));
  }

  Runtime& runtime_;
  const Value value_;
  TextBuilder out_;
  std::vector<Value> items_;
  size_t used_ = 0;
  bool must_use_all_ = true;
};

}  // namespace

std::string format_value(Runtime& runtime, const Value& value, const std::string& spec) {
  if (value.as<bool>() && spec.empty()) return to_text(runtime, value);
  if (number_of(value)) return format_number(runtime, value, parse_spec(spec));
  if (const auto* text = value.text()) return format_text(runtime, *text, parse_spec(spec));
  if (!spec.empty()) fail("values of type '{}' have no formats", type_name(value));
  return to_text(runtime, value);
}

Value brace_format(Runtime& runtime, const std::string& text, const Arguments& arguments) {
  return runtime.text(BraceFormatter(runtime, arguments).run(text));
}

Value percent_format(Runtime& runtime, const std::string& text, const Value& value) {
  return runtime.text(PercentFormatter(runtime, value).run(text));
}

}  // namespace visq::jinja

#include "visq/inputs/template_text.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

/// Whether a line ends at the character; Python knows more ends than the newline.
bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

std::vector<std::string> split_spaces(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = strip(text, Side::left);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(strip(text, Side::right));
      break;
    }
    size_t end = 0, next = 0;
    while (end < text.size() && !is_space(next_char(text, next))) end = next;
    parts.emplace_back(text.substr(0, end));
    text = strip(text.substr(end), Side::left);
  }
  return parts;
}

std::vector<std::string> split_spaces_right(std::string_view text, int64_t limit) {
  std::vector<std::string> parts;
  text = strip(text, Side::right);
  while (!text.empty()) {
    if (limit >= 0 && static_cast<int64_t>(parts.size()) == limit) {
      parts.emplace_back(strip(text, Side::left));
      break;
    }
    size_t start = text.size(), before = start;
    while (before > 0 && !is_space(previous_char(text, before))) start = before;
    parts.emplace_back(text.substr(start));
    text = strip(text.substr(0, start), Side::right);
  }
  std::ranges::reverse(parts);
  return parts;
}

std::string without_underscores(std::string_view text, bool& valid) {
  std::string digits;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto is_alphanumeric = [&](size_t at) { return at < text.size() && std::isalnum(text[at]) != 0; };
    if (text[i] != '_') {
      digits += text[i];
    } else if (i == 0 || !is_alphanumeric(i - 1) || !is_alphanumeric(i + 1)) {
      valid = false;
    }
  }
  return digits;
}

}  // namespace

std::u32string decode(std::string_view text) {
  std::u32string characters;
  for (size_t i = 0; i < text.size();) characters += next_char(text, i);
  return characters;
}

std::string encode(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) append_utf8(out, c);
  return out;
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

bool is_space(char32_t c) { return (c >= 0x1C && c <= 0x1F) || is_in(CharClass::space, c); }

std::string_view strip(std::string_view text, Side side, std::optional<std::string_view> characters) {
  const std::u32string set = decode(characters.value_or(""));
  const auto goes = [&](char32_t c) { return characters ? set.find(c) != set.npos : is_space(c); };
  size_t start = 0, end = text.size();
  if (side != Side::right)
    for (size_t next = 0; start < end && goes(next_char(text, next));) start = next;
  if (side != Side::left)
    for (size_t next = end; end > start && goes(previous_char(text, next));) end = next;
  return text.substr(start, end - start);
}

std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit) {
  if (!separator) return split_spaces(text, limit);
  std::vector<std::string> parts;
  size_t start = 0;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t end = text.find(*separator, start);
    if (end == text.npos) break;
    parts.emplace_back(text.substr(start, end - start));
    start = end + separator->size();
  }
  parts.emplace_back(text.substr(start));
  return parts;
}

std::vector<std::string> split_right(std::string_view text, std::optional<std::string_view> separator,
                                     int64_t limit) {
  if (!separator) return split_spaces_right(text, limit);
  std::vector<std::string> parts;
  while (limit < 0 || static_cast<int64_t>(parts.size()) < limit) {
    const size_t start = text.rfind(*separator);
    if (start == text.npos) break;
    parts.emplace_back(text.substr(start + separator->size()));
    text = text.substr(0, start);
  }
  parts.emplace_back(text);
  std::ranges::reverse(parts);
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  for (size_t start = 0, next = 0; next < text.size();) {
    const size_t end = next;
    const char32_t c = next_char(text, next);
    const bool ends = is_line_end(c);
    if (c == '\r' && next < text.size() && text[next] == '\n') ++next;
    if (ends) {
      lines.emplace_back(text.substr(start, (keep_ends ? next : end) - start));
      start = next;
    } else if (next == text.size()) {
      lines.emplace_back(text.substr(start));
    }
  }
  return lines;
}

std::string quote(std::string_view text) {
  const bool has_single = text.find('\'') != text.npos;
  const char mark = has_single && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, mark);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_char(text, i);
    if (c == '\n' || c == '\r' || c == '\t') {
      out += c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t";
    } else if (c == '\\' || c == static_cast<char32_t>(mark)) {
      out += '\\';
      out += static_cast<char>(c);
    } else if (is_printable(c)) {
      append_utf8(out, c);
    } else {
      const auto code = static_cast<uint32_t>(c);
      out += code < 0x100     ? visq::format("\\x{:02x}", code)
             : code < 0x10000 ? visq::format("\\u{:04x}", code)
                              : visq::format("\\U{:08x}", code);
    }
  }
  return out += mark;
}

std::string show_float(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  char buffer[40];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), number, std::chars_format::scientific).ptr;
  const std::string_view shown(buffer, static_cast<size_t>(end - buffer));
  const size_t mark = shown.find('e');
  int exponent = 0;
  const size_t sign = shown[mark + 1] == '+' ? 1 : 0;  // which from_chars does not take
  std::from_chars(shown.data() + mark + 1 + sign, end, exponent);
  // Python writes an exponent below 1e-4 and from 1e16 on; the shortest digits are the same.
  if (exponent < -4 || exponent >= 16) return std::string(shown);
  const int digits =
      static_cast<int>(mark) - (number < 0 || shown[0] == '-') - (shown.find('.') != shown.npos);
  return visq::format("{:.{}f}", number, std::max(digits - 1 - exponent, 1));
}

std::optional<int64_t> parse_integer(std::string_view text, int64_t base) {
  text = strip(text, Side::both);
  const bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  const char prefix = text.size() > 1 && text[0] == '0' ? static_cast<char>(text[1] | 0x20) : '\0';
  const int64_t named = prefix == 'x' ? 16 : prefix == 'o' ? 8 : prefix == 'b' ? 2 : 0;
  if (named != 0 && (base == 0 || base == named)) {
    text.remove_prefix(2);
    if (text.starts_with('_')) text.remove_prefix(1);
  } else if (base == 0 && text.starts_with('0') && text.find_first_not_of("0_") != text.npos) {
    return {};
  }
  if (base != 0 && (base < 2 || base > 36)) return {};
  bool valid = true;
  const std::string digits = without_underscores(text, valid);
  uint64_t value = 0;
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value,
                                      static_cast<int>(base != 0    ? base
                                                       : named != 0 ? named
                                                                    : 10));
  if (!valid || digits.empty() || result.ptr != digits.data() + digits.size()) return {};
  if (result.ec != std::errc() || value > static_cast<uint64_t>(INT64_MAX))
    fail("the number {} needs more than 64 bits", digits.substr(0, 40));
  return negative ? -static_cast<int64_t>(value) : static_cast<int64_t>(value);
}

std::optional<double> parse_float(std::string_view text) {
  text = strip(text, Side::both);
  if (text.empty()) return {};
  bool valid = true;
  std::string digits = without_underscores(text, valid);
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) digits.erase(0, 1);
  double value = 0;
  // from_chars also takes "nan(...)", which Python does not.
  if (!valid || digits.empty() || digits[0] == '-' || digits.find('(') != digits.npos) return {};
  const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (result.ptr != digits.data() + digits.size() || result.ec == std::errc::invalid_argument) return {};
  if (result.ec == std::errc::result_out_of_range) value = std::strtod(digits.c_str(), nullptr);
  return negative ? -value : value;
}

}  // namespace visq::jinja

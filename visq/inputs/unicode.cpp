#include "visq/inputs/unicode.h"

#include <algorithm>

namespace visq {
namespace {

#include "visq/inputs/unicode_tables.inc"

bool is_continuation(char byte) { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }

/// Length of the well-formed character at `position`; 0 when there is none, and then `bad` is how many bytes
/// form one malformed part.
size_t well_formed_length(std::string_view text, size_t position, size_t& bad) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[position + i]); };
  const unsigned char lead = byte(0);
  bad = 1;
  if (lead < 0x80) return 1;
  if (lead < 0xC2 || lead > 0xF4) return 0;
  const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const unsigned char low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const unsigned char high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  for (size_t i = 1; i < length; ++i) {
    if (position + i == text.size()) return 0;
    const bool good = i == 1 ? byte(1) >= low && byte(1) <= high : is_continuation(text[position + i]);
    if (!good) return 0;
    bad = i + 1;
  }
  return length;
}

}  // namespace

std::span<const CodeRange> ranges_of(CharClass char_class) {
  switch (char_class) {
    case CharClass::letter:
      return kLetters;
    case CharClass::uppercase:
      return kUppercase;
    case CharClass::lowercase:
      return kLowercase;
    case CharClass::titlecase:
      return kTitlecase;
    case CharClass::modifier_letter:
      return kModifierLetters;
    case CharClass::other_letter:
      return kOtherLetters;
    case CharClass::mark:
      return kMarks;
    case CharClass::number:
      return kNumbers;
    case CharClass::punctuation:
      return kPunctuation;
    case CharClass::symbol:
      return kSymbols;
    case CharClass::decimal_digit:
      return kDecimalDigits;
    case CharClass::numeric:
      return kNumeric;
    case CharClass::space:
      return kSpaces;
    case CharClass::word:
      return kWordCharacters;
  }
  return {};
}

bool is_in(CharClass char_class, char32_t c) {
  const auto ranges = ranges_of(char_class);
  const auto it = std::lower_bound(ranges.begin(), ranges.end(), c,
                                   [](const CodeRange& range, char32_t value) { return range.last < value; });
  return it != ranges.end() && it->first <= c;
}

std::string to_valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    size_t bad = 0;
    if (const size_t length = well_formed_length(text, i, bad); length > 0) {
      out.append(text.substr(i, length));
      i += length;
    } else {
      out += "\uFFFD";
      i += bad;
    }
  }
  return out;
}

char32_t next_char(std::string_view text, size_t& position) {
  const auto lead = static_cast<unsigned char>(text[position++]);
  if (lead < 0x80) return lead;
  char32_t c = lead < 0xE0 ? lead & 0x1Fu : lead < 0xF0 ? lead & 0x0Fu : lead & 0x07u;
  while (position < text.size() && is_continuation(text[position])) c = c << 6 | (text[position++] & 0x3Fu);
  return c;
}

char32_t previous_char(std::string_view text, size_t& position) {
  do --position;
  while (position > 0 && is_continuation(text[position]));
  size_t copy = position;
  return next_char(text, copy);
}

size_t skip_space_back(std::string_view text, size_t position) {
  while (position > 0) {
    size_t before = position;
    if (!is_in(CharClass::space, previous_char(text, before))) break;
    position = before;
  }
  return position;
}

size_t skip_space(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t behind = position;
    if (!is_in(CharClass::space, next_char(text, behind))) break;
    position = behind;
  }
  return position;
}

void append_utf8(std::string& out, char32_t c) {
  const int tails = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
  constexpr unsigned lead_marks[] = {0x00, 0xC0, 0xE0, 0xF0};
  out.push_back(static_cast<char>(lead_marks[tails] | c >> (6 * tails)));
  for (int i = tails - 1; i >= 0; --i) out.push_back(static_cast<char>(0x80 | (c >> (6 * i) & 0x3F)));
}

}  // namespace visq

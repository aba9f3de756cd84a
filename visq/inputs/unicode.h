// Internal to visq/inputs: UTF-8 and the character classes of the reference tokenizers (Unicode 16).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace visq {

/// First and last code point of a run.
struct CodeRange {
  char32_t first, last;
};

enum class CharClass {
  letter,
  uppercase,
  lowercase,
  titlecase,
  modifier_letter,
  other_letter,
  mark,
  number,
  punctuation,
  symbol,
  decimal_digit,
  numeric,  ///< what the Digits pre-tokenizer cuts at: `number` of a later Unicode version
  space,
  word
};

inline constexpr char32_t kMaxCodePoint = 0x10FFFF;

/// Sorted and disjoint.
std::span<const CodeRange> ranges_of(CharClass);
bool is_in(CharClass, char32_t);

/// Replaces each maximal malformed part by U+FFFD, as Python's errors="replace".
std::string to_valid_utf8(std::string_view text);

/// The character at `position`, which moves behind it. Requires valid UTF-8 and position < text.size().
char32_t next_char(std::string_view text, size_t& position);
/// The character before `position`, which moves to its first byte. Requires valid UTF-8 and position > 0.
char32_t previous_char(std::string_view text, size_t& position);

/// First byte of the whitespace that ends at `position`. Requires valid UTF-8.
size_t skip_space_back(std::string_view text, size_t position);
/// One past the whitespace that begins at `position`. Requires valid UTF-8.
size_t skip_space(std::string_view text, size_t position);

void append_utf8(std::string& out, char32_t c);

/// Every character by itself: no final sigma, and U+0130 becomes two characters. Requires valid UTF-8.
std::string to_lower(std::string_view text);

/// Canonical composition with the data of the reference's normalizer (Unicode 9 marks). Requires valid UTF-8.
/// Source: spec/inputs.md §3.5.
std::string to_nfc(std::string_view text);

}  // namespace visq

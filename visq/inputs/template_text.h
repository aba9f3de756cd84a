// Internal to the chat template: Python's str operations on UTF-8.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace visq::jinja {

std::u32string decode(std::string_view text);
std::string encode(std::u32string_view text);
size_t count_characters(std::string_view text);

/// str.isspace() of one character: Unicode's white space and the separators U+001C to U+001F.
bool is_space(char32_t);
enum class Side { left, right, both };
/// @param characters  which to strip; white space when absent
std::string_view strip(std::string_view text, Side, std::optional<std::string_view> characters = {});

/// str.split, str.rsplit. @param separator  not empty; runs of white space when absent
/// @param limit  most splits; -1: all
std::vector<std::string> split(std::string_view text, std::optional<std::string_view> separator,
                               int64_t limit);
std::vector<std::string> split_right(std::string_view text, std::optional<std::string_view> separator,
                                     int64_t limit);
std::vector<std::string> split_lines(std::string_view text, bool keep_ends = false);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
/// str.title(): every letter after a character without case.
std::string title(std::string_view text);

enum class Has { letters, digits, letters_or_digits, spaces };
/// str.isalpha() and its like: not empty, and every character is one.
bool consists_of(std::string_view text, Has);
/// str.isupper(), str.islower(): some character has case, and none the other one.
bool is_upper(std::string_view text);
bool is_lower(std::string_view text);

/// Whether repr() shows the character as it is.
bool is_printable(char32_t);

/// repr() of a str and of a float.
std::string quote(std::string_view text);
std::string show_float(double);

/// int(text, base), float(text): nothing when Python raises ValueError.
/// @throws Error when the number needs more than 64 bits
std::optional<int64_t> parse_integer(std::string_view text, int64_t base);
std::optional<double> parse_float(std::string_view text);

}  // namespace visq::jinja

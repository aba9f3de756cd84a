#include <utf8proc.h>

#include <algorithm>

#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

#include "visq/inputs/template_case_tables.inc"

constexpr char32_t kCapitalSigma = 0x3A3, kFinalSigma = 0x3C2, kSmallSigma = 0x3C3, kCapitalDottedI = 0x130;

utf8proc_category_t category_of(char32_t c) { return utf8proc_category(static_cast<utf8proc_int32_t>(c)); }

bool is_upper_case(char32_t c) { return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)) != 0; }
bool is_lower_case(char32_t c) { return utf8proc_islower(static_cast<utf8proc_int32_t>(c)) != 0; }
bool is_title_case(char32_t c) { return category_of(c) == UTF8PROC_CATEGORY_LT; }
bool is_cased(char32_t c) { return is_upper_case(c) || is_lower_case(c) || is_title_case(c); }

/// Characters that do not end a word for the final sigma.
bool is_case_ignorable(char32_t c) {
  const auto category = category_of(c);
  return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_ME ||
         category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_LM ||
         category == UTF8PROC_CATEGORY_SK || c == '\'' || c == '.' || c == ':' || c == 0xB7 || c == 0x2019;
}

std::u32string_view long_upper(char32_t c) {
  const auto it = std::ranges::lower_bound(kLongUpper, c, {}, [](const auto& entry) { return entry.first; });
  return it != std::end(kLongUpper) && it->first == c ? it->second : std::u32string_view();
}

char32_t short_upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t short_lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

void add_upper(std::u32string& out, char32_t c) {
  if (const auto mapped = long_upper(c); !mapped.empty()) {
    out += mapped;
  } else {
    out += short_upper(c);
  }
}

void add_title(std::u32string& out, char32_t c) {
  const auto mapped = static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
  const auto several = long_upper(c);
  out += mapped != c || several.empty() ? mapped : several[0];
  if (mapped == c && !several.empty())
    for (const char32_t rest : several.substr(1)) out += short_lower(rest);
}

/// Σ at the end of a word is ς.
bool ends_word(std::u32string_view text, size_t position) {
  const auto next_cased = [&](auto begin, auto end) {
    const auto it = std::find_if_not(begin, end, is_case_ignorable);
    return it != end && is_cased(*it);
  };
  const auto before = std::make_reverse_iterator(text.begin() + static_cast<ptrdiff_t>(position));
  return next_cased(before, text.rend()) &&
         !next_cased(text.begin() + static_cast<ptrdiff_t>(position) + 1, text.end());
}

void add_lower(std::u32string& out, std::u32string_view text, size_t position) {
  const char32_t c = text[position];
  if (c == kCapitalSigma) {
    out += ends_word(text, position) ? kFinalSigma : kSmallSigma;
  } else if (c == kCapitalDottedI) {
    out += U"i\u0307";
  } else {
    out += short_lower(c);
  }
}

bool has_only_case(std::string_view text, bool (*wanted)(char32_t)) {
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_char(text, i);
    if (is_cased(c) && !wanted(c)) return false;
    found |= wanted(c);
  }
  return found;
}

}  // namespace

std::string upper(std::string_view text) {
  std::u32string out;
  for (const char32_t c : decode(text)) add_upper(out, c);
  return encode(out);
}

std::string lower(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string out;
  for (size_t i = 0; i < characters.size(); ++i) add_lower(out, characters, i);
  return encode(out);
}

std::string capitalize(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (i == 0) {
      add_title(out, characters[i]);
    } else {
      add_lower(out, characters, i);
    }
  }
  return encode(out);
}

std::string title(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string out;
  bool in_word = false;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (in_word) {
      add_lower(out, characters, i);
    } else {
      add_title(out, characters[i]);
    }
    in_word = is_cased(characters[i]);
  }
  return encode(out);
}

std::string swap_case(std::string_view text) {
  const std::u32string characters = decode(text);
  std::u32string out;
  for (size_t i = 0; i < characters.size(); ++i) {
    if (is_upper_case(characters[i])) {
      add_lower(out, characters, i);
    } else if (is_lower_case(characters[i])) {
      add_upper(out, characters[i]);
    } else {
      out += characters[i];
    }
  }
  return encode(out);
}

bool is_upper(std::string_view text) { return has_only_case(text, is_upper_case); }
bool is_lower(std::string_view text) { return has_only_case(text, is_lower_case); }

bool is_printable(char32_t c) {
  if (c == ' ') return true;
  switch (category_of(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool consists_of(std::string_view text, Has wanted) {
  const auto is_one = [&](char32_t c) {
    const auto category = category_of(c);
    const bool letter = category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
    const bool digit = category == UTF8PROC_CATEGORY_ND;
    switch (wanted) {
      case Has::letters:
        return letter;
      case Has::digits:
        return digit;
      case Has::letters_or_digits:
        return letter || digit;
      case Has::spaces:
        return is_space(c);
    }
    return false;
  };
  const std::u32string characters = decode(text);
  return !characters.empty() && std::ranges::all_of(characters, is_one);
}

}  // namespace visq::jinja

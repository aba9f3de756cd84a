#include "visq/inputs/template_lexer.h"

#include <algorithm>
#include <charconv>

#include "visq/core/error.h"
#include "visq/inputs/template_text.h"
#include "visq/inputs/unicode.h"

namespace visq::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_hex(char c) { return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

int hex_value(char c) { return is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10; }

/// "\r\n" and "\r" count as "\n"; one newline at the end of a template is dropped.
std::string normalize_newlines(std::string_view source, bool drop_last) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (drop_last && text.ends_with('\n')) text.pop_back();
  return text;
}

/// Characters beyond ASCII as escapes: so Jinja reads a literal, and a backslash before such a character
/// shows it.
std::string escape_non_ascii(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      out += text[i++];
      continue;
    }
    const auto c = static_cast<uint32_t>(next_char(text, i));
    out += c < 0x100     ? visq::format("\\x{:02x}", c)
           : c < 0x10000 ? visq::format("\\u{:04x}", c)
                         : visq::format("\\U{:08x}", c);
  }
  return out;
}

/// Python's "unicode-escape" decoding.
class Unescape {
 public:
  Unescape(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  std::string run() {
    while (position_ < text_.size()) {
      const char c = text_[position_++];
      if (c == '\\') {
        escape();
      } else {
        out_ += c;
      }
    }
    return std::move(out_);
  }

 private:
  void escape() {
    static constexpr std::string_view kLetters = "\\'\"abfnrtv", kValues = "\\'\"\a\b\f\n\r\t\v";
    if (position_ == text_.size()) fail("{}: a string ends in a backslash", where_);
    const char c = text_[position_++];
    if (const size_t i = kLetters.find(c); i != kLetters.npos) {
      out_ += kValues[i];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      hexadecimal(c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c >= '0' && c <= '7') {
      octal(c);
    } else if (c == 'N') {
      fail("{}: \\N{{...}} in a string is not supported", where_);
    } else if (c != '\n') {
      out_ += '\\';
      out_ += c;
    }
  }

  void hexadecimal(size_t digits) {
    uint32_t value = 0;
    for (size_t i = 0; i < digits; ++i, ++position_) {
      if (position_ == text_.size() || !is_hex(text_[position_]))
        fail("{}: truncated escape in a string", where_);
      value = value * 16 + static_cast<uint32_t>(hex_value(text_[position_]));
    }
    if (value > kMaxCodePoint || (value >= 0xD800 && value < 0xE000))
      fail("{}: the escape U+{:04X} in a string is no character", where_, value);
    append_utf8(out_, value);
  }

  void octal(char first) {
    auto value = static_cast<char32_t>(first - '0');
    for (int i = 0; i < 2 && position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '7';
         ++i)
      value = value * 8 + static_cast<char32_t>(text_[position_++] - '0');
    append_utf8(out_, value);
  }

  std::string_view text_;
  const std::string& where_;
  size_t position_ = 0;
  std::string out_;
};

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& origin)
      : source_(normalize_newlines(source, true)), origin_(origin) {}

  std::vector<Token> run() {
    while (position_ < source_.size()) root();
    push(Token::Kind::end, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void complain(const std::string& message) const { fail("{}:{}: {}", origin_, line_, message); }
  std::string where() const { return visq::format("{}:{}", origin_, line_); }
  bool at(std::string_view text) const {
    return std::string_view(source_).substr(position_).starts_with(text);
  }

  void push(Token::Kind kind, std::string text) {
    tokens_.push_back({kind, std::move(text), Value(), line_});
  }

  /// Moves over source text, which then counts for the line number.
  void advance(size_t count) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(position_),
                                         source_.begin() + static_cast<ptrdiff_t>(position_ + count), '\n'));
    position_ += count;
    // lstrip_blocks asks whether the tag before this text took the newline with it.
    if (count > 0) line_starting_ = source_[position_ - 1] == '\n';
  }

  size_t spaces_at(size_t position) const {
    size_t end = position;
    while (end < source_.size()) {
      size_t next = end;
      if (!is_space(next_char(source_, next))) break;
      end = next;
    }
    return end - position;
  }

  /// Length of a tag's end at the position: its mark, and the white space that the mark or trim_blocks takes.
  /// 0 when there is none.
  size_t end_length(size_t position, std::string_view close, bool trim) const {
    const std::string_view rest = std::string_view(source_).substr(position);
    if (rest.starts_with('-') && rest.substr(1).starts_with(close)) {
      const size_t length = 1 + close.size();
      return length + spaces_at(position + length);
    }
    if (trim && rest.starts_with('+') && rest.substr(1).starts_with(close)) return 1 + close.size();
    if (!rest.starts_with(close)) return 0;
    return close.size() + (trim && rest.substr(close.size()).starts_with('\n') ? 1 : 0);
  }

  /// The text before a tag, as the tag's mark and lstrip_blocks leave it.
  void push_data(std::string_view text, char mark, bool is_variable) {
    if (mark == '-') {
      text = strip(text, Side::right);
    } else if (mark != '+' && !is_variable) {
      const size_t start = text.rfind('\n') + 1;  // 0 when there is no newline
      if ((start > 0 || line_starting_) && strip(text.substr(start), Side::both).empty())
        text = text.substr(0, start);
    }
    if (!text.empty()) push(Token::Kind::data, std::string(text));
  }

  size_t find_tag() const {
    for (size_t i = position_; i + 1 < source_.size(); ++i)
      if (source_[i] == '{' && (source_[i + 1] == '{' || source_[i + 1] == '%' || source_[i + 1] == '#'))
        return i;
    return std::string::npos;
  }

  void root() {
    const size_t tag = find_tag();
    if (tag == std::string::npos) {
      push(Token::Kind::data, source_.substr(position_));
      advance(source_.size() - position_);
      return;
    }
    const char kind = source_[tag + 1];
    const char next = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    const char mark = next == '-' || next == '+' ? next : '\0';
    push_data(std::string_view(source_).substr(position_, tag - position_), mark, kind == '{');
    advance(tag - position_);
    const size_t raw = kind == '%' ? raw_length(mark) : 0;
    advance(raw ? raw : 2 + (mark ? 1 : 0));
    if (raw) {
      raw_block();
    } else if (kind == '#') {
      comment();
    } else if (kind == '{') {
      push(Token::Kind::variable_begin, "{{");
      inside("}}", false, Token::Kind::variable_end);
    } else {
      push(Token::Kind::block_begin, "{%");
      inside("%}", true, Token::Kind::block_end);
    }
  }

  /// Length of "{% word %}" from the position on, without what follows it; 0 when something else is there.
  size_t word_tag_length(size_t position, std::string_view word) const {
    size_t end = position + spaces_at(position);
    if (!std::string_view(source_).substr(end).starts_with(word)) return 0;
    end += word.size();
    return end + spaces_at(end);
  }

  size_t raw_length(char mark) const {
    const size_t end = word_tag_length(position_ + 2 + (mark ? 1 : 0), "raw");
    if (end == 0) return 0;
    const std::string_view rest = std::string_view(source_).substr(end);
    if (rest.starts_with("%}")) return end + 2 - position_;  // trim_blocks spares the newline here
    return rest.starts_with("-%}") ? end + 3 + spaces_at(end + 3) - position_ : 0;
  }

  void raw_block() {
    for (size_t i = position_; i + 1 < source_.size(); ++i) {
      if (source_[i] != '{' || source_[i + 1] != '%') continue;
      const char next = i + 2 < source_.size() ? source_[i + 2] : '\0';
      const char mark = next == '-' || next == '+' ? next : '\0';
      const size_t end = word_tag_length(i + 2 + (mark ? 1 : 0), "endraw");
      const size_t length = end == 0 ? 0 : end_length(end, "%}", true);
      if (length == 0) continue;
      push_data(std::string_view(source_).substr(position_, i - position_), mark, false);
      advance(end + length - position_);
      return;
    }
    complain("{% raw %} has no end");
  }

  void comment() {
    for (size_t i = position_; i < source_.size(); ++i) {
      const size_t length = end_length(i, "#}", true);
      if (length == 0) continue;
      advance(i + length - position_);
      return;
    }
    complain("a comment has no end");
  }

  /// Tokens up to the end of a tag. Inside brackets "}}" is two of them.
  void inside(std::string_view close, bool trim, Token::Kind kind) {
    std::string open;
    while (position_ < source_.size()) {
      if (const size_t length = open.empty() ? end_length(position_, close, trim) : 0; length > 0) {
        push(kind, std::string(close));
        advance(length);
        return;
      }
      if (const size_t spaces = spaces_at(position_); spaces > 0) {
        advance(spaces);
      } else if (!number() && !name() && !string()) {
        operation(open);
      }
    }
  }

  size_t digits_at(size_t position, bool (*is_valid)(char)) const {
    size_t end = position;
    while (end < source_.size() &&
           (is_valid(source_[end]) || (source_[end] == '_' && end > position && end + 1 < source_.size() &&
                                       is_valid(source_[end + 1]))))
      ++end;
    return end - position;
  }

  /// Length of a decimal fraction or exponent behind `digits` digits; 0 for an integer.
  size_t float_length(size_t digits) const {
    size_t end = position_ + digits;
    bool is_float = false;
    if (end < source_.size() && source_[end] == '.')
      if (const size_t fraction = digits_at(end + 1, is_digit); fraction > 0) {
        end += 1 + fraction;
        is_float = true;
      }
    if (end < source_.size() && (source_[end] | 0x20) == 'e') {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '+' || source_[exponent] == '-')) ++exponent;
      if (const size_t count = digits_at(exponent, is_digit); count > 0) {
        end = exponent + count;
        is_float = true;
      }
    }
    return is_float ? end - position_ : 0;
  }

  bool number() {
    const size_t digits = digits_at(position_, is_digit);
    if (digits == 0) return false;
    const bool after_dot = position_ > 0 && source_[position_ - 1] == '.';
    if (const size_t length = after_dot ? 0 : float_length(digits); length > 0) {
      const auto value = parse_float(std::string_view(source_).substr(position_, length));
      push_number(Value(value.value_or(0.0)), length);
      return true;
    }
    push_integer(digits);
    return true;
  }

  void push_number(Value value, size_t length) {
    tokens_.push_back({Token::Kind::number, source_.substr(position_, length), std::move(value), line_});
    advance(length);
  }

  void push_integer(size_t digits) {
    const char prefix = static_cast<char>(position_ + 1 < source_.size() ? source_[position_ + 1] | 0x20 : 0);
    const int base = source_[position_] != '0' ? 10
                     : prefix == 'x'           ? 16
                     : prefix == 'o'           ? 8
                     : prefix == 'b'           ? 2
                                               : 10;
    if (base != 10) {
      const auto valid = base == 16  ? is_hex
                         : base == 8 ? [](char c) { return c >= '0' && c <= '7'; }
                                     : [](char c) { return c == '0' || c == '1'; };
      size_t start = position_ + 2;
      if (start < source_.size() && source_[start] == '_') ++start;
      if (const size_t count = digits_at(start, valid); count > 0)
        return push_number(integer(source_.substr(start, count), base), start + count - position_);
    }
    // "012" is the number 0 followed by the number 12, which no expression allows.
    if (source_[position_] == '0') {
      digits = 1;
      while (position_ + digits < source_.size() && source_[position_ + digits] == '0') ++digits;
    }
    push_number(integer(source_.substr(position_, digits), 10), digits);
  }

  Value integer(std::string digits, int base) const {
    std::erase(digits, '_');
    int64_t value = 0;
    const auto result = std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
    if (result.ec != std::errc()) complain(visq::format("the number {} needs more than 64 bits", digits));
    return Value(value);
  }

  bool name() {
    size_t end = position_;
    while (end < source_.size()) {
      size_t next = end;
      const char32_t c = next_char(source_, next);
      if (c != '_' && !is_in(CharClass::word, c)) break;
      end = next;
    }
    if (end == position_) return false;
    push(Token::Kind::name, source_.substr(position_, end - position_));
    advance(end - position_);
    return true;
  }

  bool string() {
    const char quote = source_[position_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = position_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) complain("a string has no end");
    const auto body = std::string_view(source_).substr(position_ + 1, end - position_ - 1);
    push(Token::Kind::string, Unescape(escape_non_ascii(body), where()).run());
    advance(end + 1 - position_);
    return true;
  }

  void operation(std::string& open) {
    static constexpr std::string_view kOperators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                      "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                      ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto it = std::find_if(std::begin(kOperators), std::end(kOperators),
                                 [&](std::string_view op) { return at(op); });
    if (it == std::end(kOperators)) {
      size_t end = position_;
      next_char(source_, end);
      complain(visq::format("unexpected character '{}'", source_.substr(position_, end - position_)));
    }
    balance(it->front(), open);
    push(Token::Kind::op, std::string(*it));
    advance(it->size());
  }

  void balance(char c, std::string& open) const {
    static constexpr std::string_view kOpen = "{([", kClose = "})]";
    if (kOpen.find(c) != kOpen.npos) open += kClose[kOpen.find(c)];
    if (kClose.find(c) == kClose.npos) return;
    if (open.empty() || open.back() != c) complain(visq::format("unexpected '{}'", c));
    open.pop_back();
  }

  const std::string source_;
  const std::string& origin_;
  size_t position_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& origin) {
  return Lexer(source, origin).run();
}

}  // namespace visq::jinja

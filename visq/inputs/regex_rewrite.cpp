#include <array>
#include <optional>
#include <utility>

#include "visq/core/error.h"
#include "visq/inputs/split_pattern.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr size_t kMaxExpressionBytes = 1 << 16;
constexpr int kMaxRepeats = 1000;
/// A short pattern that names many classes would grow by a factor of a thousand.
constexpr size_t kMaxRewrittenBytes = 4 << 20;

/// What stands between the braces of \p{..}.
constexpr std::array<std::pair<std::string_view, CharClass>, 10> kProperties{
    {{"L", CharClass::letter},
     {"Lu", CharClass::uppercase},
     {"Ll", CharClass::lowercase},
     {"Lt", CharClass::titlecase},
     {"Lm", CharClass::modifier_letter},
     {"Lo", CharClass::other_letter},
     {"M", CharClass::mark},
     {"N", CharClass::number},
     {"P", CharClass::punctuation},
     {"S", CharClass::symbol}}};

std::string escaped(char32_t c) { return visq::format("\\x{{{:x}}}", static_cast<uint32_t>(c)); }

std::string spelled(const CodeRange& range) {
  return range.first == range.last ? escaped(range.first) : escaped(range.first) + "-" + escaped(range.last);
}

/// The class, or its complement, as the inside of a bracket expression.
std::string class_ranges(CharClass char_class, bool negated) {
  std::string out;
  char32_t next = 0;  // first code point not yet covered by the ranges or the gaps
  for (const CodeRange& range : ranges_of(char_class)) {
    if (!negated) out += spelled(range);
    if (negated && next < range.first) out += spelled({next, range.first - 1});
    next = range.last + 1;
  }
  if (negated && next <= kMaxCodePoint) out += spelled({next, kMaxCodePoint});
  return out;
}

/// Walks the expression once; every construct it does not know ends in fail().
class Rewriter {
 public:
  Rewriter(std::string_view text, const std::string& origin) : text_(text), origin_(origin) {}

  std::string run() {
    while (position_ < text_.size()) element();
    if (depth_ != 0) reject("an unclosed group");
    return std::move(out_);
  }

 private:
  [[noreturn]] void reject(const std::string& what) const {
    fail("{}: the pattern '{}' uses {}, which is not supported", origin_, text_.substr(0, 80), what);
  }

  bool accept(std::string_view token) {
    if (!text_.substr(position_).starts_with(token)) return false;
    position_ += token.size();
    return true;
  }

  void element() {
    if (out_.size() > kMaxRewrittenBytes) reject("too many character classes");
    if (accept("|")) {
      out_ += '|';
      repeatable_ = false;
    } else if (accept("(")) {
      open_group();
    } else if (accept(")")) {
      if (depth_-- == 0) reject("')' without '('");
      out_ += ')';
      repeatable_ = true;
    } else if (accept("[")) {
      bracket();
      repeatable_ = true;
    } else if (accept("\\")) {
      escape();
      repeatable_ = true;
    } else if (std::string_view("?*+{").find(text_[position_]) != std::string_view::npos) {
      quantifier();
      repeatable_ = false;
    } else if (std::string_view("^$.").find(text_[position_]) != std::string_view::npos) {
      reject(visq::format("'{}'", text_[position_]));
    } else {
      out_ += escaped(next_char(text_, position_));
      repeatable_ = true;
    }
  }

  void open_group() {
    for (std::string_view kind : {"?:", "?i:", "?=", "?!"}) {
      if (!accept(kind)) continue;
      out_ += '(';
      out_ += kind;
      ++depth_;
      repeatable_ = false;
      return;
    }
    reject(visq::format("the group '({}'", text_.substr(position_, 3)));
  }

  void quantifier() {
    if (!repeatable_) reject(visq::format("'{}' with nothing to repeat", text_[position_]));
    if (accept("{")) return counted_quantifier();
    out_ += text_[position_++];
    if (position_ < text_.size() && (text_[position_] == '?' || text_[position_] == '+'))
      out_ += text_[position_++];
  }

  /// {m}, {m,} and {m,n}. The reference reads a following '?' or '+' differently from PCRE2.
  void counted_quantifier() {
    const std::optional<int> low = number();
    if (!low) reject("a '{' that does not begin {m,n}");
    out_ += visq::format("{{{}", *low);
    if (accept(",")) {
      out_ += ',';
      if (const auto high = number()) {
        if (*high < *low) reject("a count {m,n} with n below m");
        out_ += visq::format("{}", *high);
      }
    }
    if (!accept("}")) reject("a '{' that does not begin {m,n}");
    out_ += '}';
    if (position_ < text_.size() && (text_[position_] == '?' || text_[position_] == '+'))
      reject(visq::format("'{}' behind {{m,n}}", text_[position_]));
  }

  std::optional<int> number() {
    std::optional<int> value;
    while (position_ < text_.size() && text_[position_] >= '0' && text_[position_] <= '9') {
      value = value.value_or(0) * 10 + (text_[position_++] - '0');
      if (*value > kMaxRepeats) reject(visq::format("more than {} repetitions", kMaxRepeats));
    }
    return value;
  }

  struct Property {
    CharClass char_class;
    bool negated;
  };

  /// Behind a backslash: \s \S \d \D \p{..} \P{..}.
  std::optional<Property> property() {
    if (accept("s")) return Property{CharClass::space, false};
    if (accept("S")) return Property{CharClass::space, true};
    if (accept("d")) return Property{CharClass::decimal_digit, false};
    if (accept("D")) return Property{CharClass::decimal_digit, true};
    const std::string_view rest = text_.substr(position_);
    if (!rest.starts_with("p{") && !rest.starts_with("P{")) return std::nullopt;
    const std::string_view whole = rest.substr(0, rest.find('}') + 1);
    for (const auto& [name, char_class] : kProperties) {
      if (whole.empty() || whole.substr(2) != std::string(name) + "}") continue;
      position_ += whole.size();
      return Property{char_class, whole.front() == 'P'};
    }
    reject(visq::format("'\\{}'", whole.empty() ? rest : whole));
  }

  /// Behind a backslash: the control characters by name, and punctuation that stands for itself.
  char32_t escaped_char() {
    if (accept("r")) return U'\r';
    if (accept("n")) return U'\n';
    if (accept("t")) return U'\t';
    if (position_ == text_.size()) reject("a backslash at the end");
    const char c = text_[position_];
    if (std::string_view("\\^$.|?*+()[]{}-/#&~!%=:;,\"_").find(c) == std::string_view::npos)
      reject(visq::format("'\\{}'", c));
    ++position_;
    return static_cast<char32_t>(c);
  }

  void escape() {
    if (const auto found = property()) {
      out_ += found->negated ? "[^" : "[";
      out_ += class_ranges(found->char_class, false) + "]";
    } else {
      out_ += escaped(escaped_char());
    }
  }

  void bracket() {
    out_ += accept("^") ? "[^" : "[";
    if (text_.substr(position_).starts_with("]")) reject("']' at the start of a class");
    while (!accept("]")) {
      if (out_.size() > kMaxRewrittenBytes) reject("too many character classes");
      if (position_ == text_.size()) reject("an unclosed '['");
      if (text_.substr(position_).starts_with("&&")) reject("'&&' in a class");
      class_member();
    }
    out_ += ']';
  }

  void class_member() {
    if (accept("[")) reject("'[' in a class");
    bool from_property = false;
    const auto first = class_char(from_property);
    if (from_property) return;
    const bool range = text_.substr(position_).starts_with("-") && !text_.substr(position_).starts_with("-]");
    if (!range) {
      out_ += escaped(first);
      return;
    }
    ++position_;
    const auto last = class_char(from_property);
    if (from_property || last < first) reject("a malformed range in a class");
    out_ += spelled({first, last});
  }

  char32_t class_char(bool& from_property) {
    if (position_ == text_.size()) reject("an unclosed '['");
    if (!accept("\\")) return next_char(text_, position_);
    if (const auto found = property()) {
      out_ += class_ranges(found->char_class, found->negated);
      from_property = true;
      return 0;
    }
    return escaped_char();
  }

  std::string_view text_;
  const std::string& origin_;
  size_t position_ = 0;
  int depth_ = 0;
  bool repeatable_ = false;  ///< whether a quantifier may follow
  std::string out_;
};

}  // namespace

std::string rewrite_regex(std::string_view expression, const std::string& origin) {
  if (expression.size() > kMaxExpressionBytes)
    fail("{}: a pattern of {} bytes, more than the {} allowed", origin, expression.size(),
         kMaxExpressionBytes);
  return Rewriter(expression, origin).run();
}

}  // namespace visq

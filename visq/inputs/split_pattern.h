// Internal to visq/inputs: the patterns of tokenizer.json, by which normalizers replace and pre-tokenizers
// split.
#pragma once
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "visq/core/json.h"

namespace visq {

/// Bytes [begin, end) of a text.
struct Span {
  size_t begin, end;
  bool operator==(const Span&) const = default;
};

/// Immutable; find() is thread-safe.
class SplitPattern {
 public:
  /// Requires a text that is not empty.
  static SplitPattern literal(std::string text);
  /// @throws Error naming `origin` and the construct when the expression goes beyond what rewrite_regex()
  /// takes
  static SplitPattern regex(std::string_view expression, const std::string& origin);
  /// {"String": …} or {"Regex": …}
  static SplitPattern parse(const Json& pattern, const std::string& origin);

  /// Non-overlapping matches from left to right. Requires valid UTF-8.
  /// @throws Error when a match takes more steps than a pattern from an untrusted file is granted
  std::vector<Span> find(std::string_view text) const;

 private:
  struct Compiled;
  std::string literal_;
  std::shared_ptr<const Compiled> compiled_;  ///< null: literal
};

/// The expression in PCRE2's syntax with every character class spelled out as Unicode 16 ranges
/// (spec/inputs.md §3.4). Takes literals, escapes \r \n \t \s \d \p{L} (Lu Ll Lt Lm Lo M N P S) and their
/// negations, bracket classes, the groups (?: (?i: (?= (?!, alternation, and the quantifiers ? * + {m,n} with
/// their lazy and possessive forms.
/// @throws Error naming `origin` and the construct for anything else
std::string rewrite_regex(std::string_view expression, const std::string& origin);

}  // namespace visq

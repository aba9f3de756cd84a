// Internal to visq/inputs: the `pre_tokenizer` of a tokenizer.json: cuts a stretch of text into the pieces
// that BPE sees.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/split_pattern.h"

namespace visq {

struct Piece {
  std::string text;
  bool at_start = false;  ///< whether it begins where the whole input begins
};

/// Immutable and thread-safe.
class PreTokenizer {
 public:
  /// What becomes of the matches of a splitting pattern.
  enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
  struct Split {
    SplitPattern pattern;
    Behavior behavior = Behavior::isolated;
    bool invert = false;  ///< the pattern describes the pieces, not what lies between them
  };
  /// Each byte becomes one printable character.
  struct ByteLevel {
    bool add_prefix_space = false;
    bool use_regex = true;  ///< first splits as GPT-2
  };
  enum class PrependScheme { always, first, never };
  /// Spaces become `replacement`; a leading one is added as the scheme says.
  struct Metaspace {
    std::string replacement;
    PrependScheme scheme = PrependScheme::always;
    bool split = true;
  };
  /// Cuts numbers off, or each of their digits.
  struct Digits {
    bool individual = false;
  };
  using Step = std::variant<Split, ByteLevel, Metaspace, Digits>;

  PreTokenizer() = default;
  explicit PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  /// Sequence, Split, ByteLevel, Metaspace, Digits or null. @throws Error naming any other component
  static PreTokenizer parse(const Json& component, const std::string& origin);

  /// Requires valid UTF-8. No piece is empty.
  std::vector<Piece> split(Piece stretch) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace visq

// Internal to visq/inputs: the `normalizer` of a tokenizer.json.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/split_pattern.h"

namespace visq {

/// Immutable and thread-safe.
class Normalizer {
 public:
  struct Prepend {
    std::string text;
  };
  struct Replace {
    SplitPattern pattern;
    std::string content;
  };
  struct Nfc {};
  struct Lowercase {};
  /// Drops whitespace at either end.
  struct Strip {
    bool left = true, right = true;
  };
  using Step = std::variant<Prepend, Replace, Nfc, Lowercase, Strip>;

  Normalizer() = default;
  explicit Normalizer(std::vector<Step> steps) : steps_(std::move(steps)) {}
  /// Sequence, Prepend, Replace, NFC, Lowercase, Strip or null. @throws Error naming any other component
  static Normalizer parse(const Json& component, const std::string& origin);

  /// Requires valid UTF-8.
  std::string apply(std::string text) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace visq

// Internal to visq/inputs: the `decoder` of a tokenizer.json: token strings back to text.
#pragma once
#include <string>
#include <variant>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/split_pattern.h"

namespace visq {

/// Immutable and thread-safe.
class TokenDecoder {
 public:
  struct ByteLevel {};
  struct Replace {
    SplitPattern pattern;
    std::string content;
  };
  struct ByteFallback {};
  struct Fuse {};
  struct Strip {
    std::string content;
    int64_t start = 0, stop = 0;  ///< at most so many at either end of each token
  };
  struct Metaspace {
    std::string replacement;
    bool drop_first = true;  ///< the first token loses its replacement instead of turning it into a space
  };
  using Step = std::variant<ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace>;

  TokenDecoder() = default;
  explicit TokenDecoder(std::vector<Step> steps) : steps_(std::move(steps)), present_(true) {}
  /// Sequence, the steps above, or null. @throws Error naming any other component
  static TokenDecoder parse(const Json& component, const std::string& origin);

  /// Always valid UTF-8. Without a decoder the tokens are joined by spaces.
  std::string decode(std::vector<std::string> tokens) const;

 private:
  std::vector<Step> steps_;
  bool present_ = false;
};

}  // namespace visq

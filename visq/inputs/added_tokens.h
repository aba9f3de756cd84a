// Internal to visq/inputs: tokens that are found in the text before any pre-tokenization, such as "<image>".
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "visq/inputs/bpe.h"
#include "visq/inputs/normalizer.h"
#include "visq/inputs/split_pattern.h"

namespace visq {

struct AddedToken {
  std::string content = "";
  bool single_word = false;  ///< not found inside a word
  bool lstrip = false;       ///< takes the whitespace before it
  bool rstrip = false;       ///< takes the whitespace behind it
  bool normalized = true;    ///< sought in normalized text, in its own normalized form
  bool special = false;      ///< left out when decoding
  auto operator<=>(const AddedToken&) const = default;
};

/// A stretch of text, or an added token found there.
struct Stretch {
  Span span;
  std::optional<int64_t> id;
};

/// Leftmost-longest search for many words at once.
class WordTrie {
 public:
  void insert(std::string_view word, int64_t id);
  bool contains(std::string_view word) const;

  struct Match {
    Span span;
    int64_t id;
  };
  std::vector<Match> find(std::string_view text) const;

 private:
  std::unordered_map<uint64_t, uint32_t> edges_;  ///< node << 8 | byte → node
  std::vector<int64_t> ids_{-1};                  ///< of the word that ends at a node; -1: none
  std::array<bool, 256> starts_{};                ///< bytes some word begins with
};

/// The added tokens of a tokenizer. Adding follows the reference library: a token of the model keeps its id,
/// others get the next free one, and adding again changes the flags.
class AddedTokens {
 public:
  void add(const std::vector<AddedToken>& tokens, const Bpe& model);

  /// Prepares split(). @param split_special  specials are plain text
  /// @throws Error naming `origin` when two tokens are the same text once normalized
  void build(const Normalizer& normalizer, bool split_special, const std::string& origin);

  /// Cuts raw text at the tokens sought there.
  std::vector<Stretch> split_raw(std::string_view text) const { return split(text, raw_); }
  /// Cuts normalized text at the others.
  std::vector<Stretch> split_normalized(std::string_view text) const { return split(text, normalized_); }

  std::optional<int64_t> id_of(std::string_view content) const;
  const AddedToken* find(int64_t id) const;
  /// What a decoder gets for `id`: the normalized form of a normalized token.
  const std::string& decoding_text(int64_t id) const { return decoding_text_.at(id); }
  /// Whether `text` was ever added as special.
  bool is_special(std::string_view text) const { return specials_.contains(text); }
  int64_t largest_id() const;

 private:
  std::vector<Stretch> split(std::string_view text, const WordTrie& trie) const;

  StringMap<int64_t> ids_;
  std::unordered_map<int64_t, AddedToken> tokens_;
  std::unordered_set<std::string, StringHash, std::equal_to<>> specials_;
  std::unordered_map<int64_t, std::string> decoding_text_;
  WordTrie raw_, normalized_;
  bool split_special_ = false;
};

}  // namespace visq

// Internal to visq/inputs: byte pair encoding of one piece of text.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace visq {

/// Lets maps keyed by std::string be searched with a string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};
template <typename T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

/// Immutable; encode() is thread-safe. Source: spec/inputs.md §3.6.
class Bpe {
 public:
  struct Options {
    std::optional<std::string> unk_token = std::nullopt;
    bool fuse_unk = false;       ///< a run of unknown characters gives one unk token
    bool byte_fallback = false;  ///< an unknown character becomes its bytes <0xHH>
    bool ignore_merges = false;  ///< a piece that is a token as a whole stays whole
  };
  using Merges = std::vector<std::pair<std::string, std::string>>;

  /// @throws Error naming `origin` when an id occurs twice, or a merge or the unk token is not in the
  /// vocabulary
  Bpe(StringMap<int64_t> vocabulary, const Merges& merges, Options options, const std::string& origin);
  Bpe(const Bpe&) = delete;  // tokens_ points into vocabulary_
  Bpe& operator=(const Bpe&) = delete;

  /// Appends the ids of `piece`. Requires valid UTF-8.
  void encode(std::string_view piece, std::vector<int64_t>& ids) const;

  std::optional<int64_t> id_of(std::string_view token) const;
  /// Null when there is no such id.
  const std::string* token_of(int64_t id) const;
  int64_t largest_id() const { return largest_id_; }
  int64_t vocabulary_size() const { return static_cast<int64_t>(vocabulary_.size()); }

 private:
  struct Merge {
    int64_t rank;
    int64_t id;
  };

  std::vector<int64_t> initial_ids(std::string_view piece) const;
  const Merge* find_merge(int64_t left, int64_t right) const;
  void apply_merges(std::vector<int64_t>& ids) const;

  StringMap<int64_t> vocabulary_;
  std::unordered_map<int64_t, const std::string*> tokens_;  ///< into vocabulary_, whose nodes do not move
  std::unordered_map<uint64_t, Merge> merges_;              ///< key: left id, right id
  std::vector<std::optional<int64_t>> byte_ids_;            ///< of <0x00> … <0xFF>
  Options options_;
  std::optional<int64_t> unk_id_;
  int64_t largest_id_ = -1;
};

}  // namespace visq

// A checkpoint's tokenizer as a list of tokens and the rules around them, for formats that store it their own
// way.
#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "visq/core/json.h"

namespace visq {

struct Vocabulary {
  /// Numbered as in SentencePiece.
  enum class Type { normal = 1, unknown, control, user_defined, unused, byte };
  struct Token {
    std::string
        text;  ///< bytes as printable characters where the tokenizer is byte-level, added tokens plain
    Type type = Type::unused;
  };

  std::string origin;         ///< the file that holds it, for errors
  std::vector<Token> tokens;  ///< by id; ids without a token are unused and empty
  std::vector<std::pair<std::string, std::string>> merges;  ///< the first comes first
  bool byte_level = false;         ///< else characters, spaces as "▁", unknown ones as bytes <0xHH>
  bool has_byte_tokens = false;    ///< all 256 of those
  Json normalizer, pre_tokenizer;  ///< in the terms of tokenizer.json, as they are in effect
  bool add_bos = false, add_eos = false;
  std::optional<int64_t> bos, eos, unk, pad;
};

/// @throws Error as Tokenizer::load
Vocabulary read_vocabulary(const std::filesystem::path& directory);

struct MergeRanks {
  std::vector<std::optional<size_t>>
      first;  ///< by id: of the first merge that makes the token; empty: none does
  /// Whether the merges are all ways to make each token out of two, one behind the other: then it does not
  /// matter whether merges are listed, or any two neighbours that make a token are joined, the best token
  /// first.
  bool complete = true;
};
MergeRanks merge_ranks(const Vocabulary& vocabulary);

}  // namespace visq

// Internal to visq/inputs: tekken.json, Mistral's own vocabulary file.
#pragma once
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/bpe.h"

namespace visq {

/// A byte-level BPE: special tokens have the first ids, the others follow in order of rank.
struct Tekken {
  std::string pattern;                ///< by which text is split
  std::vector<std::string> specials;  ///< by id
  StringMap<int64_t> vocabulary;      ///< bytes as in byte_level.h, and the specials
  Bpe::Merges merges;

  /// Source: spec/inputs.md §3.9.
  /// @throws Error naming `origin` and the entry that is malformed
  static Tekken parse(const Json& file, const std::string& origin);
};

}  // namespace visq

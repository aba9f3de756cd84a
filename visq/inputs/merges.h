// Internal to visq/inputs: the merges of a vocabulary that is written down without them.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "visq/inputs/bpe.h"

namespace visq {

/// A token as two shorter tokens.
struct Cut {
  std::string_view left, right;  ///< into the token
  int64_t left_id, right_id;
};

enum class CutAt { characters, bytes };

/// Longer tokens would take quadratic time; published ones are far shorter.
inline constexpr size_t kMaxTokenBytes = 1024;

/// All ways to cut `token` into two tokens of `ids`, the shortest left part first. Requires at most
/// kMaxTokenBytes, and valid UTF-8 where it cuts at characters.
std::vector<Cut> cuts_of(std::string_view token, const StringMap<int64_t>& ids, CutAt at);

}  // namespace visq

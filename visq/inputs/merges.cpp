#include "visq/inputs/merges.h"

#include "visq/inputs/unicode.h"

namespace visq {

std::vector<Cut> cuts_of(std::string_view token, const StringMap<int64_t>& ids, CutAt at) {
  std::vector<Cut> cuts;
  size_t position = 0;
  const auto advance = [&] {
    if (at == CutAt::bytes) {
      ++position;
    } else {
      next_char(token, position);
    }
  };
  if (token.empty()) return cuts;
  for (advance(); position < token.size(); advance()) {
    const std::string_view left = token.substr(0, position), right = token.substr(position);
    const auto left_id = ids.find(left);
    if (left_id == ids.end()) continue;
    const auto right_id = ids.find(right);
    if (right_id != ids.end()) cuts.push_back({left, right, left_id->second, right_id->second});
  }
  return cuts;
}

}  // namespace visq

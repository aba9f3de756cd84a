#include "visq/inputs/merges.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

using Parts = std::vector<std::pair<std::string, std::string>>;

Parts parts(std::string_view token, const StringMap<int64_t>& ids, CutAt at) {
  Parts out;
  for (const Cut& cut : cuts_of(token, ids, at)) {
    EXPECT_EQ(cut.left_id, ids.at(std::string(cut.left)));
    EXPECT_EQ(cut.right_id, ids.at(std::string(cut.right)));
    out.emplace_back(cut.left, cut.right);
  }
  return out;
}

TEST(Merges, ATokenIsCutWhereBothPartsAreTokens) {
  const StringMap<int64_t> ids{{"a", 0}, {"b", 1}, {"aa", 2}, {"ab", 3}, {"aab", 4}, {"aabc", 5}};
  EXPECT_EQ(parts("aab", ids, CutAt::bytes), (Parts{{"a", "ab"}, {"aa", "b"}}));
  EXPECT_EQ(parts("aabc", ids, CutAt::bytes), Parts{});
  EXPECT_EQ(parts("a", ids, CutAt::bytes), Parts{});
  EXPECT_EQ(parts("", ids, CutAt::bytes), Parts{});
}

TEST(Merges, CharactersStayWholeUnlessBytesAreCut) {
  const StringMap<int64_t> ids{{"\u00E9", 0},
                               {"a", 1},
                               {"\xC3", 2},
                               {"\xA9"
                                "a",
                                3}};
  EXPECT_EQ(parts("\u00E9a", ids, CutAt::characters), (Parts{{"\u00E9", "a"}}));
  EXPECT_EQ(parts("\u00E9a", ids, CutAt::bytes), (Parts{{"\xC3",
                                                         "\xA9"
                                                         "a"},
                                                        {"\u00E9", "a"}}));
}

}  // namespace
}  // namespace visq

#include "visq/inputs/bpe.h"

#include <random>

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Ids = std::vector<int64_t>;

Ids encode(const Bpe& bpe, const std::string& piece) {
  Ids ids;
  bpe.encode(piece, ids);
  return ids;
}

TEST(Bpe, TheLowestRankIsMergedFirst) {
  const Bpe bpe({{"a", 0}, {"b", 1}, {"c", 2}, {"bc", 3}, {"ab", 4}}, {{"b", "c"}, {"a", "b"}}, {}, "t");
  EXPECT_EQ(encode(bpe, "abc"), (Ids{0, 3}));
}

TEST(Bpe, EqualRanksAreMergedFromTheLeft) {
  const Bpe bpe({{"a", 0}, {"aa", 1}, {"aaa", 2}}, {{"a", "a"}, {"aa", "a"}}, {}, "t");
  EXPECT_EQ(encode(bpe, "aaaaa"), (Ids{1, 2}));
}

TEST(Bpe, AnUnknownCharacterVanishesWithoutAnUnkToken) {
  const Bpe bpe({{"a", 0}}, {}, {}, "t");
  EXPECT_EQ(encode(bpe, "axa"), (Ids{0, 0}));
}

TEST(Bpe, UnknownCharactersFuseWhenAsked) {
  const StringMap<int64_t> vocabulary{{"<unk>", 0}, {"a", 1}};
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {.unk_token = "<unk>"}, "t"), "xya"), (Ids{0, 0, 1}));
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {.unk_token = "<unk>", .fuse_unk = true}, "t"), "xyaz"),
            (Ids{0, 1, 0}));
}

TEST(Bpe, AnUnknownCharacterFallsBackToItsBytes) {
  const StringMap<int64_t> vocabulary{{"<unk>", 0}, {"<0xC3>", 1}, {"<0xA9>", 2}, {"a", 3}};
  const Bpe bpe(vocabulary, {}, {.unk_token = "<unk>", .fuse_unk = true, .byte_fallback = true}, "t");
  EXPECT_EQ(encode(bpe, "a\u00E9"), (Ids{3, 1, 2}));
  EXPECT_EQ(encode(bpe, "\u00E8"), (Ids{0}));  // <0xA8> is missing
}

TEST(Bpe, AWholeTokenIsTakenUnmergedWhenAsked) {
  const StringMap<int64_t> vocabulary{{"a", 0}, {"b", 1}, {"ab", 2}};
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {}, "t"), "ab"), (Ids{0, 1}));
  EXPECT_EQ(encode(Bpe(vocabulary, {}, {.ignore_merges = true}, "t"), "ab"), (Ids{2}));
}

TEST(Bpe, TokensAndIdsAreFoundBothWays) {
  const Bpe bpe({{"a", 7}, {"b", 1000}}, {}, {}, "t");
  EXPECT_EQ(bpe.id_of("b"), 1000);
  EXPECT_FALSE(bpe.id_of("c").has_value());
  EXPECT_EQ(*bpe.token_of(7), "a");
  EXPECT_EQ(bpe.token_of(8), nullptr);
  EXPECT_EQ(bpe.largest_id(), 1000);
}

/// Applies the best merge over and over: obviously right, and quadratic.
Ids merged_naively(Ids ids, const std::vector<std::array<int64_t, 3>>& merges) {
  for (;;) {
    size_t best_rank = merges.size(), best = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i)
      for (size_t rank = 0; rank < best_rank; ++rank)
        if (ids[i] == merges[rank][0] && ids[i + 1] == merges[rank][1]) {
          best_rank = rank;
          best = i;
        }
    if (best_rank == merges.size()) return ids;
    ids[best] = merges[best_rank][2];
    ids.erase(ids.begin() + best + 1);
  }
}

TEST(Bpe, TheHeapAgreesWithRepeatedScanning) {
  std::mt19937 random(1);
  StringMap<int64_t> vocabulary{{"a", 0}, {"b", 1}, {"c", 2}};
  std::vector<std::string> tokens{"a", "b", "c"};
  Bpe::Merges merges;
  std::vector<std::array<int64_t, 3>> table;
  while (tokens.size() < 60) {
    const size_t left = random() % tokens.size(), right = random() % tokens.size();
    const std::string joined = tokens[left] + tokens[right];
    if (joined.size() > 8 || vocabulary.contains(joined)) continue;
    const auto id = static_cast<int64_t>(tokens.size());
    vocabulary.emplace(joined, id);
    tokens.push_back(joined);
    merges.emplace_back(tokens[left], tokens[right]);
    table.push_back({static_cast<int64_t>(left), static_cast<int64_t>(right), id});
  }
  const Bpe bpe(vocabulary, merges, {}, "t");
  for (int round = 0; round < 300; ++round) {
    std::string text;
    Ids symbols;
    for (size_t i = 0; i < 1 + random() % 60; ++i) {
      const auto letter = static_cast<int64_t>(random() % 3);
      text += static_cast<char>('a' + letter);
      symbols.push_back(letter);
    }
    ASSERT_EQ(encode(bpe, text), merged_naively(symbols, table)) << text;
  }
}

TEST(Bpe, AMegabyteInOnePieceTakesNoQuadraticTime) {
  const Bpe bpe({{"a", 0}, {"aa", 1}, {"aaaa", 2}}, {{"a", "a"}, {"aa", "aa"}}, {}, "t");
  EXPECT_EQ(encode(bpe, std::string(1 << 20, 'a')), Ids(1 << 18, 2));
}

TEST(Bpe, InconsistentVocabulariesAreErrors) {
  EXPECT_TRUE(mentions(error_of([] {
                         Bpe({{"a", 1}, {"b", 1}}, {}, {}, "file");
                       }),
                       {"file", "share the id 1"}));
  EXPECT_TRUE(mentions(error_of([] { Bpe({{"a", -1}}, {}, {}, "file"); }), {"file", "'a'", "-1"}));
  EXPECT_TRUE(mentions(error_of([] {
                         Bpe({{"a", int64_t{1} << 31}}, {}, {}, "file");
                       }),
                       {"file", "2147483648"}));
  EXPECT_TRUE(mentions(error_of([] { Bpe({{"a", 0}}, {{"a", "a"}}, {}, "file"); }), {"file", "'aa'"}));
  EXPECT_TRUE(mentions(error_of([] {
                         Bpe({{"a", 0}}, {}, {.unk_token = "<unk>"}, "file");
                       }),
                       {"file", "'<unk>'"}));
}

}  // namespace
}  // namespace visq

#include "visq/inputs/tekken.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Strings = std::vector<std::string>;

/// Entries for a, b, ab, a newline, and one that pads the file.
Json small_file() {
  return Json::parse(R"({
    "config": {"pattern": "\\S+|\\s+", "default_vocab_size": 7, "default_num_special_tokens": 3},
    "special_tokens": [{"rank": 1, "token_str": "<s>"}, {"rank": 0, "token_str": "<unk>"}],
    "vocab": [{"rank": 0, "token_bytes": "YQ=="}, {"rank": 1, "token_bytes": "Yg=="},
              {"rank": 2, "token_bytes": "YWI="}, {"rank": 3, "token_bytes": "Cg=="},
              {"rank": 4, "token_bytes": "YWJhYg=="}]})");
}

std::string rejection(const Json& file) {
  return error_of([&] { Tekken::parse(file, "tekken.json"); });
}

TEST(Tekken, SpecialTokensComeFirstAndPaddingIsDropped) {
  const auto tekken = Tekken::parse(small_file(), "tekken.json");
  EXPECT_EQ(tekken.pattern, "\\S+|\\s+");
  EXPECT_EQ(tekken.specials, (Strings{"<unk>", "<s>", "<SPECIAL_2>"}));
  const StringMap<int64_t> expected{{"<unk>", 0}, {"<s>", 1}, {"<SPECIAL_2>", 2}, {"a", 3}, {"b", 4},
                                    {"ab", 5},    {"Ċ", 6}};
  EXPECT_EQ(tekken.vocabulary, expected);
  EXPECT_EQ(tekken.merges, (Bpe::Merges{{"a", "b"}}));
}

TEST(Tekken, TheMergesOfATokenFollowTheRanksOfItsParts) {
  Json file = small_file();
  file["config"].erase("default_vocab_size");
  file["vocab"] = Json::array();
  // ab 0, c 1, a 2, b 3, bc 4, abc 5: ab+c has lower ranks than a+bc.
  for (const char* bytes : {"YWI=", "Yw==", "YQ==", "Yg==", "YmM=", "YWJj"})
    file["vocab"].push_back({{"token_bytes", bytes}});
  EXPECT_EQ(Tekken::parse(file, "t").merges, (Bpe::Merges{{"a", "b"}, {"b", "c"}, {"ab", "c"}, {"a", "bc"}}));
}

TEST(Tekken, OlderFilesHaveTheSpecialTokensOfTheirTime) {
  Json file = small_file();
  file.erase("special_tokens");
  file["config"] = {{"pattern", "."}};
  const auto tekken = Tekken::parse(file, "t");
  EXPECT_EQ(tekken.specials.size(), 20u);
  EXPECT_EQ(tekken.vocabulary.at("[IMG]"), 10);
  EXPECT_EQ(tekken.vocabulary.at("[IMG_END]"), 13);
  EXPECT_EQ(tekken.vocabulary.at("a"), 20);
}

TEST(Tekken, MalformedFilesAreErrorsThatNameTheCause) {
  const auto with = [](const char* pointer, const Json& value) {
    Json file = small_file();
    file[Json::json_pointer(pointer)] = value;
    return rejection(file);
  };
  EXPECT_TRUE(mentions(rejection(Json::object()), {"tekken.json", "'config'"}));
  EXPECT_TRUE(mentions(with("/vocab", "x"), {"tekken.json", "'vocab'"}));
  EXPECT_TRUE(mentions(with("/config", Json::object()), {"tekken.json", "'pattern'"}));
  EXPECT_TRUE(mentions(with("/vocab/1/token_bytes", "Y"), {"tekken.json", "'Y'", "base64"}));
  EXPECT_TRUE(mentions(with("/vocab/1/token_bytes", ""), {"tekken.json", "base64"}));
  EXPECT_TRUE(mentions(with("/vocab/1/token_bytes", "YQ=="), {"tekken.json", "entry 1", "repeats"}));
  EXPECT_TRUE(mentions(with("/special_tokens/1/rank", 1), {"tekken.json", "'<unk>'", "rank 1"}));
  EXPECT_TRUE(mentions(with("/special_tokens/1/rank", -1), {"tekken.json", "rank -1"}));
  EXPECT_TRUE(mentions(with("/special_tokens/1/rank", 9), {"tekken.json", "rank 9"}));
  EXPECT_TRUE(mentions(with("/config/default_num_special_tokens", 1), {"tekken.json", "1 special"}));
  EXPECT_TRUE(mentions(with("/config/default_num_special_tokens", 1 << 30), {"tekken.json", "special"}));
  EXPECT_TRUE(mentions(with("/config/default_vocab_size", 2), {"tekken.json", "2 tokens"}));
  EXPECT_TRUE(mentions(with("/config/default_vocab_size", -2), {"tekken.json", "-2 tokens"}));
}

}  // namespace
}  // namespace visq

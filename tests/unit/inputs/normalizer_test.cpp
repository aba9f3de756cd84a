#include "visq/inputs/normalizer.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;

Normalizer parse(const std::string& json) { return Normalizer::parse(Json::parse(json), "tokenizer.json"); }

TEST(Normalizer, TheLlamaSequencePrependsAndReplacesSpaces) {
  const auto normalizer = parse(R"({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  EXPECT_EQ(normalizer.apply("a b"), "▁a▁b");
  EXPECT_EQ(normalizer.apply(" a"), "▁▁a");
  EXPECT_EQ(normalizer.apply(""), "");
}

TEST(Normalizer, AnExpressionIsReplacedEverywhere) {
  const auto normalizer = parse(R"({"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "})");
  EXPECT_EQ(normalizer.apply("a \n b\t"), "a b ");
}

TEST(Normalizer, NfcComposes) { EXPECT_EQ(parse(R"({"type": "NFC"})").apply("e\u0301"), "\u00E9"); }

TEST(Normalizer, LowercaseLowersCharacterByCharacter) {
  EXPECT_EQ(parse(R"({"type": "Lowercase"})").apply("A\u03A3\u0130z"), "a\u03C3i\u0307z");
}

TEST(Normalizer, StripDropsWhitespaceAtTheEndsItNames) {
  EXPECT_EQ(parse(R"({"type": "Strip"})").apply("\t\u3000a b\n"), "a b");
  EXPECT_EQ(parse(R"({"type": "Strip", "strip_left": false, "strip_right": true})").apply(" a "), " a");
  EXPECT_EQ(parse(R"({"type": "Strip", "strip_left": true, "strip_right": false})").apply(" a "), "a ");
  EXPECT_EQ(parse(R"({"type": "Strip"})").apply(" \n "), "");
}

TEST(Normalizer, NullChangesNothing) { EXPECT_EQ(parse("null").apply("e\u0301 "), "e\u0301 "); }

TEST(Normalizer, OtherComponentsAreNamed) {
  EXPECT_EQ(error_of([] { parse(R"({"type": "Precompiled"})"); }),
            "tokenizer.json: normalizer: 'Precompiled' is not supported");
  EXPECT_TRUE(mentions(error_of([] { parse(R"({"type": "Prepend"})"); }), {"tokenizer.json", "'prepend'"}));
  EXPECT_TRUE(mentions(error_of([] { parse(R"(["NFC"])"); }), {"tokenizer.json", "'type'"}));
}

}  // namespace
}  // namespace visq

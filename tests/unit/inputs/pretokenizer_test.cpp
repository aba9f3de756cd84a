#include "visq/inputs/pretokenizer.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Strings = std::vector<std::string>;

PreTokenizer parse(const std::string& json) {
  return PreTokenizer::parse(Json::parse(json), "tokenizer.json");
}

Strings split(const std::string& json, const std::string& text, bool at_start = true) {
  Strings out;
  for (const Piece& piece : parse(json).split({text, at_start})) out.push_back(piece.text);
  return out;
}

Strings split_at_dash(const std::string& behavior, bool invert = false) {
  const std::string json = R"({"type": "Split", "pattern": {"String": "-"}, "behavior": ")" + behavior +
                           R"(", "invert": )" + (invert ? "true}" : "false}");
  return split(json, "the-final--countdown");
}

/// The table in the documentation of the reference library.
TEST(PreTokenizer, SplitFollowsItsBehavior) {
  EXPECT_EQ(split_at_dash("Removed"), (Strings{"the", "final", "countdown"}));
  EXPECT_EQ(split_at_dash("Isolated"), (Strings{"the", "-", "final", "-", "-", "countdown"}));
  EXPECT_EQ(split_at_dash("MergedWithPrevious"), (Strings{"the-", "final-", "-", "countdown"}));
  EXPECT_EQ(split_at_dash("MergedWithNext"), (Strings{"the", "-final", "-", "-countdown"}));
  EXPECT_EQ(split_at_dash("Contiguous"), (Strings{"the", "-", "final", "--", "countdown"}));
  EXPECT_EQ(split_at_dash("Removed", /*invert=*/true), (Strings{"-", "-", "-"}));
}

TEST(PreTokenizer, ByteLevelMapsEveryByteToAPrintableCharacter) {
  const std::string plain = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";
  EXPECT_EQ(split(plain, " \n\u00E9~\u007F"), (Strings{"ĠĊÃ©~ġ"}));
}

TEST(PreTokenizer, ByteLevelSplitsAsGpt2WhenAsked) {
  const std::string gpt2 = R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})";
  EXPECT_EQ(split(gpt2, "it's 12 C'S"), (Strings{"Ġit", "'s", "Ġ12", "ĠC", "'", "S"}));
}

TEST(PreTokenizer, MetaspacePrependsAsItsSchemeSays) {
  const auto json = [](const std::string& scheme) {
    return R"({"type": "Metaspace", "replacement": "▁", "split": false, "prepend_scheme": ")" + scheme +
           "\"}";
  };
  EXPECT_EQ(split(json("always"), "a b", false), (Strings{"▁a▁b"}));
  EXPECT_EQ(split(json("always"), " a"), (Strings{"▁a"}));
  EXPECT_EQ(split(json("first"), "a"), (Strings{"▁a"}));
  EXPECT_EQ(split(json("first"), "a", /*at_start=*/false), (Strings{"a"}));
  EXPECT_EQ(split(json("never"), "a b"), (Strings{"a▁b"}));
}

TEST(PreTokenizer, MetaspaceSplitsBeforeEachReplacement) {
  EXPECT_EQ(split(R"({"type": "Metaspace", "replacement": "▁", "add_prefix_space": true})", "a b  c"),
            (Strings{"▁a", "▁b", "▁", "▁c"}));
}

TEST(PreTokenizer, OnlyTheFirstPieceOfASequenceIsAtTheStart) {
  const auto pieces = parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Split", "pattern": {"String": ","}, "behavior": "Removed"},
      {"type": "Metaspace", "replacement": "▁", "split": false, "prepend_scheme": "first"}]})")
                          .split({"a,b", true});
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].text, "▁a");
  EXPECT_EQ(pieces[1].text, "b");
}

TEST(PreTokenizer, DigitsStandAloneOrInRuns) {
  EXPECT_EQ(split(R"({"type": "Digits", "individual_digits": true})", "a12 \u00BD3b"),
            (Strings{"a", "1", "2", " ", "\u00BD", "3", "b"}));
  EXPECT_EQ(split(R"({"type": "Digits", "individual_digits": false})", "a12 \u00BD3b"),
            (Strings{"a", "12", " ", "\u00BD3", "b"}));
  // U+11DE0 is a digit since Unicode 17, which the expressions' \p{N} does not know.
  EXPECT_EQ(split(R"({"type": "Digits"})", "a\U00011DE0b"), (Strings{"a", "\U00011DE0", "b"}));
}

/// SmolLM2: GPT-2's expression on what the digits leave.
TEST(PreTokenizer, DigitsAndByteLevelWorkInSequence) {
  const std::string smollm = R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]})";
  EXPECT_EQ(split(smollm, "it's 12 x3"), (Strings{"it", "'s", "Ġ", "1", "2", "Ġx", "3"}));
}

/// Phi-4: the pattern describes the pieces.
TEST(PreTokenizer, RemovingWhatIsNotMatchedEqualsIsolatingTheMatches) {
  const auto json = [](const std::string& how) {
    return R"({"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s+|[^\\s\\p{L}]+"}, "behavior": )" + how +
           "}";
  };
  const Strings expected{"a", " ", "1", "b", "!"};
  EXPECT_EQ(split(json(R"("Removed", "invert": true)"), "a 1b!"), expected);
  EXPECT_EQ(split(json(R"("Isolated", "invert": false)"), "a 1b!"), expected);
}

TEST(PreTokenizer, AnEmptyStretchGivesNoPiece) {
  EXPECT_EQ(split(R"({"type": "Metaspace", "replacement": "▁"})", ""), Strings{});
  EXPECT_EQ(split("null", "a b"), (Strings{"a b"}));
}

TEST(PreTokenizer, OtherComponentsAreNamed) {
  EXPECT_EQ(error_of([] { parse(R"({"type": "Whitespace"})"); }),
            "tokenizer.json: pre_tokenizer: 'Whitespace' is not supported");
  EXPECT_TRUE(
      mentions(error_of([] { split_at_dash("Doubled"); }), {"tokenizer.json", "'behavior' is 'Doubled'"}));
  EXPECT_TRUE(mentions(error_of([] { parse(R"({"type": "Metaspace", "replacement": "ab"})"); }),
                       {"tokenizer.json", "'replacement'"}));
  EXPECT_TRUE(mentions(
      error_of([] { parse(R"({"type": "Metaspace", "replacement": "a", "prepend_scheme": "last"})"); }),
      {"tokenizer.json", "'prepend_scheme' is 'last'"}));
}

}  // namespace
}  // namespace visq

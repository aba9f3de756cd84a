#include "visq/inputs/split_pattern.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;

const std::string kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Mistral's tekken, and o200k of Phi-4 and others, which adds contractions and takes up to three digits.
const std::string kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::vector<std::string> matches(const std::string& pattern, const std::string& text) {
  std::vector<std::string> out;
  for (const Span& span : SplitPattern::regex(pattern, "tokenizer.json").find(text))
    out.push_back(text.substr(span.begin, span.end - span.begin));
  return out;
}

std::string rejection(const std::string& pattern) {
  return error_of([&] { SplitPattern::regex(pattern, "tokenizer.json"); });
}

using Strings = std::vector<std::string>;

TEST(SplitPattern, TheQwen2PatternSplitsWordsDigitsAndPunctuation) {
  EXPECT_EQ(matches(kQwen2, "Hello world's 12!!\n"),
            (Strings{"Hello", " world", "'s", " ", "1", "2", "!!\n"}));
  EXPECT_EQ(matches(kQwen2, "a  b\r\n\r\n c"), (Strings{"a", " ", " b", "\r\n\r\n", " c"}));
  EXPECT_EQ(matches(kQwen2, "don't I'LL"), (Strings{"don", "'t", " I", "'LL"}));
}

TEST(SplitPattern, CaselessContractionsMatchTheLongS) {
  EXPECT_EQ(matches(kQwen2, "x'\u017Fa"), (Strings{"x", "'\u017F", "a"}));
}

TEST(SplitPattern, TheLlama3PatternTakesUpToThreeDigits) {
  EXPECT_EQ(matches(kLlama3, "12345"), (Strings{"123", "45"}));
}

TEST(SplitPattern, TheTekkenPatternSplitsWhereCapitalsBegin) {
  EXPECT_EQ(matches(kTekken, "getHTTPCode it's 42 x//\n"),
            (Strings{"get", "HTTPCode", " it", "'s", " ", "4", "2", " x", "//\n"}));
  EXPECT_EQ(matches(kTekken, "e\u0301A"), (Strings{"e\u0301", "A"}));
}

TEST(SplitPattern, TheO200kPatternKeepsContractionsAtTheirWord) {
  EXPECT_EQ(matches(kO200k, "don't IT'S 12345"), (Strings{"don't", " IT'S", " ", "123", "45"}));
}

TEST(SplitPattern, PropertiesAreCategoriesOfUnicode) {
  EXPECT_EQ(matches(R"(\p{Lu}|\p{Lt}|\p{Lm})", "aB\u01C5\u02B0\u4E2D"), (Strings{"B", "\u01C5", "\u02B0"}));
  EXPECT_EQ(matches(R"([\p{P}\p{S}]+)", "a+b!?c"), (Strings{"+", "!?"}));
  EXPECT_EQ(matches(R"(\d+)", "12\u0664 \u00BD"), (Strings{"12\u0664"}));  // ½ is a number, but no digit
  EXPECT_EQ(matches(R"([\D]+)", "1a2"), (Strings{"a"}));
}

TEST(SplitPattern, LettersOfUnicode16Count) {
  // U+1C89 is a Cyrillic capital letter since Unicode 16.
  EXPECT_EQ(matches(R"(\p{L}+)", "a\u1C89-b"), (Strings{"a\u1C89", "b"}));
  EXPECT_EQ(matches(R"(\P{L}+)", "a\u1C89-b"), (Strings{"-"}));
}

TEST(SplitPattern, ClassesMayBeNegatedInsideAndOutside) {
  EXPECT_EQ(matches(R"([^\s\p{N}]+)", "ab 1c"), (Strings{"ab", "c"}));
  EXPECT_EQ(matches(R"([\S]+)", "ab \u00A0c"), (Strings{"ab", "c"}));
  EXPECT_EQ(matches(R"([\P{N}]+)", "a1b"), (Strings{"a", "b"}));
  EXPECT_EQ(matches(R"([a-c\-\]]+)", "xab-]d"), (Strings{"ab-]"}));
}

TEST(SplitPattern, QuantifiersMayBeLazyOrPossessive) {
  EXPECT_EQ(matches(R"(a+?)", "aaa"), (Strings{"a", "a", "a"}));
  EXPECT_EQ(matches(R"(a++b|a)", "aab"), (Strings{"aab"}));
  EXPECT_EQ(matches(R"((?:ab){2,})", "ababab"), (Strings{"ababab"}));
}

TEST(SplitPattern, EmptyMatchesDoNotLoop) {
  const auto spans = SplitPattern::regex("a*", "t").find("baab");
  EXPECT_EQ(spans, (std::vector<Span>{{0, 0}, {1, 3}, {4, 4}}));
}

TEST(SplitPattern, ALiteralIsFoundWithoutOverlap) {
  const auto spans = SplitPattern::literal("aa").find("aaaaa");
  EXPECT_EQ(spans, (std::vector<Span>{{0, 2}, {2, 4}}));
}

TEST(SplitPattern, UnsupportedConstructsAreNamed) {
  EXPECT_TRUE(mentions(rejection("(a)"), {"tokenizer.json", "the group '(a)'"}));
  EXPECT_TRUE(mentions(rejection("(?<=a)b"), {"tokenizer.json", "the group '(?<='"}));
  EXPECT_TRUE(mentions(rejection(R"(\p{Han})"), {"tokenizer.json", R"('\p{Han}')"}));
  EXPECT_TRUE(mentions(rejection(R"(\p{L)"), {"tokenizer.json", R"('\p{L')"}));
  EXPECT_TRUE(mentions(rejection(R"(\w+)"), {"tokenizer.json", R"('\w')"}));
  EXPECT_TRUE(mentions(rejection(R"((?:a)\1)"), {"tokenizer.json", R"('\1')"}));
  EXPECT_TRUE(mentions(rejection("^a"), {"tokenizer.json", "'^'"}));
  EXPECT_TRUE(mentions(rejection("a.b"), {"tokenizer.json", "'.'"}));
  EXPECT_TRUE(mentions(rejection("[[:alpha:]]"), {"tokenizer.json", "'[' in a class"}));
  EXPECT_TRUE(mentions(rejection("[a&&b]"), {"tokenizer.json", "'&&'"}));
}

TEST(SplitPattern, MalformedPatternsAreNamed) {
  EXPECT_TRUE(mentions(rejection("(?:a"), {"tokenizer.json", "unclosed group"}));
  EXPECT_TRUE(mentions(rejection("a)"), {"tokenizer.json", "')' without '('"}));
  EXPECT_TRUE(mentions(rejection("[a"), {"tokenizer.json", "unclosed '['"}));
  EXPECT_TRUE(mentions(rejection("*a"), {"tokenizer.json", "nothing to repeat"}));
  EXPECT_TRUE(mentions(rejection("a**"), {"tokenizer.json", "nothing to repeat"}));
  EXPECT_TRUE(mentions(rejection("a{,3}"), {"tokenizer.json", "'{'"}));
  EXPECT_TRUE(mentions(rejection("a{3,2}"), {"tokenizer.json", "n below m"}));
  EXPECT_TRUE(mentions(rejection("a{99999}"), {"tokenizer.json", "1000 repetitions"}));
  EXPECT_TRUE(mentions(rejection("a{1,2}+"), {"tokenizer.json", "behind {m,n}"}));
  EXPECT_TRUE(mentions(rejection("[z-a]"), {"tokenizer.json", "range"}));
  EXPECT_TRUE(mentions(rejection("a\\"), {"tokenizer.json", "backslash"}));
  std::string many;
  for (int i = 0; i < 10'000; ++i) many += R"(\p{L})";
  EXPECT_TRUE(mentions(rejection(many), {"tokenizer.json", "too many character classes"}));
  EXPECT_TRUE(mentions(rejection("[" + many + "]"), {"tokenizer.json", "too many character classes"}));
  EXPECT_TRUE(mentions(rejection(std::string(70'000, 'a')), {"tokenizer.json", "70000 bytes"}));
}

TEST(SplitPattern, APatternThatBacktracksWithoutEndIsAnError) {
  const auto pattern = SplitPattern::regex("(?:(?:a|a)+)+[^a]", "tokenizer.json");
  EXPECT_TRUE(
      mentions(error_of([&] { pattern.find(std::string(60, 'a')); }), {"tokenizer.json", "gives up"}));
}

TEST(SplitPattern, JsonGivesALiteralOrAnExpression) {
  EXPECT_EQ(SplitPattern::parse(Json{{"String", "."}}, "t").find("a.b"), (std::vector<Span>{{1, 2}}));
  EXPECT_EQ(SplitPattern::parse(Json{{"Regex", "[ab]"}}, "t").find("a."), (std::vector<Span>{{0, 1}}));
  EXPECT_TRUE(mentions(error_of([] {
                         SplitPattern::parse(Json{{"String", ""}}, "file");
                       }),
                       {"file", "empty"}));
  EXPECT_TRUE(mentions(error_of([] { SplitPattern::parse(Json::object(), "file"); }), {"file", "'String'"}));
}

}  // namespace
}  // namespace visq

#include "visq/inputs/unicode.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

TEST(Unicode, WellFormedTextIsLeftAlone) {
  const std::string text = "a\u00E9\u20AC\U0001F600";
  EXPECT_EQ(to_valid_utf8(text), text);
  EXPECT_EQ(to_valid_utf8(""), "");
}

/// Python: bytes.decode("utf-8", errors="replace").
TEST(Unicode, EachMaximalMalformedPartBecomesOneReplacementCharacter) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(to_valid_utf8("a\xFFz"), "a" + r + "z");
  EXPECT_EQ(to_valid_utf8("\xE2\x82"), r);  // a truncated three-byte character
  EXPECT_EQ(to_valid_utf8("\xE2\x82z"), r + "z");
  EXPECT_EQ(to_valid_utf8("\xC0\xAF"), r + r);                  // overlong
  EXPECT_EQ(to_valid_utf8("\xE0\x80\x80"), r + r + r);          // overlong
  EXPECT_EQ(to_valid_utf8("\xED\xA0\x80"), r + r + r);          // a surrogate
  EXPECT_EQ(to_valid_utf8("\xF4\x90\x80\x80"), r + r + r + r);  // beyond U+10FFFF
  EXPECT_EQ(to_valid_utf8("\xF0\x9F\x98"), r);
  EXPECT_EQ(to_valid_utf8("\x80"), r);
}

TEST(Unicode, CharactersAreReadInBothDirections) {
  const std::string text = "a\u20AC\U0001F600";
  size_t position = 0;
  EXPECT_EQ(next_char(text, position), U'a');
  EXPECT_EQ(next_char(text, position), U'\u20AC');
  EXPECT_EQ(next_char(text, position), U'\U0001F600');
  EXPECT_EQ(position, text.size());
  EXPECT_EQ(previous_char(text, position), U'\U0001F600');
  EXPECT_EQ(previous_char(text, position), U'\u20AC');
  EXPECT_EQ(position, 1u);
}

TEST(Unicode, AppendingIsTheInverseOfReading) {
  for (const char32_t c : {0x0u, 0x7Fu, 0x80u, 0x7FFu, 0x800u, 0xFFFFu, 0x10000u, 0x10FFFFu}) {
    std::string text;
    append_utf8(text, c);
    size_t position = 0;
    EXPECT_EQ(next_char(text, position), c);
    EXPECT_EQ(position, text.size());
  }
}

TEST(Unicode, ClassesHaveTheSizesOfUnicode16) {
  const auto count = [](CharClass c) {
    int64_t total = 0;
    for (const CodeRange& range : ranges_of(c)) total += range.last - range.first + 1;
    return total;
  };
  EXPECT_EQ(count(CharClass::letter), 141028);
  EXPECT_EQ(count(CharClass::number), 1911);
  EXPECT_EQ(count(CharClass::space), 25);
  EXPECT_EQ(count(CharClass::uppercase) + count(CharClass::lowercase) + count(CharClass::titlecase) +
                count(CharClass::modifier_letter) + count(CharClass::other_letter),
            141028);
  EXPECT_EQ(count(CharClass::mark), 2501);
  EXPECT_EQ(count(CharClass::punctuation), 855);
  EXPECT_EQ(count(CharClass::symbol), 8514);
  EXPECT_EQ(count(CharClass::decimal_digit), 760);
  EXPECT_EQ(count(CharClass::numeric), 1924);  // Unicode 17
}

TEST(Unicode, ClassMembershipAtTheEdges) {
  EXPECT_TRUE(is_in(CharClass::space, 0x85));
  EXPECT_TRUE(is_in(CharClass::space, 0x3000));
  EXPECT_FALSE(is_in(CharClass::space, 0x180E));
  EXPECT_FALSE(is_in(CharClass::space, 0x200B));
  EXPECT_TRUE(is_in(CharClass::letter, U'A'));
  EXPECT_FALSE(is_in(CharClass::letter, U'@'));
  EXPECT_FALSE(is_in(CharClass::letter, U'['));
  EXPECT_TRUE(is_in(CharClass::number, 0xBD));  // ½
  EXPECT_TRUE(is_in(CharClass::word, 0x0301));  // a combining mark
  EXPECT_TRUE(is_in(CharClass::word, 0x200D));  // zero-width joiner
  EXPECT_TRUE(is_in(CharClass::word, U'_'));
  EXPECT_FALSE(is_in(CharClass::word, U'-'));
  EXPECT_FALSE(is_in(CharClass::letter, kMaxCodePoint));
}

TEST(Unicode, WhitespaceIsSkippedInBothDirections) {
  const std::string text = "a \u3000b";
  EXPECT_EQ(skip_space(text, 1), 5u);
  EXPECT_EQ(skip_space_back(text, 5), 1u);
  EXPECT_EQ(skip_space(text, 0), 0u);
  EXPECT_EQ(skip_space_back("  ", 2), 0u);
}

TEST(Unicode, LoweringKnowsUnicode17) {
  EXPECT_EQ(to_lower("\u00C4\u0391\u0416\u1E9E1"), "\u00E4\u03B1\u0436\u00DF1");
  EXPECT_EQ(to_lower("\u1C89\uA7CB\uA7CC\uA7CD\uA7DC"), "\u1C8A\u0264\uA7CD\uA7CD\u019B");
  EXPECT_EQ(to_lower("\U00010D50\U00010D65\U00016EB8"), "\U00010D70\U00010D85\U00016ED3");
  EXPECT_EQ(to_lower("\u0130"), "i\u0307");
}

TEST(Unicode, NfcComposesAndReorders) {
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(to_nfc("\u1100\u1161\u11A8"), "\uAC01");   // Hangul
  EXPECT_EQ(to_nfc("\u212B"), "\u00C5");               // Ångström sign
  EXPECT_EQ(to_nfc("a\u0323\u0307"), "\u1EA1\u0307");  // dot below before dot above
  EXPECT_EQ(to_nfc("a\u0307\u0323"), "\u1EA1\u0307");
  EXPECT_EQ(to_nfc(std::string("e\u0301\0e", 5)), std::string("\u00E9\0e", 4));
}

TEST(Unicode, MarksYoungerThanUnicode9BlockReordering) {
  // U+0898 has class 230 today and class 0 in the reference's data: U+0323 does not move before it.
  EXPECT_EQ(to_nfc("a\u0898\u0323"), "a\u0898\u0323");
  EXPECT_EQ(to_nfc("\U00011935\U00011930"), "\U00011935\U00011930");
}

}  // namespace
}  // namespace visq

#include "visq/inputs/added_tokens.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Strings = std::vector<std::string>;

const Bpe& model() {
  static const Bpe bpe({{"a", 0}, {"b", 1}, {"<s>", 2}}, {}, {}, "t");
  return bpe;
}

AddedToken special(const std::string& content) {
  return {.content = content, .normalized = false, .special = true};
}

AddedTokens built(const std::vector<AddedToken>& tokens, bool split_special = false) {
  AddedTokens added;
  added.add(tokens, model());
  added.build(Normalizer(), split_special, "tokenizer.json");
  return added;
}

/// Stretches as text, tokens in brackets.
Strings split(const AddedTokens& added, const std::string& text) {
  Strings out;
  for (const Stretch& stretch : added.split_raw(text)) {
    const std::string part = text.substr(stretch.span.begin, stretch.span.end - stretch.span.begin);
    out.push_back(stretch.id ? "[" + part + "]" : part);
  }
  return out;
}

TEST(AddedTokens, IdsAreTheModelsOrTheNextFreeOnes) {
  const auto added = built({special("<x>"), special("<s>"), special("<y>")});
  EXPECT_EQ(added.id_of("<x>"), 3);
  EXPECT_EQ(added.id_of("<s>"), 2);
  EXPECT_EQ(added.id_of("<y>"), 4);
  EXPECT_EQ(added.largest_id(), 4);
}

TEST(AddedTokens, AddingAgainKeepsTheIdAndChangesTheFlags) {
  AddedTokens added;
  added.add({special("<x>"), special("<y>")}, model());
  added.add({{.content = "<x>", .rstrip = true, .normalized = false}, special("<z>")}, model());
  added.build(Normalizer(), false, "t");
  EXPECT_EQ(added.id_of("<x>"), 3);
  EXPECT_TRUE(added.find(3)->rstrip);
  EXPECT_TRUE(added.is_special("<x>"));  // once special, always left out
  EXPECT_EQ(added.id_of("<z>"), 5);
}

TEST(AddedTokens, TheLongestTokenWins) {
  const auto added = built({special("<X>"), special("<X><Y>")});
  EXPECT_EQ(split(added, "a<X><Y><X>b"), (Strings{"a", "[<X><Y>]", "[<X>]", "b"}));
}

TEST(AddedTokens, StrippingTakesWhitespaceOnItsSide) {
  const auto added = built({{.content = "<Z>", .lstrip = true, .rstrip = true, .normalized = false}});
  EXPECT_EQ(split(added, "a  <Z> \u3000b"), (Strings{"a", "[  <Z> \u3000]", "b"}));
}

TEST(AddedTokens, WhitespaceTakenTwiceIsTextAgain) {
  const auto added = built({{.content = "<end>", .rstrip = true, .normalized = false}, special("\n\n")});
  EXPECT_EQ(split(added, "<end>\n\n\n"), (Strings{"[<end>\n\n\n]", "[\n\n]", "\n"}));
}

TEST(AddedTokens, ASingleWordIsNotFoundInsideAWord) {
  const auto added = built({{.content = "cat", .single_word = true, .normalized = false}});
  EXPECT_EQ(split(added, "cat, concat cat\u0301"), (Strings{"[cat]", ", concat cat\u0301"}));
}

TEST(AddedTokens, SpecialsAreTextWhenTheyShallBeSplit) {
  const auto added = built({special("<x>"), {.content = "<y>", .normalized = false}}, /*split_special=*/true);
  EXPECT_EQ(split(added, "<x><y>"), (Strings{"<x>", "[<y>]"}));
}

TEST(AddedTokens, ANormalizedTokenIsSoughtInItsNormalizedForm) {
  AddedTokens added;
  added.add({{.content = "b c"}}, model());
  const Normalizer normalizer(
      {Normalizer::Prepend{"_"}, Normalizer::Replace{SplitPattern::literal(" "), "_"}});
  added.build(normalizer, false, "t");
  EXPECT_TRUE(added.split_raw("a b c")[0].id == std::nullopt);
  const auto stretches = added.split_normalized("_a_b_c");
  ASSERT_EQ(stretches.size(), 2u);
  EXPECT_EQ(stretches[1].id, 3);
  EXPECT_EQ(stretches[1].span, (Span{2, 6}));
  EXPECT_EQ(added.decoding_text(3), "_b_c");
}

TEST(AddedTokens, EmptyTextGivesNoStretch) { EXPECT_TRUE(built({special("<x>")}).split_raw("").empty()); }

TEST(AddedTokens, TwoTokensWithOneNormalizedFormAreAnError) {
  AddedTokens added;
  added.add({{.content = "e\u0301"}, {.content = "\u00E9"}}, model());
  EXPECT_TRUE(
      mentions(error_of([&] { added.build(Normalizer({Normalizer::Nfc{}}), false, "tokenizer.json"); }),
               {"tokenizer.json", "twice"}));
}

}  // namespace
}  // namespace visq

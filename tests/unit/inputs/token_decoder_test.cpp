#include "visq/inputs/token_decoder.h"

#include "support.h"

namespace visq {
namespace {

using namespace test;
using Strings = std::vector<std::string>;

std::string decode(const std::string& json, Strings tokens) {
  return TokenDecoder::parse(Json::parse(json), "tokenizer.json").decode(std::move(tokens));
}

const std::string kLlama = R"({"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

TEST(TokenDecoder, TheLlamaSequenceRestoresSpacesAndBytes) {
  EXPECT_EQ(decode(kLlama, {"▁▁Hello", "▁", "<0xC3>", "<0xA9>", "!"}), " Hello \u00E9!");
}

TEST(TokenDecoder, BytesThatAreNoTextBecomeOneReplacementCharacterEach) {
  EXPECT_EQ(decode(kLlama, {"a", "<0xC3>", "<0x28>", "b"}), "a\uFFFD\uFFFDb");
  EXPECT_EQ(decode(kLlama, {"<0xZZ>"}), "<0xZZ>");
}

TEST(TokenDecoder, ByteLevelJoinsBytesAcrossTokens) {
  EXPECT_EQ(decode(R"({"type": "ByteLevel"})", {"Ġa", "Ã", "©"}), " a\u00E9");
  EXPECT_EQ(decode(R"({"type": "ByteLevel"})", {"Ã", "a"}), "\uFFFDa");
  EXPECT_EQ(decode(R"({"type": "ByteLevel"})", {"<|中|>"}), "<|中|>");  // no byte characters: kept as it is
}

TEST(TokenDecoder, MetaspaceDropsTheFirstReplacement) {
  EXPECT_EQ(decode(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"})", {"▁a", "▁b"}),
            "a b");
  EXPECT_EQ(decode(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"})", {"▁a", "▁b"}),
            " a b");
}

TEST(TokenDecoder, WithoutADecoderTokensAreJoinedBySpaces) { EXPECT_EQ(decode("null", {"a", "b"}), "a b"); }

TEST(TokenDecoder, OtherComponentsAreNamed) {
  EXPECT_EQ(error_of([] { decode(R"({"type": "WordPiece"})", {}); }),
            "tokenizer.json: decoder: 'WordPiece' is not supported");
  EXPECT_TRUE(mentions(error_of([] { decode(R"({"type": "Strip", "content": ""})", {}); }),
                       {"tokenizer.json", "empty"}));
}

}  // namespace
}  // namespace visq

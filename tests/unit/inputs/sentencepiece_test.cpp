#include "visq/inputs/sentencepiece.h"

#include "sentencepiece_files.h"
#include "support.h"

namespace visq {
namespace {

using namespace test;
using Type = SentencePieceModel::Type;

std::string rejection(const std::string& bytes) {
  return error_of([&] { SentencePieceModel::parse(bytes, "tokenizer.model"); });
}

TEST(SentencePiece, PiecesAndSettingsAreRead) {
  const auto model = SentencePieceModel::parse(
      piece("<unk>", 2) + piece("<s>", 3) + piece("▁a") + piece("<0x0A>", 6) +
          trainer_spec(number(3, 2) + number(35, 1) + number(40, 0) + number(42, -1) + block(46, "<bos>")) +
          block(3, block(1, "identity")),
      "tokenizer.model");
  ASSERT_EQ(model.pieces.size(), 4u);
  EXPECT_EQ(model.pieces[1].text, "<s>");
  EXPECT_EQ(model.pieces[1].type, Type::control);
  EXPECT_EQ(model.pieces[2].type, Type::normal);
  EXPECT_EQ(model.pieces[3].type, Type::byte);
  EXPECT_EQ(model.algorithm, SentencePieceModel::Algorithm::bpe);
  EXPECT_TRUE(model.byte_fallback);
  EXPECT_EQ(model.bos_id, 1);
  EXPECT_EQ(model.eos_id, -1);
  EXPECT_EQ(model.bos_piece, "<bos>");
  EXPECT_EQ(model.eos_piece, "</s>");
  EXPECT_FALSE(model.has_character_map);
}

TEST(SentencePiece, ACompiledNormalizationIsNoticed) {
  EXPECT_TRUE(SentencePieceModel::parse(piece("a") + block(3, block(2, "map")), "t").has_character_map);
}

TEST(SentencePiece, UnknownFieldsArePassedOver) {
  const std::string fixed64 = varint(9 << 3 | 1) + std::string(8, 'x');
  EXPECT_EQ(
      SentencePieceModel::parse(fixed64 + number(99, 5) + block(77, "?") + piece("a"), "t").pieces.size(),
      1u);
}

TEST(SentencePiece, EveryTruncationIsAnErrorOrAShorterModel) {
  const std::string bytes =
      piece("<unk>", 2) + piece("ab") + trainer_spec(number(35, 1) + block(45, "<unk>"));
  for (size_t size = 1; size < bytes.size(); ++size) {
    try {
      const auto model = SentencePieceModel::parse(bytes.substr(0, size), "tokenizer.model");
      EXPECT_LE(model.pieces.size(), 2u);
    } catch (const Error& e) {
      EXPECT_TRUE(mentions(e.what(), {"tokenizer.model"}));
    }
  }
}

TEST(SentencePiece, HostileBytesAreErrors) {
  EXPECT_TRUE(mentions(rejection(""), {"tokenizer.model", "no pieces"}));
  EXPECT_TRUE(mentions(rejection("IQ== 0\nIg== 1\n"), {"tokenizer.model", "not a SentencePiece model"}));
  EXPECT_TRUE(mentions(rejection(varint(1 << 3 | 2) + varint(UINT64_MAX)), {"not a SentencePiece model"}));
  EXPECT_TRUE(mentions(rejection(varint(1 << 3) + std::string(11, '\xFF')), {"not a SentencePiece model"}));
  EXPECT_TRUE(mentions(rejection(varint(1 << 3 | 3)), {"not a SentencePiece model"}));  // a group
  EXPECT_TRUE(mentions(rejection(varint(2)), {"not a SentencePiece model"}));           // field 0
  EXPECT_TRUE(mentions(rejection(piece("\xFF")), {"not UTF-8"}));
  EXPECT_TRUE(mentions(rejection(piece("a") + trainer_spec(block(46, "\xC3"))), {"not UTF-8"}));
  EXPECT_TRUE(mentions(rejection(piece("")), {"empty"}));
  EXPECT_TRUE(mentions(rejection(piece(std::string(2000, 'a'))), {"2000 bytes"}));
}

}  // namespace
}  // namespace visq

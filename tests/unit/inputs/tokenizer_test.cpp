#include "visq/inputs/tokenizer.h"

#include "sentencepiece_files.h"
#include "support.h"

namespace visq {
namespace {

using namespace test;
using Ids = std::vector<int64_t>;

/// A SentencePiece-style file in the shape of Llama 2: bytes a and b, their pair, and <image> beyond the
/// vocabulary.
const std::string kLlama = R"({
  "added_tokens": [
    {"id": 0, "content": "<unk>", "special": true},
    {"id": 1, "content": "<s>", "special": true},
    {"id": 8, "content": "<image>", "special": true}],
  "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
  "pre_tokenizer": null,
  "post_processor": {"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
  "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": true,
    "vocab": {"<unk>": 0, "<s>": 1, "<0x21>": 2, "▁": 3, "a": 4, "b": 5, "ab": 6, "▁ab": 7},
    "merges": ["a b", ["▁", "ab"]]}})";

/// A byte-level file in the shape of Qwen2, whose own pre-tokenizer the Qwen2 class overrules.
const std::string kQwen2 = R"({
  "added_tokens": [
    {"id": 4, "content": "<|endoftext|>", "special": true},
    {"id": 5, "content": "<tool>", "normalized": false}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": true, "use_regex": false},
  "post_processor": {"type": "ByteLevel"}, "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "vocab": {"1": 0, "Ġ": 1, "11": 2, "Ã": 3}, "merges": ["1 1"]}})";

class Checkpoint {
 public:
  explicit Checkpoint(const std::string& tokenizer, const std::string& model_type,
                      const std::string& tokenizer_config = "{}") {
    dir_.write("tokenizer.json", tokenizer);
    dir_.write("tokenizer_config.json", tokenizer_config);
    dir_.write("config.json", R"({"model_type": ")" + model_type + "\"}");
  }
  const TempDir& dir() const { return dir_; }
  Tokenizer load() const { return Tokenizer::load(dir_.path()); }

 private:
  TempDir dir_;
};

TEST(Tokenizer, LlavaObeysItsTokenizerFile) {
  const auto tokenizer = Checkpoint(kLlama, "llava", R"({"tokenizer_class": "LlamaTokenizerFast"})").load();
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{1, 7}));
  EXPECT_EQ(tokenizer.encode(" ab"), (Ids{1, 3, 7}));
  EXPECT_EQ(tokenizer.encode("ab", /*add_special_tokens=*/false), (Ids{7}));
  EXPECT_EQ(tokenizer.encode(""), (Ids{1}));
  EXPECT_EQ(tokenizer.encode("b!", false), (Ids{3, 5, 2}));
  EXPECT_EQ(tokenizer.encode("?", false), (Ids{3, 0}));
}

TEST(Tokenizer, EachStretchBetweenAddedTokensIsNormalizedByItself) {
  const auto tokenizer = Checkpoint(kLlama, "llava").load();
  EXPECT_EQ(tokenizer.encode("ab<image>ab<image>", false), (Ids{7, 8, 7, 8}));
  EXPECT_EQ(tokenizer.encode("<image> ab", false), (Ids{8, 3, 7}));
}

TEST(Tokenizer, DecodingLeavesOutSpecialTokensWhenAsked) {
  const auto tokenizer = Checkpoint(kLlama, "llava").load();
  const Ids ids{1, 7, 8, 7, 2};
  EXPECT_EQ(tokenizer.decode(ids), "ab ab!");
  EXPECT_EQ(tokenizer.decode(ids, /*skip_special=*/false), "<s> ab<image> ab!");
  EXPECT_EQ(tokenizer.decode(Ids{7, 99, -1}), "ab");  // ids without a token are skipped
}

TEST(Tokenizer, TokensHaveIdsAndTheSizeIsOnePastTheLargest) {
  const auto tokenizer = Checkpoint(kLlama, "llava").load();
  EXPECT_EQ(tokenizer.id_of("<image>"), 8);
  EXPECT_EQ(tokenizer.id_of("▁ab"), 7);
  EXPECT_FALSE(tokenizer.id_of("zebra").has_value());
  EXPECT_EQ(tokenizer.size(), 9);
}

TEST(Tokenizer, Qwen2FixesItsPipelineWhateverTheFileSays) {
  const auto tokenizer = Checkpoint(kQwen2, "qwen2_5_vl", R"({"tokenizer_class": "Qwen2Tokenizer"})").load();
  EXPECT_EQ(tokenizer.encode("11"), (Ids{0, 0}));  // every digit is a piece of its own, no space is added
  EXPECT_EQ(tokenizer.encode("1<|endoftext|>1<tool>", false), (Ids{0, 4, 0, 5}));
  EXPECT_EQ(tokenizer.decode(Ids{0, 4, 5}), "1<tool>");
  const auto generic =
      Checkpoint(kQwen2, "qwen2_5_vl", R"({"tokenizer_class": "PreTrainedTokenizerFast"})").load();
  EXPECT_EQ(generic.encode("11"), (Ids{1, 2}));
}

TEST(Tokenizer, TheLlamaClassPrependsAtTheStartOnly) {
  const auto load = [](const std::string& more) {
    return Checkpoint(kLlama, "llama", R"({"tokenizer_class": "LlamaTokenizer")" + more + "}").load();
  };
  const auto tokenizer = load("");
  EXPECT_EQ(tokenizer.encode("ab"), (Ids{1, 7}));
  EXPECT_EQ(tokenizer.encode(" ab<image>ab", false), (Ids{7, 8, 6}));
  EXPECT_EQ(tokenizer.encode("a?", false), (Ids{3, 4}));  // unknown characters vanish
  EXPECT_EQ(tokenizer.decode(Ids{7}), "ab");
  EXPECT_EQ(load(R"(, "legacy": true)").encode("ab<image>ab", false), (Ids{7, 8, 7}));
  const auto without_prefix = load(R"(, "add_prefix_space": false)");
  EXPECT_EQ(without_prefix.encode("ab", false), (Ids{6}));
  EXPECT_EQ(without_prefix.decode(Ids{7}), " ab");
}

TEST(Tokenizer, TheGemmaClassPrependsNothingAndNamesItsTokens) {
  const auto tokenizer = Checkpoint(kLlama, "gemma3", R"({"tokenizer_class": "GemmaTokenizerFast"})").load();
  EXPECT_EQ(tokenizer.encode("ab ab<image>ab", false), (Ids{6, 7, 8, 6}));
  EXPECT_EQ(tokenizer.encode("a!?", false), (Ids{4, 2, 0}));
  EXPECT_EQ(tokenizer.id_of("<bos>"), 9);
  EXPECT_EQ(tokenizer.id_of("<mask>"), 12);
  EXPECT_EQ(Checkpoint(kLlama, "gemma3").load().encode("ab", false), (Ids{6}));  // registered
}

TEST(Tokenizer, TheGpt2ClassKeepsNumbersTogether) {
  const auto tokenizer = Checkpoint(kQwen2, "phi4mm", R"({"tokenizer_class": "GPT2TokenizerFast"})").load();
  EXPECT_EQ(tokenizer.encode("11 11"), (Ids{2, 1, 2}));
}

TEST(Tokenizer, AByteLevelFileOverrulesADeclaredLlamaClass) {
  const auto tokenizer = Checkpoint(kQwen2, "llama", R"({"tokenizer_class": "LlamaTokenizer"})").load();
  EXPECT_EQ(tokenizer.encode("11"), (Ids{1, 2}));
}

TEST(Tokenizer, TheModelTypeQwen2OverrulesADeclaredClass) {
  const auto tokenizer = Checkpoint(kQwen2, "qwen2", R"({"tokenizer_class": "TokenizersBackend"})").load();
  EXPECT_EQ(tokenizer.encode("11"), (Ids{0, 0}));
}

TEST(Tokenizer, ATekkenFileIsReadWhereThereIsNoTokenizerFile) {
  const TempDir dir;
  dir.write("tekken.json", R"({"config": {"pattern": "\\S+|\\s+"},
      "special_tokens": [{"rank": 0, "token_str": "<unk>"}, {"rank": 1, "token_str": "<s>"}],
      "vocab": [{"token_bytes": "YQ=="}, {"token_bytes": "Yg=="}, {"token_bytes": "YWI="},
                {"token_bytes": "IA=="}, {"token_bytes": "YWJhYg=="}]})");
  const auto plain = Tokenizer::load(dir.path());
  EXPECT_EQ(plain.encode("ab <s>abab"), (Ids{4, 5, 1, 6}));
  EXPECT_EQ(plain.decode(Ids{1, 4, 5, 2}), "ab a");
  EXPECT_EQ(plain.size(), 7);
  dir.write("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": true})");
  EXPECT_EQ(Tokenizer::load(dir.path()).encode("a"), (Ids{1, 2}));
}

/// The pieces of kLlama, with "▁ab" from its cuts ▁+ab alone.
std::string llama_model(const std::string& trainer_fields) {
  return piece("<unk>", 2) + piece("<s>", 3) + piece("<0x21>", 6) + piece("▁") + piece("a") + piece("b") +
         piece("ab") + piece("▁ab") + piece("a a", 4) + trainer_spec(trainer_fields);
}

TEST(Tokenizer, ASentencePieceModelIsReadWhereThereIsNoTokenizerFile) {
  const TempDir dir;
  dir.write("tokenizer.model", llama_model(number(3, 2) + number(35, 1)));
  dir.write("tokenizer_config.json", R"({"add_bos_token": true, "tokenizer_class": "LlamaTokenizer"})");
  const auto llama = Tokenizer::load(dir.path());
  EXPECT_EQ(llama.encode("ab!"), (Ids{1, 7, 2}));
  EXPECT_EQ(llama.encode("ab a a", false), (Ids{7, 3, 8}));
  EXPECT_EQ(llama.decode(Ids{1, 7, 8}), "aba a");
  dir.write("tokenizer_config.json", "{}");
  EXPECT_EQ(Tokenizer::load(dir.path()).encode("ab ab?"), (Ids{6, 7, 0}));
}

TEST(Tokenizer, VocabularyAndMergesAreEnoughForAClassThatSplitsBytes) {
  const TempDir dir;
  dir.write("vocab.json", R"({"1": 0, "Ġ": 1, "11": 2, "Ġ11": 3})");
  dir.write("merges.txt", "#version: 0.2\n1 1\r\nĠ 11\n");
  dir.write("tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer"})");
  EXPECT_EQ(Tokenizer::load(dir.path()).encode("11 11"), (Ids{2, 3}));
  dir.write("tokenizer_config.json", R"({"tokenizer_class": "Qwen2Tokenizer"})");
  EXPECT_EQ(Tokenizer::load(dir.path()).encode("11 11"), (Ids{0, 0, 1, 0, 0}));
  dir.write("tokenizer_config.json", "{}");
  EXPECT_TRUE(mentions(error_of([&] { Tokenizer::load(dir.path()); }),
                       {"vocab.json", "how text is split", "tokenizer.json"}));
  dir.write("merges.txt", "1 1 1\n");
  EXPECT_TRUE(mentions(error_of([&] { Tokenizer::load(dir.path()); }), {"merges.txt", "'1 1 1'"}));
}

TEST(Tokenizer, WhatASentencePieceModelCannotBeIsNamed) {
  const TempDir dir;
  const auto load_model = [&](const std::string& bytes) {
    dir.write("tokenizer.model", bytes);
    return error_of([&] { Tokenizer::load(dir.path()); });
  };
  EXPECT_TRUE(mentions(load_model(llama_model(number(3, 1))), {"tokenizer.model", "'Unigram'"}));
  EXPECT_TRUE(mentions(load_model(piece("<unk>", 2) + trainer_spec(number(3, 2)) + block(3, block(2, "map"))),
                       {"tokenizer.model", "'Precompiled'"}));
}

TEST(Tokenizer, InvalidUtf8IsReadAsReplacementCharacters) {
  const auto tokenizer = Checkpoint(kLlama, "llava").load();
  EXPECT_EQ(tokenizer.encode("a\xFF"
                             "b",
                             false),
            tokenizer.encode("a\uFFFDb", false));
}

TEST(Tokenizer, ANamedSpecialTokenOutsideTheVocabularyGetsTheNextId) {
  const auto tokenizer =
      Checkpoint(kLlama, "llava", R"({"pad_token": "<pad>", "image_token": "<image>", "boi_token": "<boi>"})")
          .load();
  EXPECT_EQ(tokenizer.id_of("<pad>"), 9);
  EXPECT_EQ(tokenizer.id_of("<boi>"), 10);
  EXPECT_EQ(tokenizer.encode("<boi>", false), (Ids{10}));
}

TEST(Tokenizer, TheAddedTokensDecoderChangesFlags) {
  const auto tokenizer = Checkpoint(kLlama, "llava", R"({"added_tokens_decoder": {"8": {"content": "<image>",
      "lstrip": false, "rstrip": true, "single_word": false, "normalized": false, "special": true}}})")
                             .load();
  EXPECT_EQ(tokenizer.encode("<image> ab", false), (Ids{8, 7}));
}

TEST(Tokenizer, OlderFilesAddTokensToo) {
  const Checkpoint checkpoint(kQwen2, "qwen2_5_vl");
  checkpoint.dir().write("special_tokens_map.json", R"({"additional_special_tokens": ["<|im_start|>"]})");
  checkpoint.dir().write("added_tokens.json", R"({"<box>": 6})");
  const auto tokenizer = checkpoint.load();
  EXPECT_EQ(tokenizer.id_of("<box>"), 6);
  EXPECT_EQ(tokenizer.id_of("<|im_start|>"), 7);
  EXPECT_EQ(tokenizer.decode(Ids{6, 7}), "<box>");
}

std::string load_error(std::string tokenizer, const std::string& from = "", const std::string& to = "",
                       const std::string& model_type = "llava", const std::string& config = "{}") {
  if (!from.empty()) tokenizer.replace(tokenizer.find(from), from.size(), to);
  const Checkpoint checkpoint(tokenizer, model_type, config);
  return error_of([&] { checkpoint.load(); });
}

TEST(Tokenizer, UnsupportedComponentsAreNamed) {
  EXPECT_TRUE(mentions(load_error(kLlama, R"("BPE")", R"("Unigram")"), {"tokenizer.json", "Unigram"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("Prepend")", R"("NFKC")"), {"tokenizer.json", "'NFKC'"}));
  EXPECT_TRUE(
      mentions(load_error(kLlama, R"("pre_tokenizer": null)", R"("pre_tokenizer": {"type": "Punctuation"})"),
               {"tokenizer.json", "'Punctuation'"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("fuse_unk": true)", R"("dropout": 0.1)"),
                       {"tokenizer.json", "'dropout'"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("fuse_unk": true)", R"("end_of_word_suffix": "</w>")"),
                       {"tokenizer.json", "'end_of_word_suffix'"}));
  EXPECT_TRUE(mentions(load_error(kLlama, "", "", "phi", R"({"tokenizer_class": "XLNetTokenizerFast"})"),
                       {"tokenizer.json", "'XLNetTokenizer'", "'phi'"}));
}

TEST(Tokenizer, MalformedFilesAreErrorsThatNameTheCause) {
  EXPECT_TRUE(mentions(load_error("{"), {"tokenizer.json", "not valid JSON"}));
  EXPECT_TRUE(mentions(load_error("[]"), {"tokenizer.json", "'model' is missing"}));
  EXPECT_TRUE(mentions(load_error(std::string(100, '[')), {"tokenizer.json", "nests deeper"}));
  EXPECT_TRUE(mentions(load_error(R"({"model": {"type": "BPE"}})"), {"tokenizer.json", "vocab"}));
  EXPECT_TRUE(
      mentions(load_error(R"({"model": {"type": "BPE", "vocab": {"a": 0}}})"), {"tokenizer.json", "merges"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("a": 4)", R"("a": 5)"), {"tokenizer.json", "share the id 5"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("a": 4)", R"("a": "4")"), {"tokenizer.json", "'a'"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("a b")", R"("a b c")"), {"tokenizer.json", "malformed merge"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("a b")", R"("a z")"), {"tokenizer.json", "'az'"}));
  EXPECT_TRUE(
      mentions(load_error(kLlama, R"("id": 8)", R"("id": 1)"), {"tokenizer.json", "the id 1", "'<image>'"}));
  EXPECT_TRUE(mentions(load_error(kLlama, R"("special": true)", R"("special": "yes")"),
                       {"tokenizer.json", "'special'"}));
  EXPECT_TRUE(
      mentions(load_error(kLlama, "", "", "llava", R"({"added_tokens_decoder": {"x": {"content": "a"}}})"),
               {"tokenizer_config.json", "'x'"}));
  const TempDir empty;
  EXPECT_TRUE(mentions(error_of([&] { Tokenizer::load(empty.path()); }), {"tokenizer.json", "no such file"}));
}

}  // namespace
}  // namespace visq

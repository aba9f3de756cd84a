// tekken.json and tokenizer.model as the tokenizer.json that the reference makes of them.
#include "visq/core/error.h"
#include "visq/inputs/merges.h"
#include "visq/inputs/sentencepiece.h"
#include "visq/inputs/tekken.h"
#include "visq/inputs/tokenizer_files.h"

namespace visq {
namespace {

constexpr size_t kMaxSentencePieceBytes = 32u << 20;

using Piece = SentencePieceModel::Piece;
using Type = SentencePieceModel::Type;

StringMap<int64_t> ids_of(const std::vector<Piece>& pieces) {
  StringMap<int64_t> ids;
  for (size_t id = 0; id < pieces.size(); ++id)
    ids.insert_or_assign(pieces[id].text, static_cast<int64_t>(id));
  return ids;
}

/// Ranked by the id of what they make; the scores of the file play no part in the reference.
Bpe::Merges merges_of(const std::vector<Piece>& pieces, const StringMap<int64_t>& ids) {
  Bpe::Merges merges;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const std::string& text = pieces[id].text;
    if (ids.at(text) != static_cast<int64_t>(id)) continue;  // a later piece has the same text
    for (const Cut& cut : cuts_of(text, ids, CutAt::characters))
      merges.emplace_back(std::string(cut.left), std::string(cut.right));
  }
  return merges;
}

/// The reference takes pieces of these types for added tokens.
std::vector<AddedToken> tokens_set_apart(const std::vector<Piece>& pieces) {
  std::vector<AddedToken> tokens;
  for (const Piece& piece : pieces)
    if (piece.type == Type::control || piece.type == Type::user_defined)
      tokens.push_back({.content = piece.text, .normalized = false, .special = piece.type == Type::control});
  return tokens;
}

NamedTokens named_tokens(const SentencePieceModel& model) {
  NamedTokens named;
  if (model.bos_id >= 0) named.emplace("bos_token", model.bos_piece);
  if (model.eos_id >= 0) named.emplace("eos_token", model.eos_piece);
  if (model.unk_id >= 0) named.emplace("unk_token", model.unk_piece);
  return named;
}

Json sentencepiece_rules(const SentencePieceModel& model) {
  const Json to_space = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  const Json to_mark = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  Json normalizers = Json::array(), decoders = Json::array({to_space});
  if (model.has_character_map) normalizers.push_back({{"type", "Precompiled"}});
  normalizers.push_back(to_mark);
  if (model.byte_fallback)
    for (const char* type : {"ByteFallback", "Fuse"}) decoders.push_back(Json{{"type", type}});
  return {{"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
          {"decoder", {{"type", "Sequence"}, {"decoders", decoders}}},
          {"model",
           {{"type", model.algorithm == SentencePieceModel::Algorithm::unigram ? "Unigram" : "BPE"},
            {"unk_token", model.unk_piece},
            {"fuse_unk", true},
            {"byte_fallback", model.byte_fallback}}}};
}

Json tekken_rules(const std::string& pattern) {
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", Json::array({split, bytes})}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"ignore_merges", true}}}};
}

}  // namespace

void read_tekken(const std::filesystem::path& path, TokenizerFiles& files) {
  files.source = VocabularySource::tekken;
  files.origin = path.string();
  Tekken tekken = Tekken::parse(read_json(path, kMaxTokenizerBytes), files.origin);
  files.vocabulary = std::move(tekken.vocabulary);
  files.merges = std::move(tekken.merges);
  files.file = tekken_rules(tekken.pattern);
  for (const std::string& special : tekken.specials)
    files.declared_tokens.push_back(
        {files.vocabulary.at(special), {.content = special, .normalized = false, .special = true}});
}

void read_sentencepiece(const std::filesystem::path& path, TokenizerFiles& files) {
  files.source = VocabularySource::sentencepiece;
  files.origin = path.string();
  const auto model = SentencePieceModel::parse(read_text(path, kMaxSentencePieceBytes), files.origin);
  files.vocabulary = ids_of(model.pieces);
  files.merges = merges_of(model.pieces, files.vocabulary);
  files.extra_tokens = tokens_set_apart(model.pieces);
  files.named_tokens = named_tokens(model);
  files.file = sentencepiece_rules(model);
}

}  // namespace visq

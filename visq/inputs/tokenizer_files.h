// Internal to visq/inputs: the files of a checkpoint that define its tokenizer, and what they mean together.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/inputs/added_tokens.h"
#include "visq/inputs/bpe.h"

namespace visq {

/// The `added_tokens` of tokenizer.json and the id that each declares, in file order.
struct DeclaredToken {
  int64_t id;
  AddedToken token;
};

/// The file that holds the vocabulary.
enum class VocabularySource { tokenizer_json, tekken, sentencepiece, vocab_and_merges };

/// Text of a named special token by its key, "bos_token" and so on.
using NamedTokens = StringMap<std::string>;

struct TokenizerFiles {
  std::string origin;  ///< path of the file that holds the vocabulary, for errors
  VocabularySource source = VocabularySource::tokenizer_json;
  StringMap<int64_t> vocabulary;
  Bpe::Merges merges;
  Json file;  ///< tokenizer.json without vocabulary and merges, or what it would say; an object
  std::vector<DeclaredToken> declared_tokens;
  bool mentions_byte_level = false;      ///< tokenizer.json holds the string "ByteLevel"
  NamedTokens named_tokens;              ///< those that tokenizer.model names
  std::vector<AddedToken> extra_tokens;  ///< those that tokenizer.model sets apart
  Json config;                           ///< tokenizer_config.json; an object
  Json special_tokens_map;               ///< special_tokens_map.json; an object
  Json added_tokens;                     ///< added_tokens.json: content → id; an object
  std::string model_type;                ///< config.json
  std::string transformers_version;      ///< config.json; empty when it does not say
  std::string declared_class;            ///< tokenizer_class without "Fast"; empty when no file says
};

/// @param object  {"content", "lstrip", …}: a missing flag is false, a missing "normalized" the opposite of
/// "special"
AddedToken parse_added_token(const Json& object, const std::string& origin);

/// The vocabulary comes from the first of tokenizer.json, tekken.json, tokenizer.model, vocab.json with
/// merges.txt.
/// @throws Error when all of these are missing, or any of the files is malformed
TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory);

/// Fill in what the files other than tokenizer.json say: vocabulary, merges, and the tokenizer.json that the
/// reference makes of them. Source: spec/inputs.md §3.9.
void read_tekken(const std::filesystem::path& path, TokenizerFiles& files);
void read_sentencepiece(const std::filesystem::path& path, TokenizerFiles& files);
void read_vocab_and_merges(const std::filesystem::path& vocab, const std::filesystem::path& merges,
                           TokenizerFiles& files);

/// Which of the reference's classes loads the checkpoint: the generic one obeys tokenizer.json; the others
/// take only vocabulary, merges and post-processor from it and fix the rest. Source: spec/inputs.md §2
/// step 5.
enum class TokenizerClass { generic, llama, qwen2, gemma, gpt2 };

/// @throws Error naming a class that fixes rules which are not known here
TokenizerClass choose_class(const TokenizerFiles& files);

/// Tokens to add to the vocabulary, and the special tokens that have a part of their own.
struct AddedTokenPlan {
  std::vector<std::vector<AddedToken>> lists;  ///< to add one after the other
  std::optional<std::string> bos, eos, unk, pad;
};

/// Source: spec/inputs.md §2 steps 3, 4 and 6.
AddedTokenPlan plan_added_tokens(const TokenizerFiles& files, TokenizerClass chosen);

}  // namespace visq

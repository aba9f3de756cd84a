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

struct TokenizerFiles {
  std::string origin;  ///< path of tokenizer.json, for errors
  StringMap<int64_t> vocabulary;
  Bpe::Merges merges;
  Json file;  ///< tokenizer.json without vocabulary and merges
  std::vector<DeclaredToken> declared_tokens;
  Json config;                 ///< tokenizer_config.json; an object
  Json special_tokens_map;     ///< special_tokens_map.json; an object
  Json added_tokens;           ///< added_tokens.json: content → id; an object
  std::string model_type;      ///< config.json
  std::string declared_class;  ///< tokenizer_class without "Fast"; empty when no file says
};

/// @param object  {"content", "lstrip", …}: a missing flag is false, a missing "normalized" the opposite of
/// "special"
AddedToken parse_added_token(const Json& object, const std::string& origin);

/// @throws Error when tokenizer.json is missing, or any of the files malformed
TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory);

/// Which of the reference's classes loads the checkpoint: the generic one obeys tokenizer.json; Qwen2's takes
/// only vocabulary, merges and post-processor from it and fixes the rest. Source: spec/inputs.md §2 step 5.
enum class TokenizerClass { generic, qwen2 };

/// @throws Error naming a class that fixes rules which are not known here
TokenizerClass choose_class(const TokenizerFiles& files);

/// Tokens to add to the vocabulary, list after list. Source: spec/inputs.md §2 steps 3, 4 and 6.
std::vector<std::vector<AddedToken>> list_added_tokens(const TokenizerFiles& files, TokenizerClass chosen);

}  // namespace visq

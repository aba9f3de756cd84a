#include <map>
#include <optional>

#include "visq/core/error.h"
#include "visq/inputs/tokenizer_files.h"

namespace visq {
namespace {

/// Classes without rules of their own.
bool is_generic(const std::string& name) {
  return name == "PreTrainedTokenizer" || name == "TokenizersBackend" || name == "PythonBackend";
}

/// The class the reference registers for a model type.
std::optional<TokenizerClass> registered_class(const std::string& model_type) {
  static const std::map<std::string, TokenizerClass> classes{
      {"llava", TokenizerClass::generic},      {"llava_next", TokenizerClass::generic},
      {"vipllava", TokenizerClass::generic},   {"qwen2_vl", TokenizerClass::qwen2},
      {"qwen2_5_vl", TokenizerClass::qwen2},   {"qwen3_vl", TokenizerClass::qwen2},
      {"qwen3_vl_moe", TokenizerClass::qwen2}, {"internvl", TokenizerClass::qwen2}};
  const auto it = classes.find(model_type);
  return it == classes.end() ? std::nullopt : std::optional(it->second);
}

bool is_byte_level(const Json& file) {
  const auto mentions = [&](const char* key) {
    return file.contains(key) && file.at(key).dump().find("\"ByteLevel\"") != std::string::npos;
  };
  return mentions("pre_tokenizer") || mentions("decoder");
}

}  // namespace

TokenizerClass choose_class(const TokenizerFiles& files) {
  const auto registered = registered_class(files.model_type);
  const std::string& declared = files.declared_class;
  if (registered == TokenizerClass::generic) return TokenizerClass::generic;
  if (declared.empty()) return registered.value_or(TokenizerClass::generic);
  if (is_generic(declared)) return TokenizerClass::generic;
  if (declared == "Qwen2Tokenizer") return TokenizerClass::qwen2;
  if (declared == "LlamaTokenizer" && is_byte_level(files.file)) return TokenizerClass::generic;
  fail("{}: tokenizer_class '{}' of tokenizer_config.json is not supported for model type '{}'", files.origin,
       declared, files.model_type);
}

}  // namespace visq

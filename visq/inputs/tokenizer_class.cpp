#include <map>
#include <optional>

#include "visq/core/error.h"
#include "visq/inputs/tokenizer_files.h"

namespace visq {
namespace {

struct Registration {
  TokenizerClass tokenizer_class;
  bool overrules = false;  ///< another class that the files declare does not count
};

/// The class the reference registers for a model type. Of those whose declared class it distrusts most are
/// registered as generic.
std::optional<Registration> registered_class(const std::string& model_type) {
  constexpr Registration generic{TokenizerClass::generic, true};
  constexpr Registration qwen2{TokenizerClass::qwen2};
  constexpr Registration gemma{TokenizerClass::gemma};
  static const std::map<std::string, Registration> classes{{"llava", generic},
                                                           {"llava_next", generic},
                                                           {"vipllava", generic},
                                                           {"phi3", generic},
                                                           {"phi3_v", generic},
                                                           {"phimoe", generic},
                                                           {"smolvlm", generic},
                                                           {"minicpmv", generic},
                                                           {"molmo", generic},
                                                           {"internlm2", generic},
                                                           {"mistral", generic},
                                                           {"mistral3", generic},
                                                           {"ministral", generic},
                                                           {"ministral3", generic},
                                                           {"voxtral", generic},
                                                           {"pixtral", generic},
                                                           {"qwen2", {TokenizerClass::qwen2, true}},
                                                           {"qwen3", qwen2},
                                                           {"qwen2_vl", qwen2},
                                                           {"qwen2_5_vl", qwen2},
                                                           {"qwen3_vl", qwen2},
                                                           {"qwen3_vl_moe", qwen2},
                                                           {"internvl", qwen2},
                                                           {"gemma", gemma},
                                                           {"gemma2", gemma},
                                                           {"gemma3", gemma},
                                                           {"gemma3_text", gemma},
                                                           {"gemma3n", gemma},
                                                           {"idefics2", {TokenizerClass::llama}}};
  const auto it = classes.find(model_type);
  return it == classes.end() ? std::nullopt : std::optional(it->second);
}

std::optional<TokenizerClass> class_of_name(const std::string& name) {
  static const std::map<std::string, TokenizerClass> classes{
      {"PreTrainedTokenizer", TokenizerClass::generic}, {"TokenizersBackend", TokenizerClass::generic},
      {"PythonBackend", TokenizerClass::generic},       {"LlamaTokenizer", TokenizerClass::llama},
      {"Qwen2Tokenizer", TokenizerClass::qwen2},        {"GemmaTokenizer", TokenizerClass::gemma},
      {"GPT2Tokenizer", TokenizerClass::gpt2}};
  const auto it = classes.find(name);
  return it == classes.end() ? std::nullopt : std::optional(it->second);
}

TokenizerClass class_of_names(const TokenizerFiles& files) {
  const auto registered = registered_class(files.model_type);
  const std::string& declared = files.declared_class;
  if (registered && (registered->overrules || declared.empty())) return registered->tokenizer_class;
  if (declared.empty()) return TokenizerClass::generic;
  const auto known = class_of_name(declared);
  if (!known)
    fail(
        "{}: tokenizer_class '{}' of tokenizer_config.json is not supported for model type '{}': if its "
        "tokenizer.json is complete, declare PreTrainedTokenizerFast",
        files.origin, declared, files.model_type);
  // Llama 3's checkpoints declare the class of Llama 2's.
  if (known == TokenizerClass::llama && files.mentions_byte_level) return TokenizerClass::generic;
  return *known;
}

}  // namespace

TokenizerClass choose_class(const TokenizerFiles& files) {
  if (files.source == VocabularySource::tekken) return TokenizerClass::generic;
  const TokenizerClass chosen = class_of_names(files);
  const bool splits_bytes = chosen == TokenizerClass::qwen2 || chosen == TokenizerClass::gpt2;
  if (files.source == VocabularySource::vocab_and_merges && !splits_bytes)
    fail(
        "{}: does not say how text is split: fetch tokenizer.json, or let tokenizer_config.json declare the "
        "tokenizer_class Qwen2Tokenizer or GPT2Tokenizer",
        files.origin);
  return chosen;
}

}  // namespace visq

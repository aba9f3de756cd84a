#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <set>

#include "visq/core/error.h"
#include "visq/inputs/tokenizer_files.h"

namespace visq {
namespace {

/// The named tokens of a class whose files name none.
NamedTokens default_tokens(const TokenizerFiles& files, TokenizerClass chosen) {
  const std::string end = "<|endoftext|>";
  switch (chosen) {
    case TokenizerClass::llama:
      return {{"unk_token", "<unk>"}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
    case TokenizerClass::qwen2:
      return {{"unk_token", end}, {"eos_token", end}, {"pad_token", end}};
    case TokenizerClass::gemma:
      return {{"unk_token", "<unk>"},
              {"bos_token", "<bos>"},
              {"eos_token", "<eos>"},
              {"pad_token", "<pad>"},
              {"mask_token", "<mask>"}};
    case TokenizerClass::gpt2:
      return {{"unk_token", end}, {"bos_token", end}, {"eos_token", end}};
    case TokenizerClass::generic:
      break;
  }
  return files.named_tokens;
}

constexpr std::array<const char*, 7> kNamedTokens{"bos_token", "eos_token", "unk_token", "sep_token",
                                                  "pad_token", "cls_token", "mask_token"};

bool is_named_token(const std::string& key) {
  return std::find(kNamedTokens.begin(), kNamedTokens.end(), key) != kNamedTokens.end();
}

/// A special token given as its text, or with flags.
struct SpecialToken {
  std::string content;
  std::optional<AddedToken> flags;

  AddedToken as_added() const {
    return flags ? *flags : AddedToken{.content = content, .normalized = false, .special = true};
  }
};

std::optional<SpecialToken> parse_special(const Json& value, const std::string& origin) {
  if (value.is_string()) return SpecialToken{value.get<std::string>(), std::nullopt};
  if (!value.is_object()) return std::nullopt;
  const AddedToken token = parse_added_token(value, origin);
  return SpecialToken{token.content, token};
}

/// Gathers what the files say about special tokens, in the order in which the reference reads them.
class SpecialTokens {
 public:
  SpecialTokens(const TokenizerFiles& files, TokenizerClass chosen) : files_(files), settings_(files.config) {
    read_settings();
    read_decoder();
    collect_named(chosen);
  }

  /// Tokens the vocabulary already has as `present` need not be added, unless with other flags.
  std::vector<AddedToken> missing(const std::vector<AddedToken>& present) const {
    std::vector<AddedToken> tokens;
    const std::set<AddedToken> unchanged(present.begin(), present.end());
    for (const auto& [id, token] : decoder_)
      if (!unchanged.contains(token)) tokens.push_back(token);
    std::set<std::string> known;
    for (const AddedToken& token : present) known.insert(token.content);
    for (const AddedToken& token : tokens) known.insert(token.content);
    for (const auto* list : {&named_, &extra_})
      for (const SpecialToken& token : *list)
        if (known.insert(token.content).second) tokens.push_back(token.as_added());
    for (AddedToken& token : tokens)
      token.special |= std::any_of(named_.begin(), named_.end(),
                                   [&](const SpecialToken& named) { return named.content == token.content; });
    return tokens;
  }

  /// All of them without flags of their own.
  std::vector<AddedToken> plain() const {
    std::vector<AddedToken> tokens;
    for (const auto* list : {&named_, &extra_})
      for (const SpecialToken& token : *list)
        tokens.push_back(SpecialToken{token.content, std::nullopt}.as_added());
    return tokens;
  }

  std::optional<std::string> named(const std::string& key) const {
    const auto it = named_by_key_.find(key);
    return it == named_by_key_.end() ? std::nullopt : std::optional(it->second);
  }

 private:
  void read_settings() {
    rename_additional();
    take_model_specific(settings_);
  }

  /// The older spelling of extra_special_tokens.
  void rename_additional() {
    if (!settings_.contains("additional_special_tokens")) return;
    const bool has_extra =
        settings_.contains("extra_special_tokens") && !settings_.at("extra_special_tokens").empty();
    if (has_extra) return;
    settings_["extra_special_tokens"] = settings_.at("additional_special_tokens");
    settings_.erase("additional_special_tokens");
  }

  /// "image_token" and the like, and a dictionary of extra special tokens.
  void take_model_specific(const Json& settings) {
    for (const auto& [key, value] : settings.items())
      if (key.ends_with("_token") && !is_named_token(key) && value.is_string())
        set_model_specific(key, {value.get<std::string>(), std::nullopt});
    const auto extra = settings.find("extra_special_tokens");
    if (extra == settings.end() || !extra->is_object()) return;
    for (const auto& [key, value] : extra->items())
      if (const auto token = parse_special(value, kConfigName)) set_model_specific(key, *token);
  }

  void set_model_specific(const std::string& key, SpecialToken token) {
    const auto same = [&](const auto& entry) { return entry.first == key; };
    const auto it = std::find_if(model_specific_.begin(), model_specific_.end(), same);
    if (it != model_specific_.end()) {
      it->second = std::move(token);
    } else {
      model_specific_.emplace_back(key, std::move(token));
    }
  }

  /// id → token: from tokenizer_config.json, or where that has none from the older files.
  void read_decoder() {
    if (settings_.contains("added_tokens_decoder")) {
      for (const auto& [key, value] : settings_.at("added_tokens_decoder").items())
        decoder_.emplace(parse_id(key), parse_added_token(value, kConfigName));
      return;
    }
    read_special_tokens_map();
    read_added_tokens_file();  // before the renaming: tokens under the older spelling do not count as special
                               // there
    rename_additional();
    if (files_.source != VocabularySource::tokenizer_json) return;
    for (const DeclaredToken& declared : files_.declared_tokens)
      decoder_.insert_or_assign(declared.id, declared.token);
  }

  static int64_t parse_id(const std::string& key) {
    if (key.empty() || key.size() > 10 || key.find_first_not_of("0123456789") != std::string::npos)
      fail("{}: added_tokens_decoder has the key '{}', which is no token id", kConfigName, key);
    return std::stoll(key);
  }

  void read_special_tokens_map() {
    for (const auto& [key, value] : files_.special_tokens_map.items()) {
      Json token = value;
      if (token.is_object() && key != "extra_special_tokens") token["special"] = true;
      settings_[key] = token;
    }
    take_model_specific(files_.special_tokens_map);
  }

  void read_added_tokens_file() {
    std::set<std::string> specials;
    for (const char* key : kNamedTokens)
      if (settings_.contains(key))
        if (const auto token = parse_special(settings_.at(key), kConfigName)) specials.insert(token->content);
    for (const SpecialToken& token : extra_list()) specials.insert(token.content);
    for (const auto& [content, id] : files_.added_tokens.items()) {
      if (!id.is_number_integer()) fail("added_tokens.json: the id of '{}' is not an integer", content);
      const bool special = specials.contains(content);
      decoder_.insert_or_assign(id.get<int64_t>(),
                                AddedToken{.content = content, .normalized = !special, .special = special});
    }
  }

  std::vector<SpecialToken> extra_list() const {
    std::vector<SpecialToken> tokens;
    const auto extra = settings_.find("extra_special_tokens");
    if (extra == settings_.end() || !extra->is_array()) return tokens;
    for (const Json& value : *extra)
      if (const auto token = parse_special(value, kConfigName)) tokens.push_back(*token);
    return tokens;
  }

  void collect_named(TokenizerClass chosen) {
    const NamedTokens defaults = default_tokens(files_, chosen);
    for (const std::string key : kNamedTokens) {
      const auto token = settings_.contains(key) ? named_in_settings(key) : default_of(defaults, key);
      if (!token) continue;
      named_.push_back(*token);
      named_by_key_.emplace(key, token->content);
    }
    for (const auto& [key, token] : model_specific_) named_.push_back(token);
    extra_ = extra_list();
    if (settings_.contains("extra_special_tokens")) return;
    for (const AddedToken& token : files_.extra_tokens) extra_.push_back({token.content, token});
  }

  std::optional<SpecialToken> named_in_settings(const std::string& key) const {
    auto token = parse_special(settings_.at(key), kConfigName);
    if (!token) return token;
    for (const auto& [id, added] : decoder_)
      if (added.content == token->content) token->flags = added;
    return token;
  }

  static std::optional<SpecialToken> default_of(const NamedTokens& defaults, const std::string& key) {
    const auto it = defaults.find(key);
    return it == defaults.end() ? std::nullopt : std::optional(SpecialToken{it->second, std::nullopt});
  }

  inline static const std::string kConfigName = "tokenizer_config.json";

  const TokenizerFiles& files_;
  Json settings_;  ///< tokenizer_config.json, overlaid by special_tokens_map.json
  std::map<int64_t, AddedToken> decoder_;
  std::vector<std::pair<std::string, SpecialToken>> model_specific_;
  std::vector<SpecialToken> named_, extra_;
  NamedTokens named_by_key_;  ///< of the standard keys
};

}  // namespace

AddedTokenPlan plan_added_tokens(const TokenizerFiles& files, TokenizerClass chosen) {
  const SpecialTokens specials(files, chosen);
  AddedTokenPlan plan{{},
                      specials.named("bos_token"),
                      specials.named("eos_token"),
                      specials.named("unk_token"),
                      specials.named("pad_token")};
  if (chosen == TokenizerClass::generic) {
    std::vector<AddedToken> in_file;
    for (const DeclaredToken& declared : files.declared_tokens) in_file.push_back(declared.token);
    plan.lists = {in_file, specials.missing(in_file)};
  } else {
    plan.lists = {specials.missing({})};
  }
  if (chosen == TokenizerClass::qwen2) plan.lists.push_back(specials.plain());
  return plan;
}

}  // namespace visq

#include "visq/inputs/tokenizer_pipeline.h"

#include <array>
#include <charconv>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/inputs/known_patterns.h"

namespace visq {
namespace {

constexpr const char* kConfigName = "tokenizer_config.json";

// --- the terms of tokenizer.json ---

Json replace(const char* from, const char* to) {
  return {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
}

Json split(const char* pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}};
}

Json byte_level(bool add_prefix_space, bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", add_prefix_space}, {"use_regex", use_regex}};
}

Json pre_tokenizers(const Json& first, const Json& second) {
  return {{"type", "Sequence"}, {"pretokenizers", Json::array({first, second})}};
}

/// Decoders of the SentencePiece kind. @param strip  drops the space that the pre-tokenizer added in front
Json mark_decoder(bool strip) {
  Json steps = Json::array({replace("▁", " "), Json{{"type", "ByteFallback"}}, Json{{"type", "Fuse"}}});
  if (strip) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// --- what the classes fix ---

Json llama_rules(const Json& config) {
  const bool prefix = get_or(config, "add_prefix_space", true, kConfigName);
  const bool legacy = get_or(config, "legacy", false, kConfigName);
  const char* scheme = !prefix ? "never" : legacy ? "always" : "first";
  return {{"normalizer", nullptr},
          {"pre_tokenizer",
           {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", false}}},
          {"decoder", mark_decoder(prefix)},
          {"model", {{"fuse_unk", true}, {"byte_fallback", true}}}};
}

Json qwen2_rules(const Json& config) {
  const bool prefix = get_or(config, "add_prefix_space", false, kConfigName);
  return {{"normalizer", {{"type", "NFC"}}},
          {"pre_tokenizer", pre_tokenizers(split(kQwen2Pattern), byte_level(prefix, /*use_regex=*/false))},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", Json::object()}};
}

Json gemma_rules(const Json& config) {
  const Json unk = config.value("unk_token", Json("<unk>"));
  return {{"normalizer", replace(" ", "▁")},
          {"pre_tokenizer",
           {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}}},
          {"decoder", mark_decoder(/*strip=*/false)},
          {"model",
           {{"unk_token", unk.is_object() ? unk.value("content", Json()) : unk},
            {"fuse_unk", true},
            {"byte_fallback", true}}}};
}

Json gpt2_rules(const Json& config) {
  const bool prefix = get_or(config, "add_prefix_space", false, kConfigName);
  return {{"normalizer", nullptr},
          {"pre_tokenizer", byte_level(prefix, /*use_regex=*/true)},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", Json::object()}};
}

Json rules_of_class(TokenizerClass chosen, const Json& config) {
  switch (chosen) {
    case TokenizerClass::llama:
      return llama_rules(config);
    case TokenizerClass::qwen2:
      return qwen2_rules(config);
    case TokenizerClass::gemma:
      return gemma_rules(config);
    case TokenizerClass::gpt2:
      return gpt2_rules(config);
    case TokenizerClass::generic:
      break;
  }
  return Json::object();
}

/// Types and patterns of a component and its parts: what tells pipelines apart, without the keys that files
/// leave out.
std::string outline(const Json& component) {
  if (component.is_array()) {
    std::string out;
    for (const Json& part : component) out += outline(part) + ";";
    return out;
  }
  if (!component.is_object()) return "";
  return json_text(component.value("type", Json())) + json_text(component.value("pattern", Json())) +
         outline(component.value("pretokenizers", Json())) + outline(component.value("normalizers", Json()));
}

void warn_about_overruled_rules(const TokenizerFiles& files, const Json& rules) {
  if (files.source != VocabularySource::tokenizer_json) return;
  for (const char* key : {"normalizer", "pre_tokenizer"}) {
    if (outline(files.file.value(key, Json())) == outline(rules.value(key, Json()))) continue;
    log_warning(visq::format(
        "{}: its {} is not used: the tokenizer_class {} has one of its own, as in the reference library",
        files.origin, key, files.declared_class.empty() ? files.model_type : files.declared_class));
  }
}

// --- Mistral's wrong pattern: spec/inputs.md §2 step 10 ---

bool before_version_5(const std::string& version) {
  int major = 0;
  std::from_chars(version.data(), version.data() + version.size(), major);
  return major < 5;
}

bool has_mistral_flaw(const TokenizerFiles& files) {
  constexpr std::array<const char*, 5> types{"mistral", "mistral3", "voxtral", "ministral", "pixtral"};
  constexpr size_t least_vocabulary = 100'000;
  return files.vocabulary.size() > least_vocabulary && before_version_5(files.transformers_version) &&
         std::find(types.begin(), types.end(), files.model_type) != types.end();
}

Json with_tekken_pattern(Json pre_tokenizer) {
  const Json steps = pre_tokenizer.is_object() ? pre_tokenizer.value("pretokenizers", Json()) : Json();
  if (steps.is_array() && !steps.empty()) {
    pre_tokenizer["pretokenizers"][0] = split(kTekkenPattern);
    return pre_tokenizer;
  }
  // Metaspace would lose spaces behind a split.
  const bool metaspace = pre_tokenizer.is_object() && pre_tokenizer.value("type", Json()) == "Metaspace";
  return pre_tokenizers(
      split(kTekkenPattern),
      metaspace ? byte_level(/*add_prefix_space=*/false, /*use_regex=*/false) : pre_tokenizer);
}

void mend_mistral_flaw(const TokenizerFiles& files, Json& file) {
  const Json pre_tokenizer = file.value("pre_tokenizer", Json());
  if (pre_tokenizer.is_null() || !has_mistral_flaw(files)) return;
  if (get_or(files.config, "fix_mistral_regex", false, kConfigName)) {
    file["pre_tokenizer"] = with_tekken_pattern(pre_tokenizer);
  } else if (outline(pre_tokenizer).find(json_text(kTekkenPattern)) == std::string::npos) {
    log_warning(visq::format(
        "{}: splits text by a pattern that Mistral has withdrawn; \"fix_mistral_regex\": true in {} puts the "
        "right one in its place",
        files.origin, kConfigName));
  }
}

// --- tokenizer.json's terms as steps ---

Bpe::Options model_options(const Json& model, const std::string& origin) {
  if (get_or(model, "dropout", 0.0, origin) != 0) fail("{}: 'dropout' is not supported", origin);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!get_or<std::string>(model, affix, "", origin).empty())
      fail("{}: '{}' is not supported", origin, affix);
  if (get_or<std::string>(model, "type", "BPE", origin) != "BPE")
    fail("{}: '{}' is not supported: only BPE is", origin, model.at("type").get<std::string>());
  Bpe::Options options;
  if (const auto unk = get_or<std::string>(model, "unk_token", "", origin); !unk.empty())
    options.unk_token = unk;
  options.fuse_unk = get_or(model, "fuse_unk", false, origin);
  options.byte_fallback = get_or(model, "byte_fallback", false, origin);
  options.ignore_merges = get_or(model, "ignore_merges", false, origin);
  return options;
}

}  // namespace

Json pipeline_rules(const TokenizerFiles& files, TokenizerClass chosen) {
  const Json rules = rules_of_class(chosen, files.config);
  if (chosen != TokenizerClass::generic) warn_about_overruled_rules(files, rules);
  Json file = files.file;
  file.update(rules);
  mend_mistral_flaw(files, file);
  return file;
}

Bpe::Options bpe_options(const Json& rules, const std::string& origin) {
  return model_options(rules.at("model"), origin + ": model");
}

PostProcessor make_post_processor(const TokenizerFiles& files, const AddedTokenPlan& plan,
                                  const std::function<std::optional<int64_t>(const std::string&)>& id_of) {
  if (files.source == VocabularySource::tokenizer_json)
    return PostProcessor::parse(files.file.value("post_processor", Json()), files.origin);
  PostProcessor out;
  const auto add = [&](const char* flag, const std::optional<std::string>& token, auto& ids) {
    if (!get_or(files.config, flag, false, kConfigName) || !token) return;
    if (const auto id = id_of(*token)) ids.push_back(*id);
  };
  add("add_bos_token", plan.bos, out.prefix);
  add("add_eos_token", plan.eos, out.suffix);
  return out;
}

Pipeline make_pipeline(const TokenizerFiles& files, TokenizerClass chosen) {
  const Json file = pipeline_rules(files, chosen);
  return {Normalizer::parse(file.value("normalizer", Json()), files.origin),
          PreTokenizer::parse(file.value("pre_tokenizer", Json()), files.origin),
          TokenDecoder::parse(file.value("decoder", Json()), files.origin), bpe_options(file, files.origin)};
}

}  // namespace visq

#include "visq/export/gguf_tokenizer.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/inputs/known_patterns.h"
#include "visq/inputs/template.h"
#include "visq/inputs/vocabulary.h"

namespace visq {
namespace {

using Type = Vocabulary::Type;

std::vector<Json> steps_of(const Json& component, const char* list) {
  if (!component.is_object()) return {};
  if (component.value("type", Json()) != "Sequence") return {component};
  std::vector<Json> steps;
  for (const Json& step : component.value(list, Json::array())) steps.push_back(step);
  return steps;
}

[[noreturn]] void refuse(const Vocabulary& vocabulary, const char* what, const Json& component) {
  fail("{}: llama.cpp has no tokenizer whose {} is {}", vocabulary.origin, what, json_excerpt(component));
}

/// "tokenizer.ggml.pre": which of its rules llama.cpp cuts text by. Characters are composed (NFC) by the
/// reference for Qwen2 and not by llama.cpp, which matters to texts that are not composed already.
std::string pre_tokenizer_name(const Vocabulary& vocabulary) {
  static const std::vector<std::pair<std::string, const char*>> known = {
      {kLlama3Pattern, "llama-bpe"}, {kQwen2Pattern, "qwen2"}, {kTekkenPattern, "tekken"}};
  for (const Json& step : steps_of(vocabulary.normalizer, "normalizers"))
    if (step.value("type", Json()) != "NFC") refuse(vocabulary, "normalizer", vocabulary.normalizer);
  const std::vector<Json> steps = steps_of(vocabulary.pre_tokenizer, "pretokenizers");
  const std::string& origin = vocabulary.origin;
  const auto is_bytes = [&](const Json& step, bool use_regex) {
    return step.value("type", Json()) == "ByteLevel" && !get_or(step, "add_prefix_space", false, origin) &&
           get_or(step, "use_regex", true, origin) == use_regex;
  };
  if (steps.size() == 1 && is_bytes(steps[0], true)) return "gpt-2";
  if (steps.size() == 2 && is_bytes(steps[1], true) && steps[0].value("type", Json()) == "Digits" &&
      get_or(steps[0], "individual_digits", false, origin))
    return "smollm";
  if (steps.size() == 2 && is_bytes(steps[1], false) && steps[0].value("type", Json()) == "Split" &&
      steps[0].value("behavior", Json()) == "Isolated" && !get_or(steps[0], "invert", false, origin))
    for (const auto& [pattern, name] : known)
      if (steps[0].value("pattern", Json()) == Json{{"Regex", pattern}}) return name;
  refuse(vocabulary, "pre_tokenizer", vocabulary.pre_tokenizer);
}

/// Of a vocabulary with spaces as "▁": whether text gets one in front.
bool has_leading_space(const Vocabulary& vocabulary) {
  bool leading = false, marked = false;
  const Json to_mark = {{"String", " "}};
  for (const Json& step : steps_of(vocabulary.normalizer, "normalizers")) {
    const Json type = step.value("type", Json());
    if (type == "Prepend" && step.value("prepend", Json()) == "▁")
      leading = true;
    else if (type == "Replace" && step.value("pattern", Json()) == to_mark &&
             step.value("content", Json()) == "▁")
      marked = true;
    else
      refuse(vocabulary, "normalizer", vocabulary.normalizer);
  }
  for (const Json& step : steps_of(vocabulary.pre_tokenizer, "pretokenizers")) {
    const Json type = step.value("type", Json());
    // Behind the marks there are no spaces left to cut at (Gemma).
    const bool idle = type == "Split" && marked && step.value("pattern", Json()) == to_mark;
    if (idle) continue;
    if (type != "Metaspace" || step.value("replacement", Json("▁")) != "▁" ||
        get_or(step, "split", true, vocabulary.origin))
      refuse(vocabulary, "pre_tokenizer", vocabulary.pre_tokenizer);
    leading |= get_or<std::string>(step, "prepend_scheme", "always", vocabulary.origin) != "never";
    marked = true;
  }
  if (!marked) refuse(vocabulary, "normalizer", vocabulary.normalizer);
  return leading;
}

std::vector<std::string> merges_text(const Vocabulary& vocabulary) {
  std::vector<std::string> merges;
  for (const auto& [left, right] : vocabulary.merges) merges.push_back(left + " " + right);
  return merges;
}

void add_byte_level(const Vocabulary& vocabulary, GgufMetadata& metadata) {
  metadata.emplace_back("tokenizer.ggml.model", GgufValue::text("gpt2"));
  metadata.emplace_back("tokenizer.ggml.pre", GgufValue::text(pre_tokenizer_name(vocabulary)));
  metadata.emplace_back("tokenizer.ggml.merges", GgufValue::texts(merges_text(vocabulary)));
}

void add_sentencepiece(const Vocabulary& vocabulary, size_t rows, bool warn, GgufMetadata& metadata) {
  const bool leading = has_leading_space(vocabulary);
  if (!vocabulary.has_byte_tokens)
    fail("{}: has no tokens for the 256 bytes, which the SentencePiece tokenizer of llama.cpp needs",
         vocabulary.origin);
  // Their order is all that counts.
  const MergeRanks ranks = merge_ranks(vocabulary);
  std::vector<double> scores(rows, -1e6);
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id)
    if (ranks.first[id]) scores[id] = -static_cast<double>(*ranks.first[id]);
  metadata.emplace_back("tokenizer.ggml.model", GgufValue::text("llama"));
  metadata.emplace_back("tokenizer.ggml.pre", GgufValue::text("default"));
  metadata.emplace_back("tokenizer.ggml.scores", GgufValue::f32s(std::move(scores)));
  metadata.emplace_back("tokenizer.ggml.add_space_prefix", GgufValue::flag(leading));
  if (ranks.complete) return;
  if (warn)
    log_warning(visq::format(
        "{}: its merges do not list all ways to make a token, so that llama.cpp may cut some words otherwise "
        "than the reference (programs that read the merges of a GGUF file do not)",
        std::filesystem::path(vocabulary.origin).filename().string()));
  metadata.emplace_back("tokenizer.ggml.merges", GgufValue::texts(merges_text(vocabulary)));
}

}  // namespace

GgufMetadata tokenizer_metadata(const std::filesystem::path& directory, const ModelSpec& spec, int64_t rows,
                                bool warn) {
  const Vocabulary vocabulary = read_vocabulary(directory);
  if (static_cast<int64_t>(vocabulary.tokens.size()) > rows)
    fail("{}: has {} tokens, but the embedding has {} rows", vocabulary.origin, vocabulary.tokens.size(),
         rows);
  GgufMetadata metadata;
  if (vocabulary.byte_level)
    add_byte_level(vocabulary, metadata);
  else
    add_sentencepiece(vocabulary, static_cast<size_t>(rows), warn, metadata);
  std::vector<std::string> texts;
  std::vector<int64_t> types;
  for (size_t id = 0; id < static_cast<size_t>(rows); ++id) {
    const bool used = id < vocabulary.tokens.size() && vocabulary.tokens[id].type != Type::unused;
    texts.push_back(used ? vocabulary.tokens[id].text : visq::format("[PAD{}]", id));
    types.push_back(static_cast<int64_t>(used ? vocabulary.tokens[id].type : Type::unused));
  }
  metadata.emplace_back("tokenizer.ggml.tokens", GgufValue::texts(std::move(texts)));
  metadata.emplace_back("tokenizer.ggml.token_type", GgufValue::i32s(std::move(types)));
  const auto add_id = [&](const char* key, std::optional<int64_t> id) {
    if (id && *id >= 0 && *id < rows)
      metadata.emplace_back(visq::format("tokenizer.ggml.{}_token_id", key),
                            GgufValue::u32(static_cast<uint64_t>(*id)));
  };
  std::optional<int64_t> eos = vocabulary.eos;
  if (!eos && !spec.eos_ids.empty()) eos = spec.eos_ids.front();
  add_id("bos", vocabulary.bos ? vocabulary.bos : spec.bos_id);
  add_id("eos", eos);
  // A model may end its turn with a token of its own.
  for (const int64_t id : spec.eos_ids)
    if (id != eos) {
      add_id("eot", id);
      break;
    }
  add_id("unknown", vocabulary.unk);
  add_id("padding", vocabulary.pad);
  metadata.emplace_back("tokenizer.ggml.add_bos_token", GgufValue::flag(vocabulary.add_bos));
  metadata.emplace_back("tokenizer.ggml.add_eos_token", GgufValue::flag(vocabulary.add_eos));
  if (!spec.own_prompt)
    if (auto source = ChatTemplate::source(directory))
      metadata.emplace_back("tokenizer.chat_template", GgufValue::text(std::move(*source)));
  return metadata;
}

}  // namespace visq

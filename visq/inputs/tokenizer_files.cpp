#include "visq/inputs/tokenizer_files.h"

#include <set>
#include <sstream>

#include "visq/core/error.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

/// A tokenizer.json has up to 10^5 keys in one object: too many for Json, which searches keys one by one.
using LargeJson = nlohmann::json;

LargeJson parse_large(const std::string& text, const std::string& origin) {
  try {
    return LargeJson::parse(text, [&](int depth, LargeJson::parse_event_t, LargeJson&) {
      if (depth > kMaxJsonDepth) fail("{}: JSON nests deeper than {} levels", origin, kMaxJsonDepth);
      return true;
    });
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not valid JSON ({})", origin, e.what());
  }
}

Json read_optional(const fs::path& path, size_t max_bytes = kMaxConfigBytes) {
  if (!fs::exists(path)) return Json::object();
  Json json = read_json(path, max_bytes);
  if (!json.is_object()) fail("{}: not a JSON object", path.string());
  return json;
}

StringMap<int64_t> parse_vocabulary(const LargeJson& ids, const std::string& origin) {
  StringMap<int64_t> vocabulary;
  vocabulary.reserve(ids.size());
  for (const auto& [token, id] : ids.items()) {
    if (!id.is_number_integer()) fail("{}: the id of token '{}' is not an integer", origin, token);
    vocabulary.emplace(token, id.get<int64_t>());
  }
  return vocabulary;
}

StringMap<int64_t> take_vocabulary(const LargeJson& model, const std::string& origin) {
  const auto it = model.find("vocab");
  if (it == model.end() || !it->is_object()) fail("{}: model.vocab is missing or not an object", origin);
  return parse_vocabulary(*it, origin);
}

/// "a b" as a pair.
std::optional<std::pair<std::string, std::string>> parse_spaced_merge(const std::string& text) {
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) return std::nullopt;
  return std::pair(text.substr(0, space), text.substr(space + 1));
}

/// A merge is "a b" in older files and ["a", "b"] in newer ones.
std::pair<std::string, std::string> parse_merge(const LargeJson& merge, const std::string& origin) {
  if (merge.is_string()) {
    if (auto pair = parse_spaced_merge(merge.get_ref<const std::string&>())) return *pair;
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  fail("{}: malformed merge {}", origin,
       merge.dump(-1, ' ', false, LargeJson::error_handler_t::replace).substr(0, 60));
}

Bpe::Merges take_merges(const LargeJson& model, const std::string& origin) {
  const auto it = model.find("merges");
  if (it == model.end() || !it->is_array()) fail("{}: model.merges is missing or not a list", origin);
  Bpe::Merges merges;
  merges.reserve(it->size());
  for (const LargeJson& merge : *it) merges.push_back(parse_merge(merge, origin));
  return merges;
}

std::string without_fast(std::string name) {
  if (name.ends_with("Fast")) name.resize(name.size() - 4);
  return name;
}

std::vector<DeclaredToken> parse_declared_tokens(const Json& file, const std::string& origin) {
  std::vector<DeclaredToken> tokens;
  std::set<int64_t> ids;
  for (const Json& object : get_or(file, "added_tokens", Json::array(), origin)) {
    const DeclaredToken declared{require<int64_t>(object, "id", origin), parse_added_token(object, origin)};
    if (!ids.insert(declared.id).second)
      fail("{}: two added tokens have the id {}, the second is '{}'", origin, declared.id,
           declared.token.content);
    tokens.push_back(declared);
  }
  return tokens;
}

void read_main_file(const fs::path& path, TokenizerFiles& files) {
  files.origin = path.string();
  const std::string text = read_text(path, kMaxTokenizerBytes);
  files.mentions_byte_level = text.find("\"ByteLevel\"") != std::string::npos;
  LargeJson file = parse_large(text, files.origin);
  if (!file.is_object() || !file.contains("model") || !file.at("model").is_object())
    fail("{}: 'model' is missing", files.origin);
  LargeJson& model = file.at("model");
  // Files older than the field are told apart by what only BPE has.
  const auto type = model.find("type");
  const bool is_bpe = type == model.end() || type->is_null() ? model.contains("merges") : *type == "BPE";
  if (!is_bpe)
    fail("{}: model type {} is not supported: only BPE is", files.origin,
         type == model.end() ? "(none)"
                             : type->dump(-1, ' ', false, LargeJson::error_handler_t::replace).substr(0, 40));
  files.vocabulary = take_vocabulary(model, files.origin);
  files.merges = take_merges(model, files.origin);
  model.erase("vocab");
  model.erase("merges");
  files.file = Json(file);
  files.declared_tokens = parse_declared_tokens(files.file, files.origin);
}

Bpe::Merges parse_merges_text(const std::string& text, const std::string& origin) {
  Bpe::Merges merges;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.starts_with("#version") || line.empty()) continue;
    auto merge = parse_spaced_merge(line);
    if (!merge) fail("{}: malformed merge '{}'", origin, line.substr(0, 60));
    merges.push_back(std::move(*merge));
  }
  return merges;
}

void read_vocabulary(const fs::path& directory, TokenizerFiles& files) {
  const auto has = [&](const char* name) { return fs::exists(directory / name); };
  if (has("tokenizer.json")) return read_main_file(directory / "tokenizer.json", files);
  if (has("tekken.json")) return read_tekken(directory / "tekken.json", files);
  if (has("tokenizer.model")) return read_sentencepiece(directory / "tokenizer.model", files);
  if (has("vocab.json") && has("merges.txt"))
    return read_vocab_and_merges(directory / "vocab.json", directory / "merges.txt", files);
  fail("{}: no such file, nor tekken.json, tokenizer.model, or vocab.json with merges.txt beside it",
       (directory / "tokenizer.json").string());
}

}  // namespace

void read_vocab_and_merges(const fs::path& vocab, const fs::path& merges, TokenizerFiles& files) {
  files.source = VocabularySource::vocab_and_merges;
  files.origin = vocab.string();
  const LargeJson ids = parse_large(read_text(vocab, kMaxTokenizerBytes), files.origin);
  if (!ids.is_object()) fail("{}: not a JSON object", files.origin);
  files.vocabulary = parse_vocabulary(ids, files.origin);
  files.merges = parse_merges_text(read_text(merges, kMaxTokenizerBytes), merges.string());
  files.file = Json{{"model", Json::object()}};
}

AddedToken parse_added_token(const Json& object, const std::string& origin) {
  AddedToken token;
  token.content = require<std::string>(object, "content", origin);
  token.single_word = get_or(object, "single_word", false, origin);
  token.lstrip = get_or(object, "lstrip", false, origin);
  token.rstrip = get_or(object, "rstrip", false, origin);
  token.special = get_or(object, "special", false, origin);
  token.normalized = get_or(object, "normalized", !token.special, origin);
  return token;
}

TokenizerFiles read_tokenizer_files(const fs::path& directory) {
  TokenizerFiles files;
  read_vocabulary(directory, files);
  files.config = read_optional(directory / "tokenizer_config.json");
  files.special_tokens_map = read_optional(directory / "special_tokens_map.json");
  files.added_tokens = read_optional(directory / "added_tokens.json");
  const std::string config_name = (directory / "config.json").string();
  const Json config = read_optional(directory / "config.json");
  files.model_type = get_or<std::string>(config, "model_type", "", config_name);
  files.transformers_version = get_or<std::string>(config, "transformers_version", "", config_name);
  auto declared = get_or<std::string>(files.config, "tokenizer_class", "", "tokenizer_config.json");
  if (declared.empty()) declared = get_or<std::string>(config, "tokenizer_class", "", config_name);
  files.declared_class = without_fast(declared);
  return files;
}

}  // namespace visq

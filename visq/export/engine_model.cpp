#include "visq/export/engine_model.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/engines_text.h"

namespace visq {
namespace {

ExcludeRule parse_rule(const std::string& name) {
  using enum ExcludeRule;
  static const std::map<std::string, ExcludeRule> rules = {{"vllm_modelopt", vllm_modelopt},
                                                           {"vllm_names", vllm_names},
                                                           {"vllm_expressions", vllm_expressions},
                                                           {"vllm_substrings", vllm_substrings},
                                                           {"sglang_modelopt", sglang_modelopt},
                                                           {"sglang_names", sglang_names},
                                                           {"sglang_expressions", sglang_expressions},
                                                           {"sglang_substrings", sglang_substrings},
                                                           {"tensorrt_llm", tensorrt_llm},
                                                           {"components", components},
                                                           {"dynamic", dynamic}};
  return rules.at(name);
}

Renames renames(const YAML::Node& node) {
  Renames pairs;
  for (const YAML::Node& pair : node)
    pairs.emplace_back(pair[0].as<std::string>(), pair[1].as<std::string>());
  return pairs;
}

std::vector<std::string> texts(const YAML::Node& node) {
  return node ? node.as<std::vector<std::string>>() : std::vector<std::string>{};
}

// [{models: […], why: …}]
std::map<std::string, std::string> reasons(const YAML::Node& node) {
  std::map<std::string, std::string> by_model;
  for (const YAML::Node& entry : node)
    for (const std::string& model : texts(entry["models"])) by_model[model] = entry["why"].as<std::string>();
  return by_model;
}

// As a rule of a recipe has it, of which there is no preset.
Scheme scheme_of(const YAML::Node& node) {
  std::string rule;
  for (const char* key : {"weight", "block", "input"})
    if (node[key])
      rule += visq::format("{}{}: {}", rule.empty() ? "" : ", ", key, node[key].as<std::string>());
  const Recipe recipe = parse_recipe("rules: [{" + rule + "}]", "engine model",
                                     [](const std::string&) -> const Recipe* { return nullptr; });
  return recipe.rules.front().scheme.value();
}

ReadFormat read_format(const YAML::Node& node) {
  ReadFormat format;
  if (node["like"]) {
    format.name = node["like"].as<std::string>();
    format.scheme = find_preset(format.name).scheme;
  } else {
    format.scheme = scheme_of(node);
    format.name = describe_weight(format.scheme);
  }
  format.gpu = node["gpu"].as<double>();
  format.native = node["native"].as<double>(0);
  format.exactly = node["exactly"].as<bool>(false);
  format.ordered_columns = node["ordered_columns"].as<bool>(false);
  format.rows = node["rows"].as<int64_t>(1);
  format.columns = node["columns"].as<int64_t>(1);
  format.needs = node["needs"].as<std::string>("");
  format.fused_rows = node["fused_rows"].as<int64_t>(1);
  format.fails = reasons(node["fails"]);
  if (node["blocks"]) format.blocks = node["blocks"].as<std::vector<int64_t>>();
  return format;
}

AsStored parse_as_stored(const std::string& word) {
  static const std::map<std::string, AsStored> words = {
      {"", AsStored::never}, {"without_list", AsStored::without_list}, {"always", AsStored::always}};
  return words.at(word);
}

EngineLayout read_layout(const YAML::Node& node) {
  EngineLayout layout;
  layout.exclude = parse_rule(node["exclude"].as<std::string>());
  layout.as_stored = parse_as_stored(node["as_stored"].as<std::string>(""));
  for (const YAML::Node& format : node["formats"]) layout.formats.push_back(read_format(format));
  for (const std::string& name : texts(node["kv_caches"])) layout.kv_caches.push_back(parse_kv_cache(name));
  layout.fails = reasons(node["fails"]);
  layout.kv_fails = reasons(node["kv_fails"]);
  layout.mixes = texts(node["mixes"]);
  layout.unquantized = texts(node["unquantized"]);
  if (node["options"]) layout.options = node["options"].as<std::map<std::string, std::string>>();
  return layout;
}

EngineNames read_names(const YAML::Node& node) {
  EngineNames names;
  names.models = texts(node["models"]);
  names.modules = renames(node["modules"]);
  names.module_ends = renames(node["module_ends"]);
  names.parts = renames(node["parts"]);
  names.entries = node["entries"] ? renames(node["entries"]) : names.modules;
  names.unquantized = texts(node["unquantized"]);
  names.shards = texts(node["shards"]);
  names.unknown = texts(node["unknown"]);
  return names;
}

EngineModel read_engine(const char* text) {
  const YAML::Node root = YAML::Load(text);
  EngineModel engine;
  engine.name = root["name"].as<std::string>();
  engine.title = root["title"].as<std::string>();
  engine.version = root["version"].as<std::string>();
  engine.fallback = root["fallback"].as<std::string>("");
  engine.serve = root["serve"].as<std::string>();
  engine.parallel = root["parallel"].as<std::string>();
  engine.architectures = texts(root["architectures"]);
  if (root["dropped"]) engine.dropped = root["dropped"].as<std::map<std::string, std::string>>();
  engine.absent = texts(root["absent"]);
  for (const YAML::Node& names : root["names"]) engine.names.push_back(read_names(names));
  engine.as_stored = texts(root["as_stored"]);
  for (const auto& layout : root["layouts"])
    engine.layouts.emplace(layout.first.as<std::string>(), read_layout(layout.second));
  return engine;
}

}  // namespace

bool ReadFormat::reads(const Scheme& found) const {
  Scheme alike = found;
  if (std::ranges::find(blocks, found.block) != blocks.end()) alike.block = scheme.block;
  if (found.low_rank > 0 && scheme.low_rank > 0) alike.low_rank = scheme.low_rank;
  if (ordered_columns) alike.ordered_columns = scheme.ordered_columns;
  return scheme.stored_like(alike);
}

const std::vector<EngineModel>& engine_models() {
  static const std::vector<EngineModel> all = [] {
    std::vector<EngineModel> engines;
    for (const char* text : kEngineTexts) {
      try {
        engines.push_back(read_engine(text));
      } catch (const std::exception& e) {  // of our own file
        fail("engine model of '{}…': {}", std::string(text).substr(0, 80), e.what());
      }
    }
    return engines;
  }();
  return all;
}

const EngineModel& find_engine(const std::string& name, const std::string& option) {
  std::string known;
  for (const EngineModel& engine : engine_models()) {
    if (engine.name == name) return engine;
    known += (known.empty() ? "" : ", ") + engine.name;
  }
  fail("{} {}: choose of {}", option, name, known);
}

std::string EngineModel::serve_command(const std::string& directory, const std::string& of,
                                       const std::string& model_type, int64_t tp, int64_t pp) const {
  std::string command = serve + (tp * pp > 1 ? " " + parallel : "");
  if (const EngineLayout* const found = layout(of); found != nullptr && found->options.contains(model_type))
    command += " " + found->options.at(model_type);
  for (const auto& [key, value] : {std::pair<std::string, std::string>{"{model}", directory},
                                   {"{tp}", std::to_string(tp)},
                                   {"{pp}", std::to_string(pp)}})
    if (const size_t at = command.find(key); at != std::string::npos) command.replace(at, key.size(), value);
  return command;
}

const EngineLayout* EngineModel::layout(const std::string& of) const {
  const auto found = layouts.find(of);
  return found == layouts.end() ? nullptr : &found->second;
}

const EngineNames& EngineModel::names_of(const std::string& model_type) const {
  static const EngineNames unchanged;
  for (const EngineNames& kind : names)
    if (std::ranges::find(kind.models, model_type) != kind.models.end()) return kind;
  return unchanged;
}

const ReadFormat* EngineModel::format(const std::string& of, const Scheme& scheme) const {
  const EngineLayout* const found = layout(of);
  if (found == nullptr) return nullptr;
  const auto format =
      std::ranges::find_if(found->formats, [&](const ReadFormat& entry) { return entry.reads(scheme); });
  return format == found->formats.end() ? nullptr : &*format;
}

bool EngineModel::reads(const std::string& of, const std::vector<Scheme>& schemes) const {
  return std::ranges::all_of(schemes, [&](const Scheme& scheme) {
    const ReadFormat* const found = format(of, scheme);
    if (found == nullptr || schemes.size() == 1) return found != nullptr;
    const std::vector<std::string>& mixes = layout(of)->mixes;
    return std::ranges::find(mixes, found->name) != mixes.end();
  });
}

bool EngineModel::reads(const std::string& of, KvCacheFormat kv_cache) const {
  if (kv_cache == KvCacheFormat::none) return true;
  const EngineLayout* const found = layout(of);
  return found != nullptr && std::ranges::find(found->kv_caches, kv_cache) != found->kv_caches.end();
}

std::vector<std::string> engines_reading(const std::string& layout, const std::vector<Scheme>& schemes) {
  std::vector<std::string> names;
  for (const EngineModel& engine : engine_models())
    if (engine.reads(layout, schemes)) names.push_back(engine.name);
  return names;
}

std::vector<std::string> engines_reading(const std::string& layout, KvCacheFormat kv_cache) {
  std::vector<std::string> names;
  for (const EngineModel& engine : engine_models())
    if (engine.reads(layout, kv_cache)) names.push_back(engine.name);
  return names;
}

}  // namespace visq

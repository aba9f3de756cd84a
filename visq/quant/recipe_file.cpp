// Recipes as YAML. The text is untrusted: everything in it is checked, with the line that is at fault.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/quant/recipe.h"

namespace visq {
namespace {

template <typename T>
using Names = std::vector<std::pair<const char*, T>>;

const Names<Codec> kWeights = {
    {"fp8", Codec::fp8_e4m3}, {"fp8_rows", Codec::fp8_rows}, {"fp8_blocks", Codec::fp8_blocks},
    {"int8", Codec::int8},    {"int4", Codec::int4},         {"int4_asym", Codec::int4_asym},
    {"nf4", Codec::nf4},      {"nvfp4", Codec::nvfp4},       {"mxfp4", Codec::mxfp4},
    {"mxfp6", Codec::mxfp6},  {"mxfp8", Codec::mxfp8},       {"mxint8", Codec::mxint8}};
const Names<InputFormat> kInputs = {{"none", InputFormat::none},
                                    {"fp8", InputFormat::fp8},
                                    {"fp8_tokens", InputFormat::fp8_tokens},
                                    {"int8_tokens", InputFormat::int8_tokens},
                                    {"int8", InputFormat::int8},
                                    {"nvfp4", InputFormat::nvfp4},
                                    {"mxfp4", InputFormat::mxfp4},
                                    {"mxfp6", InputFormat::mxfp6},
                                    {"mxfp8", InputFormat::mxfp8},
                                    {"mxint8", InputFormat::mxint8}};
const Names<bool> kSecondStages = {{"none", false}, {"fp8", true}};
const Names<Solver> kSmoothings = {
    {"none", Solver::max}, {"smoothquant", Solver::smoothquant}, {"awq", Solver::awq}};
const Names<bool> kRotations = {{"none", false}, {"hadamard", true}};
const Names<bool> kSmoothingInputs = {{"exact", false}, {"rounded", true}};
const Names<ScaleSearch> kScales = {{"max", ScaleSearch::max},
                                    {"mse", ScaleSearch::mse},
                                    {"output_error", ScaleSearch::output_error},
                                    {"four_over_six", ScaleSearch::four_over_six}};
const Names<Rounding> kRoundings = {{"nearest", Rounding::nearest}, {"gptq", Rounding::gptq}};
const Names<LowRankBy> kLowRankBys = {{"output", LowRankBy::output}, {"weight", LowRankBy::weight}};
constexpr int64_t kMostColumns = 65536;  // of a block
constexpr int64_t kMostRank = 1024;

template <typename T>
const char* name_of(const Names<T>& names, T value) {
  return std::ranges::find(names, value, &std::pair<const char*, T>::second)->first;
}

// Columns that share a scale where the recipe does not say; 0: the codec has no blocks.
int64_t default_block(Codec codec) {
  switch (codec) {
    case Codec::int4:
    case Codec::int4_asym:
      return 128;
    case Codec::nf4:
      return kNf4Block;
    case Codec::nvfp4:
      return kNvfp4Block;
    case Codec::fp8_blocks:
      return kFp8Block;
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      return kMxBlock;
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::int8:
      break;
  }
  return 0;
}

// What does not go together, in words; "": all does.
std::string contradiction(const Scheme& scheme) {
  const Codec codec = scheme.weight;
  const bool searched = scheme.scales != ScaleSearch::max;
  const std::string name = name_of(kWeights, codec);
  if (scheme.fp8_second_stage && (codec != Codec::int4 || scheme.input != InputFormat::fp8))
    return "second_stage: fp8 needs weight: int4 and input: fp8";
  const bool any_block =
      codec == Codec::int4 || codec == Codec::int4_asym || (codec == Codec::int8 && scheme.block != 0);
  if (default_block(codec) == 0 && !any_block && scheme.block != 0) return name + " has no blocks";
  if (any_block && (scheme.block < 16 || scheme.block % 8 != 0))
    return "block: " + name + " needs a multiple of 8, at least 16";
  if (codec == Codec::nvfp4 && scheme.block != 16 && scheme.block != 32)
    return "block: nvfp4 has blocks of 16 or 32";
  if (default_block(codec) != 0 && !any_block && codec != Codec::nvfp4 &&
      scheme.block != default_block(codec))
    return visq::format("block: {} has blocks of {}", name, default_block(codec));
  if (scheme.scales == ScaleSearch::four_over_six && codec != Codec::nvfp4)
    return "scales: four_over_six needs weight: nvfp4";
  if (searched && !any_block && codec != Codec::int8 && codec != Codec::nvfp4)
    return visq::format("scales: those of {} are not searched; int4's, int4_asym's, int8's and nvfp4's are",
                        name);
  if (scheme.rounding == Rounding::gptq && is_mx(codec))
    return visq::format("rounding: gptq does not know {}", name);
  if (scheme.rotated && scheme.has_input_scale())
    return "rotation: calibration does not see rotated inputs, and these need a calibrated scale";
  if (scheme.alpha && scheme.solver == Solver::max) return "alpha: there is no smoothing that it could be of";
  if (scheme.rounded_inputs && (scheme.solver != Solver::awq || scheme.input == InputFormat::none))
    return "smoothing_inputs: rounded needs smoothing: awq and an input format";
  if (scheme.solver == Solver::awq && is_mx(codec))
    return "smoothing: awq gains nothing where scales are powers of two";
  return "";
}

class Reader {
 public:
  Reader(std::string origin, const std::function<const Recipe*(const std::string&)>& find)
      : origin_(std::move(origin)), find_(find) {}

  Recipe read(const YAML::Node& root) const {
    if (!root.IsMap()) refuse(root, "a recipe is a mapping with the key 'rules'");
    check_keys(root, {"name", "about", "extends", "kv_cache", "without_data", "modality_weight", "only",
                      "skip", "rules"});
    Recipe recipe;
    recipe.name = root["name"] ? text(root["name"]) : std::filesystem::path(origin_).stem().string();
    if (recipe.name.empty() || recipe.name.find('/') != std::string::npos || recipe.name.front() == '.')
      refuse(root, visq::format("name: '{}' cannot name a directory", recipe.name));
    if (root["about"]) recipe.about = text(root["about"]);
    if (root["extends"]) {
      const Recipe& base = preset(root["extends"]);
      recipe.rules = base.rules;
      recipe.kv_cache = base.kv_cache;
      recipe.modality_weight = base.modality_weight;
    }
    if (root["kv_cache"]) recipe.kv_cache = checked(root["kv_cache"], parse_kv_cache);
    if (root["without_data"]) {
      const Recipe& other = preset(root["without_data"]);
      if (other.needs_calibration())
        refuse(root["without_data"], visq::format("'{}' needs calibration data too", other.name));
      recipe.without_data = other.name;
    }
    if (root["modality_weight"])
      recipe.modality_weight = checked(root["modality_weight"], parse_modality_weight);
    if (root["only"]) recipe.only = patterns(root["only"]);
    if (root["skip"]) recipe.skip = patterns(root["skip"]);
    if (root["rules"]) {
      if (!root["rules"].IsSequence()) refuse(root["rules"], "'rules' is not a list");
      for (const YAML::Node& node : root["rules"]) recipe.rules.push_back(rule(node));
    }
    if (recipe.rules.empty()) refuse(root, "has no rules");
    return recipe;
  }

 private:
  [[noreturn]] void refuse(const YAML::Node& node, const std::string& what) const {
    fail("{}: {}", place(node), what);
  }
  // What some other part of the program makes of a value, with the line where it does not like it.
  template <typename Value>
  Value checked(const YAML::Node& node, Value (*parse)(const std::string&)) const {
    try {
      return parse(text(node));
    } catch (const Error& e) {
      refuse(node, e.what());
    }
  }
  std::string place(const YAML::Node& node) const {
    return visq::format("{}:{}", origin_, std::max(node.Mark().line, 0) + 1);
  }

  void check_keys(const YAML::Node& map, const std::vector<std::string>& known) const {
    std::set<std::string> seen;
    for (const auto& entry : map) {
      const std::string key = text(entry.first);
      if (std::ranges::find(known, key) == known.end())
        refuse(entry.first, visq::format("unknown key '{}' (known are {})", key, fmt::join(known, ", ")));
      if (!seen.insert(key).second) refuse(entry.first, visq::format("key '{}' occurs twice", key));
    }
  }

  std::string text(const YAML::Node& node) const {
    if (!node.IsScalar()) refuse(node, "expected one word or text");
    return node.Scalar();
  }

  std::vector<std::string> patterns(const YAML::Node& node) const {
    if (!node.IsSequence()) refuse(node, "expected a list of patterns");
    std::vector<std::string> all;
    for (const YAML::Node& pattern : node) all.push_back(text(pattern));
    return all;
  }

  const Recipe& preset(const YAML::Node& node) const {
    const Recipe* recipe = find_(text(node));
    if (recipe == nullptr)
      refuse(node, visq::format("no preset is called '{}' (visq formats lists them)", text(node)));
    return *recipe;
  }

  template <typename T>
  void choose(const YAML::Node& rule, const char* key, const Names<T>& names, T& value) const {
    const YAML::Node node = rule[key];
    if (!node) return;
    std::string known;
    for (const auto& [name, named] : names) {
      if (text(node) == name) {
        value = named;
        return;
      }
      known += (known.empty() ? "" : ", ") + std::string(name);
    }
    refuse(node, visq::format("{}: '{}' is not one of {}", key, text(node), known));
  }

  Rule rule(const YAML::Node& node) const {
    if (!node.IsMap()) refuse(node, "a rule is a mapping such as {sites: \"*\", weight: int4}");
    const std::vector<std::string> of_schemes = {"weight",    "block",    "second_stage",     "input",
                                                 "smoothing", "alpha",    "smoothing_inputs", "rotation",
                                                 "scales",    "rounding", "low_rank",         "low_rank_by"};
    std::vector<std::string> known = {"sites", "scheme"};
    known.insert(known.end(), of_schemes.begin(), of_schemes.end());
    check_keys(node, known);
    Rule result{node["sites"] ? text(node["sites"]) : "*", std::nullopt, place(node)};
    if (node["scheme"] && text(node["scheme"]) == "none") {
      if (node.size() > (node["sites"] ? 2u : 1u))
        refuse(node, "scheme: none leaves these linears as they are, so nothing else can be said of them");
      return result;
    }
    if (!node["scheme"] && !node["weight"]) refuse(node, "says neither 'scheme' nor 'weight'");
    Scheme scheme;
    if (node["scheme"]) {
      const Recipe& base = preset(node["scheme"]);
      scheme = base.rules.front().scheme.value();
    }
    const Codec before = scheme.weight;
    choose(node, "weight", kWeights, scheme.weight);
    if (!node["scheme"] || scheme.weight != before) scheme.block = default_block(scheme.weight);
    if (node["block"]) scheme.block = number(node, "block", 1, kMostColumns);
    choose(node, "second_stage", kSecondStages, scheme.fp8_second_stage);
    choose(node, "input", kInputs, scheme.input);
    choose(node, "smoothing", kSmoothings, scheme.solver);
    if (node["smoothing"]) scheme.alpha.reset();
    if (node["alpha"]) scheme.alpha = strength(node["alpha"]);
    if (scheme.solver != Solver::awq || scheme.input == InputFormat::none) scheme.rounded_inputs = false;
    choose(node, "smoothing_inputs", kSmoothingInputs, scheme.rounded_inputs);
    choose(node, "rotation", kRotations, scheme.rotated);
    choose(node, "scales", kScales, scheme.scales);
    choose(node, "rounding", kRoundings, scheme.rounding);
    if (node["low_rank"]) scheme.low_rank = number(node, "low_rank", 0, kMostRank);
    choose(node, "low_rank_by", kLowRankBys, scheme.low_rank_by);
    if (const std::string wrong = contradiction(scheme); !wrong.empty()) refuse(node, wrong);
    result.scheme = scheme;
    return result;
  }

  int64_t number(const YAML::Node& rule, const char* key, int64_t least, int64_t most) const {
    const YAML::Node node = rule[key];
    int64_t value = 0;
    if (!node.IsScalar() || !YAML::convert<int64_t>::decode(node, value) || value < least || value > most)
      refuse(node, visq::format("{}: expected a number from {} to {}", key, least, most));
    return value;
  }

  double strength(const YAML::Node& node) const {
    double value = 0;
    if (!node.IsScalar() || !YAML::convert<double>::decode(node, value) || !(value >= 0 && value <= 1))
      refuse(node, "alpha: expected a number from 0 to 1");
    return value;
  }

  std::string origin_;
  const std::function<const Recipe*(const std::string&)>& find_;
};

// Double-quoted, so that stars and colons mean nothing.
std::string quoted(const std::string& text) {
  YAML::Emitter emitter;
  emitter << YAML::DoubleQuoted << text;
  return emitter.c_str();
}

std::string list_text(const char* key, const std::vector<std::string>& patterns) {
  std::string items;
  for (const std::string& pattern : patterns) items += (items.empty() ? "" : ", ") + quoted(pattern);
  return patterns.empty() ? "" : visq::format("{}: [{}]\n", key, items);
}

}  // namespace

Recipe parse_recipe(const std::string& text, const std::string& origin,
                    const std::function<const Recipe*(const std::string& name)>& find) {
  try {
    return Reader(origin, find).read(YAML::Load(text));
  } catch (const YAML::Exception& e) {
    fail("{}:{}: not YAML: {}", origin, std::max(e.mark.line, 0) + 1, e.msg);
  }
}

std::string recipe_text(const Recipe& recipe) {
  std::string text = visq::format("name: {}\n", quoted(recipe.name));
  if (!recipe.about.empty()) text += visq::format("about: {}\n", quoted(recipe.about));
  if (recipe.kv_cache) text += visq::format("kv_cache: {}\n", kv_cache_name(*recipe.kv_cache));
  if (!recipe.without_data.empty()) text += visq::format("without_data: {}\n", quoted(recipe.without_data));
  if (recipe.modality_weight != 1.0)
    text += visq::format("modality_weight: {}\n", modality_weight_text(recipe.modality_weight));
  text += list_text("only", recipe.only) + list_text("skip", recipe.skip) + "rules:\n";
  for (const Rule& rule : recipe.rules) {
    text += visq::format("  - {{sites: {}", quoted(rule.sites));
    if (!rule.scheme) {
      text += ", scheme: none}\n";
      continue;
    }
    const Scheme& scheme = *rule.scheme;
    text += visq::format(", weight: {}", name_of(kWeights, scheme.weight));
    if (scheme.block > 0) text += visq::format(", block: {}", scheme.block);
    if (scheme.fp8_second_stage) text += ", second_stage: fp8";
    text += visq::format(", input: {}, smoothing: {}", name_of(kInputs, scheme.input),
                         name_of(kSmoothings, scheme.solver));
    if (scheme.alpha) text += visq::format(", alpha: {}", *scheme.alpha);
    if (scheme.rotated) text += ", rotation: hadamard";
    if (scheme.rounded_inputs) text += ", smoothing_inputs: rounded";
    text += visq::format(", scales: {}, rounding: {}", name_of(kScales, scheme.scales),
                         name_of(kRoundings, scheme.rounding));
    if (scheme.low_rank > 0)
      text += visq::format(", low_rank: {}, low_rank_by: {}", scheme.low_rank,
                           name_of(kLowRankBys, scheme.low_rank_by));
    text += "}\n";
  }
  return text;
}

}  // namespace visq

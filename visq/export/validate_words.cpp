// Rules A7 (can everything be opened?) and A8, A9 (is the configuration one that engines understand?).
#include <algorithm>
#include <array>
#include <cctype>

#include "visq/core/error.h"
#include "visq/export/name_match.h"
#include "visq/export/validation_context.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

/// Letters and digits alone: "compressed_tensors" is meant as "compressed-tensors".
std::string letters(const std::string& text) {
  std::string kept;
  for (const unsigned char c : lower(text))
    if (std::isalnum(c)) kept += static_cast<char>(c);
  return kept;
}

/// Insertions, deletions and replacements from one to the other.
size_t distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

/// The word that was meant; "": none is near.
std::string nearest(const std::string& word, const Words& known) {
  if (word.size() > 64) return "";
  std::string best;
  size_t least = 3;  // letters off
  for (const std::string& candidate : known)
    if (const size_t off = distance(letters(word), letters(candidate)); off < least) {
      least = off;
      best = candidate;
    }
  return best;
}

/// quant_method of published checkpoints that some engine reads.
const Words& methods() {
  static const Words all = {"modelopt",      "compressed-tensors",
                            "fp8",           "bitsandbytes",
                            "awq",           "gptq",
                            "mxfp4",         "mxfp8",
                            "quark",         "auto-round",
                            "hqq",           "torchao",
                            "gguf",          "experts_int8",
                            "fbgemm_fp8",    "modelopt_fp4",
                            "modelopt_mixed"};
  return all;
}

/// quant_algo of ModelOpt (spec/export.md §7.2).
const Words& algorithms() {
  static const Words all = {"FP8",
                            "FP8_PER_CHANNEL_PER_TOKEN",
                            "FP8_PB_WO",
                            "fp8_pb_wo",
                            "NVFP4",
                            "NVFP4_AWQ",
                            "W4A16_NVFP4",
                            "MXFP8",
                            "W4A16_AWQ",
                            "W4A8_AWQ",
                            "W8A16",
                            "W4A16",
                            "NVFP4_SVD",
                            "W4A8_NVFP4_FP8",
                            "W4A8_MXFP4_FP8",
                            "mxfp4",
                            "mxfp6",
                            "mxint8",
                            "W8A8_SQ_PER_CHANNEL",
                            "MIXED_PRECISION"};
  return all;
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : json_excerpt(value);
}

std::string meant(const std::string& word, const Words& known, const std::string& otherwise) {
  const std::string near = nearest(word, known);
  return near.empty() ? otherwise : visq::format("write '{}'", near);
}

void check_word(Findings& findings, const Json& object, const char* key, const Words& known,
                const std::string& otherwise) {
  findings.count();
  if (!object.contains(key))
    return findings.add("", visq::format("config.json: quantization_config has no {}", key), otherwise);
  const Json& value = object.at(key);
  if (value.is_null())
    return findings.add("", visq::format("config.json: {} is null: this checkpoint was not quantized", key),
                        otherwise);
  if (value.is_string() && std::ranges::find(known, value.get<std::string>()) != known.end()) return;
  findings.add("", visq::format("config.json: {} '{}' is one that no engine knows", key, text_of(value)),
               meant(text_of(value), known, otherwise));
}

void check_nested(Findings& findings, const ValidationContext& context) {
  const Json& config = context.output.text_model().config;
  for (const auto& [key, value] : config.items()) {
    if (!value.is_object() || !value.contains("quantization_config")) continue;
    findings.count();
    if (!config.contains("quantization_config"))
      findings.add("",
                   visq::format("config.json: quantization_config is in {}; most readers look at the top "
                                "level and build the model unquantized",
                                key),
                   "move it to the top level of config.json");
    else if (value.at("quantization_config") != context.quantization)
      findings.add(
          "",
          visq::format("config.json: the quantization_config in {} contradicts the one at the top level",
                       key),
          "delete the nested one");
  }
}

void check_missing(Findings& findings, const ValidationContext& context) {
  const Json& config = context.output.text_model().config;
  const fs::path directory = context.output.text_model().directory;
  std::error_code code;
  if (config.contains("compression_config"))
    findings.add("",
                 "config.json: the configuration is under compression_config, which new engines do not read",
                 "rename the key to quantization_config");
  else if (!config.contains("quantization_config") && fs::exists(directory / "hf_quant_config.json", code))
    findings.warn(
        "",
        "config.json has no quantization_config, only hf_quant_config.json says how the checkpoint is "
        "quantized; readers of config.json alone build it unquantized",
        "copy it into config.json, with exclude_modules as 'ignore' and quant_method 'modelopt'");
  else if (context.quantization.is_null() && findings.empty())
    findings.add("", "is not quantized: config.json has no quantization_config",
                 "quantize it: visq quantize DIR --format …");
}

void check_modelopt(Findings& findings, const Json& config) {
  check_word(findings, config, "quant_algo", algorithms(),
             "write the algorithm of the stored tensors, for instance FP8 or NVFP4; or quantize again");
  if (config.contains("exclude_modules"))
    findings.add("",
                 "config.json: quantization_config has exclude_modules; vllm and sglang read 'ignore' here",
                 "rename exclude_modules to ignore (the other name is that of hf_quant_config.json)");
  const Json kv = config.value("kv_cache_quant_algo", Json(nullptr)),
             scheme = config.value("kv_cache_scheme", Json(nullptr));
  if (config.contains("kv_cache_quant_algo"))
    findings.expect(kv.is_null() == scheme.is_null(),
                    "let both say the same, null where the KV cache is not quantized",
                    "config.json: kv_cache_quant_algo is {} but kv_cache_scheme is {}", json_excerpt(kv),
                    json_excerpt(scheme));
}

/// What a compressed-tensors format stores: type and bits.
struct Stored {
  const char *format, *type;
  std::vector<int64_t> bits;
};
const std::vector<Stored>& formats() {
  static const std::vector<Stored> all = {{"float-quantized", "float", {8}},
                                          {"naive-quantized", "", {8}},
                                          {"int-quantized", "int", {4, 8}},
                                          {"pack-quantized", "int", {2, 3, 4, 8}},
                                          {"nvfp4-pack-quantized", "float", {4}},
                                          {"mxfp4-pack-quantized", "float", {4}},
                                          {"mxfp8-quantized", "float", {8}},
                                          {"marlin-24", "int", {4, 8}},
                                          {"mixed-precision", "", {}},
                                          {"dense", "", {}}};
  return all;
}

void check_group(Findings& findings, const std::string& name, const Json& group, const std::string& format) {
  findings.count();
  if (!group.is_object() || !group.contains("weights") || !group.at("weights").is_object())
    return findings.add(
        "", visq::format("config.json: config_groups: '{}' does not say how weights are stored", name),
        "give it 'weights' with num_bits, type and strategy");
  const Json& weights = group.at("weights");
  const Json type = weights.value("type", Json("int")), bits = weights.value("num_bits", Json(8));
  const int64_t width = bits.is_number_integer() ? bits.get<int64_t>() : 0;
  for (const Stored& stored : formats())
    if (stored.format == format && stored.type[0] != '\0')
      findings.expect(type == stored.type && std::ranges::find(stored.bits, width) != stored.bits.end(),
                      "let format and the group's weights say the same",
                      "config.json: format '{}' contradicts the weights of {} ({} of {} bits)", format, name,
                      text_of(type), json_excerpt(bits));
  const Json strategy = weights.value("strategy", Json(nullptr)),
             size = weights.value("group_size", Json(nullptr));
  if (strategy == "group" || strategy == "tensor_group")
    findings.expect(size.is_number_integer() && size.get<int64_t>() > 0,
                    "give the group_size of the stored scales",
                    "config.json: {}: strategy '{}' without a group_size", name, text_of(strategy));
  if (strategy == "channel" || strategy == "tensor")
    findings.expect(!size.is_number_integer() || size.get<int64_t>() <= 0,
                    "drop group_size, or write strategy 'group'",
                    "config.json: {}: strategy '{}' contradicts group_size {}", name, text_of(strategy),
                    json_excerpt(size));
}

bool targets(const std::string& target, const std::string& module) {
  if (!target.starts_with("re:")) return target == "Linear" || target == module;
  try {
    return expression_matches(target.substr(3), module);
  } catch (const Error&) {
    return false;  // an expression that visq does not judge
  }
}

void check_overlap(Findings& findings, const ValidationContext& context, const Json& groups) {
  std::string first, second, example;
  int64_t count = 0;
  for (const std::string& module : context.modules) {
    std::vector<std::string> found;
    for (const auto& [name, group] : groups.items()) {
      const Json list = group.is_object() ? group.value("targets", Json::array()) : Json::array();
      if (list.is_array() && std::ranges::any_of(list, [&](const Json& target) {
            return target.is_string() && targets(target.get<std::string>(), module);
          }))
        found.push_back(name);
    }
    if (found.size() < 2 || count++ > 0) continue;
    first = found[0], second = found[1], example = module;
  }
  findings.count();
  if (count > 0)
    findings.add(
        "",
        visq::format("'{}' matches the targets of {} and {} ({} linears do): readers disagree which wins",
                     example, first, second, count),
        "list disjoint targets");
}

void check_compressed(Findings& findings, const ValidationContext& context) {
  const Json& config = context.quantization;
  Words known;
  for (const Stored& stored : formats()) known.emplace_back(stored.format);
  check_word(findings, config, "format", known,
             "write the format of the stored tensors, for instance pack-quantized");
  const std::string format = config.contains("format") ? text_of(config.at("format")) : "";
  const Json groups = config.value("config_groups", Json(nullptr));
  if (!groups.is_object() || groups.empty())
    return findings.add("", "config.json: config_groups is missing or empty: nothing says what is quantized",
                        "give a group with targets and weights");
  for (const auto& [name, group] : groups.items()) {
    check_group(findings, name, group, format);
    if (context.is_for("tensorrt-llm") && groups.size() == 1)
      if (findings.count(); name != "group_0")
        findings.add("tensorrt-llm",
                     visq::format("config_groups is keyed '{}'; TensorRT-LLM looks up 'group_0'", name),
                     "rename the key to group_0");
  }
  if (groups.size() < 2) return;
  if (context.is_for("tensorrt-llm"))
    findings.add(
        "tensorrt-llm",
        visq::format("{} config_groups: vLLM and SGLang resolve them per module, TensorRT-LLM reads one "
                     "(newer ones several, whose targets are no class names)",
                     groups.size()),
        "write a mix in the modelopt layout (MIXED_PRECISION) for it");
  check_overlap(findings, context, groups);
}

/// What engines demand of ModelOpt's second configuration.
void check_nested_keys(Findings& findings, const ValidationContext& context) {
  const fs::path path = context.output.text_model().directory / "hf_quant_config.json";
  std::error_code code;
  if (!fs::exists(path, code)) return;
  Json file;
  try {
    file = read_json(path);
  } catch (const Error& error) {
    return findings.add("", error.what(), "write the file anew from config.json");
  }
  const Json nested = file.is_object() ? file.value("quantization", Json(nullptr)) : Json(nullptr);
  if (!nested.is_object())
    return findings.add("", "hf_quant_config.json has no 'quantization': TensorRT-LLM reads it first",
                        "write quant_algo, kv_cache_quant_algo and exclude_modules there");
  const Json algorithm = nested.value("quant_algo", Json(nullptr));
  findings.expect(algorithm.is_string(), "write the algorithm of config.json",
                  "hf_quant_config.json: quant_algo is {}: this checkpoint was not quantized",
                  json_excerpt(algorithm));
  if (nested.contains("ignore"))
    findings.add("", "hf_quant_config.json has 'ignore'; engines read exclude_modules here",
                 "rename ignore to exclude_modules (the other name is that of config.json)");
  const bool four_bits = algorithm.is_string() && text_of(algorithm).find("NVFP4") != std::string::npos;
  for (const char* key : {"group_size", "kv_cache_quant_algo", "exclude_modules"})
    if (four_bits)
      findings.expect(
          nested.contains(key), "add it, as in config.json",
          "hf_quant_config.json lacks {}: vLLM refuses NVFP4 without it, TensorRT-LLM asserts on it", key);
}

}  // namespace

void check_opening(const ValidationContext& context, const std::vector<std::string>& problems,
                   Validation& validation) {
  Findings findings(validation, "A7", "every file that is promised is there and can be read");
  findings.count();
  for (const std::string& problem : problems) {
    const bool config = problem.find("config.json") != std::string::npos;
    findings.add(
        "", problem.substr(0, problem.find('\n')),
        config ? "write a config.json that is one JSON object"
               : "fetch or write the file again; half a checkpoint serves garbage where engines load it");
  }
  const fs::path directory = fs::path(context.output.directory()).lexically_normal();
  const std::string name =
      (directory.has_filename() ? directory : directory.parent_path()).filename().string();
  findings.expect(!name.ends_with(".partial"), "delete it and run the command again",
                  "{} is what an interrupted run of visq left behind", name);
  for (const CheckpointPart* part : {&context.output.text_model()}) {
    std::error_code code;
    const fs::path single = part->directory / "model.safetensors",
                   index = part->directory / "model.safetensors.index.json";
    if (fs::exists(single, code) && fs::exists(index, code)) {
      bool listed = false;
      try {
        listed = read_text(index, kMaxTokenizerBytes).find("\"model.safetensors\"") != std::string::npos;
      } catch (const Error&) {  // A5 says so
      }
      if (!listed)
        findings.add(
            "", "model.safetensors is not in the index: vLLM loads the shards of the index, others this file",
            "delete what is stale of the two");
    }
    for (const auto& entry : fs::directory_iterator(part->directory, code)) {
      const std::string file = entry.path().filename().string();
      if (file.starts_with("pytorch_model") && file.ends_with(".bin"))
        findings.warn(
            "", visq::format("{} lies beside the .safetensors files; engines that glob read both", file),
            "delete it");
    }
  }
}

void check_words(const ValidationContext& context, const std::string& refusal, Validation& validation) {
  Findings findings(validation, "A8",
                    "config.json says in words of the engines how the checkpoint is quantized");
  check_nested(findings, context);
  const Json& config = context.quantization;
  check_missing(findings, context);
  if (config.is_null()) return;
  if (!config.is_object())
    return findings.add("", "config.json: quantization_config is no object",
                        "write it as one, with quant_method");
  check_word(findings, config, "quant_method", methods(),
             "name the layout of the stored tensors, for instance modelopt or compressed-tensors");
  const std::string method = config.contains("quant_method") ? text_of(config.at("quant_method")) : "";
  if (method == "modelopt") {
    check_modelopt(findings, config);
    check_nested_keys(findings, context);
  }
  if (method == "compressed-tensors") check_compressed(findings, context);
  if (const char* key = context.exclude_key.c_str(); config.contains(key) && !config.at(key).is_null())
    findings.expect(method == "gptq"
                        ? config.at(key).is_object()
                        : config.at(key).is_array() && context.exclude.size() == config.at(key).size(),
                    method == "gptq" ? "write an object with expressions for keys" : "write a list of names",
                    "config.json: {} is no {}", key, method == "gptq" ? "object" : "list of names");
  if (!refusal.empty() && findings.empty())
    findings.warn("", refusal.substr(0, refusal.find('\n')) + "; values and shapes are not judged",
                  "write it in a format of visq formats for a check of everything");
}

}  // namespace visq

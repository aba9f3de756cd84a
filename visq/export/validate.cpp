#include "visq/export/validate.h"

#include <algorithm>
#include <iterator>
#include <tuple>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/validation_context.h"
#include "visq/families/model_checks.h"

namespace visq {

std::vector<std::string> linear_modules(const Checkpoint& checkpoint) {
  std::vector<std::string> names = checkpoint.names(), modules;
  std::ranges::copy(checkpoint.stacked_names(), std::back_inserter(names));
  for (const std::string& name : names) {
    for (const char* suffix : {".weight", ".weight_packed", ".qweight"}) {
      const size_t length = std::string(suffix).size();
      if (name.size() <= length || name.compare(name.size() - length, length, suffix) != 0) continue;
      const std::string module = name.substr(0, name.size() - length);
      const std::string leaf = leaf_of(module);
      if (checkpoint.info(name).shape.size() == 2 && leaf.find("embed") == std::string::npos)
        modules.push_back(module);
    }
  }
  return modules;
}

std::string Finding::line() const {
  const bool sentence = what.ends_with('.') && !fix.empty();
  return (engine.empty() ? "" : engine + ": ") + (sentence ? what.substr(0, what.size() - 1) : what) +
         (fix.empty() ? "" : ": " + fix);
}

bool RuleResult::failed() const {
  return std::ranges::any_of(findings, [](const Finding& finding) { return !finding.warning; });
}

bool Validation::passed() const {
  return std::ranges::none_of(rules, [](const RuleResult& rule) { return rule.failed(); });
}

namespace {

using Rules = void (*)(const ValidationContext&, Validation&);

/// Rules that stop at something unforeseen say so, and the others go on.
template <typename Run>
void guarded(Validation& validation, const Run& run) {
  const auto report = [&](const std::string& why) {
    if (validation.rules.empty()) return;
    RuleResult& rule = validation.rules.back();
    rule.findings.push_back({rule.id, "", why.substr(0, why.find('\n')),
                             "mend this first: visq cannot judge the rest of this rule without it", false});
  };
  try {
    run();
  } catch (const std::exception& error) {  // libtorch has a type of its own
    report(error.what());
  }
}

Json object_at(const Json& config, const char* key) {
  return config.is_object() && config.contains(key) ? config.at(key) : Json(nullptr);
}

/// The exclude list under the key that readers of this quant_method look at.
std::string exclude_key_of(const Json& quantization, const QuantizedCheckpoint* quantized) {
  if (quantized != nullptr) return quantized->layout().exclude_key();
  for (const char* key : {"ignore", "modules_to_not_convert", "ignored_layers", "llm_int8_skip_modules"})
    if (quantization.is_object() && quantization.contains(key)) return key;
  return "ignore";
}

std::vector<std::string> strings_at(const Json& object, const std::string& key) {
  std::vector<std::string> strings;
  const Json list = object_at(object, key.c_str());
  if (list.is_array())
    for (const Json& entry : list)
      if (entry.is_string()) strings.push_back(entry.get<std::string>());
  return strings;
}

std::string layout_of_method(const Json& quantization) {
  static const std::map<std::string, std::string> layouts = {{"fp8", "hf-fp8"},
                                                             {"awq", "autoawq"},
                                                             {"gptq", "gptq"},
                                                             {"bitsandbytes", "bitsandbytes"},
                                                             {"compressed-tensors", "compressed-tensors"}};
  const Json method = object_at(quantization, "quant_method");
  const auto found = layouts.find(method.is_string() ? method.get<std::string>() : "");
  return found == layouts.end() ? "modelopt" : found->second;
}

void describe(ValidationContext& context) {
  try {
    context.spec =
        describe_model(context.output.config(), (context.output.directory() / "config.json").string());
    for (const ExpectedTensor& tensor : expected_tensors(*context.spec, /*with_linears=*/true))
      context.expected.emplace(tensor.name, tensor.shape);
    context.names.emplace(*context.spec, context.output);
  } catch (const std::exception&) {  // another family's, or B7 says more of it
    context.names.reset();
  }
}

void collect_modules(ValidationContext& context) {
  static const std::set<std::string> kScales = {
      "weight_scale", "weight_scale_2",     "weight_scale_inv", "weight_global_scale",
      "input_scale",  "input_global_scale", "activation_scale", "scales",
      "qzeros",       "weight_zero_point",  "weight.absmax",    "weight_double_scale"};
  static const std::set<std::string> kWeights = {"weight",       "weight_packed",  "qweight",
                                                 "bias",         "weight_shape",   "g_idx",
                                                 "weight_g_idx", "pre_quant_scale"};
  std::vector<std::string> names = context.output.names();
  std::ranges::copy(context.output.stacked_names(), std::back_inserter(names));
  for (const std::string& name : names) {
    const bool absmax = name.ends_with(".weight.absmax");
    const size_t dot = absmax ? name.size() - std::string(".weight.absmax").size() : name.rfind('.');
    if (dot == std::string::npos || dot == 0) continue;
    const std::string suffix = name.substr(dot + 1);
    if (!kScales.contains(suffix) && !kWeights.contains(suffix)) continue;
    StoredModule& module = context.stored[name.substr(0, dot)];
    module.tensors.emplace(suffix, context.output.info(name));
    if (kScales.contains(suffix)) module.scales.push_back(suffix);
  }
  const auto may_be_lost = [&](const std::string& module) { return context.may_be_lost(module); };
  std::erase_if(context.stored, [&](const auto& module) { return may_be_lost(module.first); });
  context.linears = linear_modules(context.source != nullptr ? *context.source : context.output);
  std::erase_if(context.linears, may_be_lost);
  for (const std::string& module : linear_modules(context.output))
    if (!may_be_lost(module) && (context.is_packed(module) ||
                                 (context.quantized != nullptr && context.quantized->is_quantized(module))))
      context.modules.insert(module);
}

}  // namespace

Validation validate(const std::filesystem::path& directory, const Checkpoint* source,
                    const std::vector<const EngineModel*>& engines) {
  std::vector<std::string> problems;
  const Checkpoint output = Checkpoint::salvage(directory, problems);
  std::optional<QuantizedCheckpoint> quantized;
  std::string refusal;
  try {
    if (auto opened = QuantizedCheckpoint::open(output)) quantized.emplace(std::move(*opened));
  } catch (const std::exception& error) {
    refusal = error.what();
  }
  Validation validation;
  validation.rules.reserve(64);  // Findings point into it
  if (quantized) {
    validation.layout = quantized->layout().name();
    validation.format = quantized->format_name();
  }
  for (const EngineModel* engine : engines) validation.engines.emplace_back(engine->name);
  if (engines.empty())
    validation.engines =
        quantized ? quantized->engines() : std::vector<std::string>{"vllm", "sglang", "tensorrt-llm"};

  ValidationContext context{output, source, quantized ? &*quantized : nullptr};
  for (const std::string& name : validation.engines) context.engines.push_back(&find_engine(name));
  const Json& config = output.text_model().config;
  try {
    context.quantization = quantization_config_of(output.text_model());
  } catch (const std::exception&) {  // A8 says why
  }
  context.exclude_key = exclude_key_of(context.quantization, context.quantized);
  context.layout = quantized ? quantized->layout().name() : layout_of_method(context.quantization);
  context.exclude = strings_at(context.quantization, context.exclude_key);
  // GPTQ's is an object, and no list.
  if (const Json dynamic = object_at(context.quantization, "dynamic"); dynamic.is_object())
    for (const auto& [pattern, settings] : dynamic.items())
      if (context.exclude_key == "dynamic" && pattern.starts_with("-:")) context.exclude.push_back(pattern);
  if (const Json type = object_at(config, "model_type"); type.is_string()) context.model_type = type;
  describe(context);
  collect_modules(context);

  guarded(validation, [&] { check_opening(context, problems, validation); });
  guarded(validation, [&] { check_words(context, refusal, validation); });
  std::vector<Rules> all = {check_files, check_names,    check_expected, check_excludes,
                            check_parts, check_kv_names, check_sizes,    check_stored_scales};
  if (quantized) all.insert(all.end(), {check_scales, check_values, check_shapes});
  for (const Rules rules : all) guarded(validation, [&] { rules(context, validation); });
  std::ranges::stable_sort(validation.rules, {}, [](const RuleResult& rule) {  // B2 before B10
    return std::tuple(rule.id.front(), rule.id.size(), rule.id);
  });
  return validation;
}

}  // namespace visq

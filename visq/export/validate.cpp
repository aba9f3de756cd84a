#include "visq/export/validate.h"

#include <algorithm>
#include <iterator>

#include "visq/core/error.h"
#include "visq/export/validation_context.h"

namespace visq {

std::vector<std::string> linear_modules(const Checkpoint& checkpoint) {
  std::vector<std::string> names = checkpoint.names(), modules;
  std::ranges::copy(checkpoint.stacked_names(), std::back_inserter(names));
  for (const std::string& name : names) {
    for (const char* suffix : {".weight", ".weight_packed"}) {
      const size_t length = std::string(suffix).size();
      if (name.size() <= length || name.compare(name.size() - length, length, suffix) != 0) continue;
      const std::string module = name.substr(0, name.size() - length);
      const std::string leaf = module.substr(module.rfind('.') + 1);
      if (checkpoint.info(name).shape.size() == 2 && leaf.find("embed") == std::string::npos)
        modules.push_back(module);
    }
  }
  return modules;
}

namespace {

std::vector<std::string> exclude_entries(const Checkpoint& output, const Layout& layout) {
  const CheckpointPart& part = output.text_model();
  return get_or<std::vector<std::string>>(part.config.at("quantization_config"), layout.exclude_key(), {},
                                          (part.directory / "config.json").string());
}

}  // namespace

bool Validation::passed() const {
  return std::all_of(rules.begin(), rules.end(),
                     [](const RuleResult& rule) { return rule.violations.empty(); });
}

Findings::Findings(Validation& validation, std::string id, std::string description) {
  validation.rules.push_back({std::move(id), std::move(description), 0, {}, {}});
  result_ = &validation.rules.back();
}

std::string linear_name(const std::string& module) {
  static const std::string kLevel = ".base_layer";
  return module.ends_with(kLevel) ? module.substr(0, module.size() - kLevel.size()) : module;
}

bool reads_alone(const std::string& module) {
  const std::string name = linear_name(module);
  return name.ends_with("o_proj") || name.ends_with("down_proj") || name.ends_with("cross_attn.q_proj");
}

std::vector<std::vector<std::string>> ValidationContext::fused_groups() const {
  static const std::vector<std::vector<std::string>> kFused = {
      {"q_proj", "k_proj", "v_proj"}, {"cross_attn.k_proj", "v_proj"}, {"gate_proj", "up_proj"}};
  std::vector<std::vector<std::string>> groups;
  for (const std::string& module : modules) {
    const size_t dot = module.rfind('.');
    for (const auto& names : kFused) {
      if (!module.ends_with(names.front()) || reads_alone(module)) continue;
      std::vector<std::string> group = {module};
      for (size_t i = 1; i < names.size(); ++i)
        if (const std::string member = module.substr(0, dot + 1) + names[i]; modules.contains(member))
          group.push_back(member);
      groups.push_back(std::move(group));
    }
  }
  return groups;
}

Validation validate(const Checkpoint& output, const Checkpoint* source, const std::vector<Engine>& engines) {
  const auto quantized = QuantizedCheckpoint::open(output);
  if (!quantized)
    fail("{}: is not quantized: config.json has no quantization_config", output.directory().string());
  ValidationContext context{
      output, source, *quantized, engines, {}, linear_modules(source ? *source : output), {}, {}};
  const CheckpointPart& part = output.text_model();
  context.model_type =
      get_or<std::string>(part.config, "model_type", "", (part.directory / "config.json").string());
  context.exclude = exclude_entries(output, quantized->layout());
  for (const std::string& module : linear_modules(output))
    if (quantized->is_quantized(module)) context.modules.insert(module);

  Validation validation;
  validation.rules.reserve(64);  // Findings point into it
  check_files(context, validation);
  check_names(context, validation);
  check_shapes(context, validation);
  check_scales(context, validation);
  check_values(context, validation);
  return validation;
}

}  // namespace visq

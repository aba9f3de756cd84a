#include "visq/export/validation_context.h"

#include <algorithm>

namespace visq {

Findings::Findings(Validation& validation, std::string id, std::string description) {
  validation.rules.push_back({std::move(id), std::move(description), 0, {}, {}});
  result_ = &validation.rules.back();
}

std::string one_line(const std::string& text) {
  std::string line = text;
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return line;
}

std::string linear_name(const std::string& module) {
  static const std::string kLevel = ".base_layer";
  return module.ends_with(kLevel) ? module.substr(0, module.size() - kLevel.size()) : module;
}

bool reads_alone(const std::string& module) {
  const std::string name = linear_name(module);
  return name.ends_with("o_proj") || name.ends_with("down_proj") || name.ends_with("cross_attn.q_proj");
}

const TensorInfo* StoredModule::weight() const {
  for (const char* suffix : {"weight", "weight_packed", "qweight"})
    if (const auto found = tensors.find(suffix); found != tensors.end()) return &found->second;
  return nullptr;
}

bool StoredModule::is_packed() const {
  const TensorInfo* stored = weight();
  if (stored == nullptr) return false;
  const bool plain = at::isFloatingType(stored->dtype) && !at::isFloat8Type(stored->dtype);
  return !plain || has("weight_packed") || has("qweight");
}

bool ValidationContext::is_packed(const std::string& module) const {
  const auto found = stored.find(module);
  return found != stored.end() && found->second.is_packed();
}

std::string ValidationContext::dtype_of(const std::string& module) const {
  const auto found = stored.find(module);
  const TensorInfo* weight = found == stored.end() ? nullptr : found->second.weight();
  return weight == nullptr ? "absent" : std::string(safetensors_dtype(weight->dtype));
}

bool ValidationContext::may_be_lost(const std::string& name) const {
  const std::vector<std::string>& lost = output.lost_names();
  const auto inside = std::ranges::lower_bound(lost, name + ".");
  return output.lost_unnamed() || std::ranges::binary_search(lost, name) ||
         (inside != lost.end() && inside->starts_with(name + "."));
}

std::optional<PackedLinear> ValidationContext::read(const std::string& module) const {
  if (quantized == nullptr || unreadable.contains(module)) return std::nullopt;
  try {
    return quantized->read(module);
  } catch (const std::exception& error) {  // libtorch has a type of its own
    const std::string why = error.what();
    unreadable.emplace(module, why.substr(0, why.find('\n')));
    return std::nullopt;
  }
}

namespace {

/// The groups among `members`, without those of which something is lost.
std::vector<std::vector<std::string>> groups_of(const ValidationContext& context,
                                                const std::set<std::string>& members) {
  static const std::vector<std::vector<std::string>> kFused = {
      {"q_proj", "k_proj", "v_proj"}, {"cross_attn.k_proj", "v_proj"}, {"gate_proj", "up_proj"}};
  std::vector<std::vector<std::string>> groups;
  for (const std::string& module : members) {
    const size_t dot = module.rfind('.');
    for (const auto& names : kFused) {
      if (!module.ends_with(names.front()) || reads_alone(module)) continue;
      std::vector<std::string> group = {module};
      bool lost = false;
      for (size_t i = 1; i < names.size(); ++i) {
        std::string member = module.substr(0, dot + 1) + names[i];
        lost |= context.may_be_lost(member);
        if (members.contains(member)) group.push_back(std::move(member));
      }
      if (!lost) groups.push_back(std::move(group));
    }
  }
  return groups;
}

}  // namespace

std::vector<std::vector<std::string>> ValidationContext::fused_groups() const {
  return groups_of(*this, modules);
}

std::vector<std::vector<std::string>> ValidationContext::fusible_groups() const {
  return groups_of(*this, {linears.begin(), linears.end()});
}

bool ValidationContext::is_for(const std::string& engine) const {
  return std::ranges::any_of(engines, [&](const EngineModel* known) { return engine == known->name; });
}

bool ValidationContext::in_tower(const std::string& module) const {
  const std::string name = spec ? NameMap::canonical(*spec, module) : module;
  if (spec && !spec->projector_prefix.empty() && name.starts_with(spec->projector_prefix)) return false;
  if (spec && !spec->tower_prefix.empty() && name.starts_with(spec->tower_prefix)) return true;
  return std::ranges::any_of(
      std::initializer_list<const char*>{"vision_tower.", "vision_model.", "visual."},
      [&](const char* part) { return ("." + name).find(std::string(".") + part) != std::string::npos; });
}

bool ValidationContext::in_decoder(const std::string& module) const {
  if (!spec) return !in_tower(module) && !in_projector(module);
  return NameMap::canonical(*spec, module).starts_with(spec->decoder_prefix + "layers.");
}

bool ValidationContext::in_projector(const std::string& module) const {
  const std::string name = spec ? NameMap::canonical(*spec, module) : module;
  if (spec && !spec->projector_prefix.empty() && name.starts_with(spec->projector_prefix)) return true;
  return std::ranges::any_of(
      std::initializer_list<const char*>{"multi_modal_projector.", "mm_projector.", "mlp1.", "merger."},
      [&](const char* part) { return ("." + name).find(std::string(".") + part) != std::string::npos; });
}

}  // namespace visq

#include "visq/families/names.h"

#include <algorithm>

#include "visq/core/format.h"

namespace visq {

std::string NameMap::canonical(const ModelSpec& spec, const std::string& source_name) {
  std::string name = source_name;
  for (const NameRule& rule : spec.name_rules) {
    const bool exempt =
        std::ranges::any_of(rule.unless, [&](const std::string& prefix) { return name.starts_with(prefix); });
    const size_t at = rule.from.starts_with('.')    ? name.find(rule.from)
                      : name.starts_with(rule.from) ? 0
                                                    : std::string::npos;
    if (!exempt && at != std::string::npos) name.replace(at, rule.from.size(), rule.to);
  }
  return name;
}

NameMap::NameMap(const ModelSpec& spec, const Checkpoint& checkpoint) {
  const auto add = [&](const std::string& source_name) {
    const std::string name = canonical(spec, source_name);
    const auto [it, added] = source_of_.emplace(name, source_name);
    if (!added)
      fail("{}: tensors '{}' and '{}' are both '{}'; the checkpoint mixes two naming generations",
           checkpoint.directory().string(), it->second, source_name, name);
    const size_t dot = name.rfind('.'), source_dot = source_name.rfind('.');
    if (dot != std::string::npos && source_dot != std::string::npos)
      module_of_.emplace(name.substr(0, dot), source_name.substr(0, source_dot));
  };
  std::ranges::for_each(checkpoint.names(), add);
  std::ranges::for_each(checkpoint.stacked_names(), add);
}

std::string NameMap::source(const std::string& name) const {
  const auto it = source_of_.find(name);
  return it == source_of_.end() ? "" : it->second;
}

std::string NameMap::source_module(const std::string& name) const {
  const auto it = module_of_.find(name);
  return it == module_of_.end() ? "" : it->second;
}

std::string NameMap::module(const ModelSpec& spec, int64_t layer, const nn::LinearId& id) const {
  return source_module(
      visq::format("{}layers.{}.{}", spec.decoder_prefix, layer, nn::linear_path(spec.decoder, layer, id)));
}

std::string NameMap::router(const ModelSpec& spec, int64_t layer) const {
  return source_module(visq::format("{}layers.{}.{}", spec.decoder_prefix, layer, nn::kRouterPath));
}

std::string NameMap::attention(const ModelSpec& spec, int64_t layer) const {
  const std::string keys = module(spec, layer, nn::key_rows(spec.decoder).linear);
  return keys.substr(0, keys.rfind("_attn.") + std::string("_attn").size());
}

}  // namespace visq

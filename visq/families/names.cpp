#include "visq/families/names.h"

#include <algorithm>

#include "visq/core/format.h"

namespace visq {

std::string NameMap::canonical(const ModelSpec& spec, const std::string& source_name) {
  std::string name = source_name;
  for (const NameRule& rule : spec.name_rules) {
    const bool exempt =
        std::ranges::any_of(rule.unless, [&](const std::string& prefix) { return name.starts_with(prefix); });
    if (!exempt && name.starts_with(rule.from)) name = rule.to + name.substr(rule.from.size());
  }
  return name;
}

NameMap::NameMap(const ModelSpec& spec, const Checkpoint& checkpoint) {
  for (const std::string& source_name : checkpoint.names()) {
    const std::string name = canonical(spec, source_name);
    const auto [it, added] = source_of_.emplace(name, source_name);
    if (!added)
      fail("{}: tensors '{}' and '{}' are both '{}'; the checkpoint mixes two naming generations",
           checkpoint.directory().string(), it->second, source_name, name);
    const size_t dot = name.rfind('.'), source_dot = source_name.rfind('.');
    if (dot != std::string::npos && source_dot != std::string::npos)
      module_of_.emplace(name.substr(0, dot), source_name.substr(0, source_dot));
  }
}

std::string NameMap::source(const std::string& name) const {
  const auto it = source_of_.find(name);
  return it == source_of_.end() ? "" : it->second;
}

std::string NameMap::source_module(const std::string& name) const {
  const auto it = module_of_.find(name);
  return it == module_of_.end() ? "" : it->second;
}

std::string NameMap::module(const ModelSpec& spec, int64_t layer, nn::Role role) const {
  return source_module(visq::format("{}layers.{}.{}", spec.decoder_prefix, layer, nn::role_path(role)));
}

std::string NameMap::attention(const ModelSpec& spec, int64_t layer) const {
  const std::string keys = module(spec, layer, nn::key_rows(spec.decoder).role);
  return keys.substr(0, keys.rfind('.'));
}

}  // namespace visq

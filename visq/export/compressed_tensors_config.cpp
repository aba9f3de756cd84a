#include "visq/export/compressed_tensors_config.h"

#include <algorithm>
#include <set>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/export/compressed_tensors_arguments.h"
#include "visq/export/layout_parts.h"
#include "visq/export/module_targets.h"

namespace visq::compressed_tensors {
namespace {

constexpr const char* kMethod = "compressed-tensors";
constexpr const char* kMixed = "mixed-precision";

Json group_of(const Scheme& scheme, Json targets) {
  return {{"targets", std::move(targets)},
          {"weights", weight_arguments(scheme)},
          {"input_activations", input_arguments(scheme)},
          {"output_activations", nullptr}};
}

Json group_list(const ExportSummary& summary, std::string& format) {
  Json groups = Json::object();
  const std::vector<Scheme>& schemes = summary.schemes;
  format = format_of(schemes.front());
  for (const Scheme& scheme : schemes)
    if (format != format_of(scheme)) format = kMixed;
  for (const Scheme& scheme : schemes) {
    Json targets = {"Linear"};
    if (schemes.size() > 1) {
      targets = Json::array();
      for (const auto& [module, of_module] : summary.linears)
        if (of_module.stored_like(scheme)) targets.push_back(module);
    }
    Json& group = groups["group_" + std::to_string(groups.size())] = group_of(scheme, std::move(targets));
    // A recent key: only where readers could not do without.
    if (format == kMixed || implied_format(scheme) != format_of(scheme)) group["format"] = format_of(scheme);
  }
  return groups;
}

// Regular expressions, because loaders do not rewrite them and so they hold in every naming generation
// (§5.3).
std::vector<std::string> ignore_list(const ExportSummary& summary) {
  std::vector<std::string> entries;
  std::set<std::string> seen;
  const auto add = [&](const std::string& entry) {
    if (seen.insert(entry).second) entries.push_back(entry);
  };
  for (const std::string& root : summary.unquantized_roots) add("re:.*" + escape_dots(leaf_of(root)) + ".*");
  // What precedes the layers differs between naming generations; SGLang knows most of what it fuses by the
  // fused name alone.
  for (const std::string& linear : with_fused_names(summary.unquantized_linears))
    add("re:.*" + escape_dots(name_from_layers(linear)) + "$");
  return entries;
}

/// Solvers that other tools have as a rule, so that what they changed beside the weights is expected.
Solver usual_solver(const Scheme& scheme) {
  if (scheme.weight == Codec::int8 && scheme.input == InputFormat::int8) return Solver::smoothquant;
  const bool int4 = scheme.weight == Codec::int4 || scheme.weight == Codec::int4_asym;
  return int4 && scheme.input == InputFormat::none ? Solver::awq : Solver::max;
}

struct Group {
  std::string name;
  Scheme scheme;
  ModuleTargets targets;
};

Group read_group(const std::string& name, const Json& json, const Json& config, const std::string& format,
                 const std::string& file) {
  const std::string origin = visq::format("{}: config_groups.{}", file, name);
  if (!json.is_object()) fail("{}: not an object", origin);
  const auto weights = get_or<Json>(json, "weights", nullptr, origin);
  if (weights.is_null()) fail("{}: quantizes no weights, which visq does not read", origin);
  if (!get_or<Json>(json, "output_activations", nullptr, origin).is_null())
    fail("{}: quantizes outputs (output_activations), which visq does not read", origin);
  Scheme scheme = read_scheme(weights, get_or<Json>(json, "input_activations", nullptr, origin), origin);
  std::string own_format = get_or<std::string>(json, "format", format, origin);
  if (own_format.empty() || own_format == kMixed) own_format = implied_format(scheme);
  check_format(own_format, scheme, origin);
  scheme.solver = usual_solver(scheme);
  if (scheme.solver == Solver::smoothquant) scheme.alpha = 0.5;
  const auto targets = require<std::vector<std::string>>(json, "targets", origin);
  if (targets.empty()) fail("{}: targets no module", origin);
  return {name, named_scheme(config, scheme), ModuleTargets(targets, origin)};
}

std::vector<Group> read_groups(const Json& config, const std::string& origin) {
  const auto groups = require<Json>(config, "config_groups", origin);
  if (!groups.is_object() || groups.empty()) fail("{}: config_groups has no group", origin);
  const auto format = get_or<std::string>(config, "format", "", origin);
  std::vector<Group> all;
  for (const auto& [name, group] : groups.items())
    all.push_back(read_group(name, group, config, format, origin));
  return all;
}

KvCacheFormat read_kv_cache(const Json& config, const std::string& origin) {
  const auto scheme = get_or<Json>(config, "kv_cache_scheme", nullptr, origin);
  if (scheme.is_null()) return KvCacheFormat::none;
  const bool per_head = read_kv_arguments(scheme, origin + ": kv_cache_scheme").per_head;
  return per_head ? KvCacheFormat::fp8_attn_head : named_kv_cache(config, KvCacheFormat::fp8);
}

// What says that weights are more than codes and scales.
void refuse_more(const Json& config, const std::string& origin) {
  const auto sparsity = get_or<Json>(config, "sparsity_config", nullptr, origin);
  if (sparsity.is_object() && get_or<std::string>(sparsity, "format", "dense", origin) != "dense")
    fail("{}: sparsity_config: weights are stored sparse ({}), which visq does not read", origin,
         get_or<std::string>(sparsity, "format", "", origin));
  const auto transform = get_or<Json>(config, "transform_config", nullptr, origin);
  if (transform.is_object() && !transform.empty() &&
      !get_or<Json>(transform, "config_groups", Json::object(), origin).empty())
    fail("{}: transform_config: inputs are transformed while the model runs, which visq does not do", origin);
}

}  // namespace

Json write_config(const ExportSummary& summary) {
  Json config;
  std::string format;
  const Json groups = group_list(summary, format);
  config["quant_method"] = kMethod;
  config["format"] = format;
  config["quantization_status"] = "compressed";
  config["config_groups"] = groups;
  config["ignore"] = ignore_list(summary);
  config["kv_cache_scheme"] = nullptr;
  if (summary.kv_cache != KvCacheFormat::none)
    config["kv_cache_scheme"] = kv_arguments(kv_format(summary.kv_cache).per_head);
  config["global_compression_ratio"] = nullptr;
  config["producer"] = producer_of("visq", summary);
  return config;
}

std::optional<StoredQuantization> read_config(const Json& config, const std::string& origin) {
  const auto method = get_or<std::string>(config, "quant_method", "", origin);
  if (method != kMethod && !(method.empty() && config.contains("config_groups"))) return std::nullopt;
  refuse_more(config, origin);
  StoredQuantization stored;
  stored.kv_cache = read_kv_cache(config, origin);
  stored.recipe = named_recipe(config);
  const std::vector<Group> groups = read_groups(config, origin);
  stored.scheme = groups.front().scheme;
  if (std::ranges::any_of(groups, [&](const Group& g) { return !g.scheme.stored_like(stored.scheme); }))
    for (const Group& group : groups)
      for (const std::string& target : group.targets.entries())
        if (!target.starts_with("re:") && target.find('.') != std::string::npos)
          stored.linears.emplace(target, group.scheme);
  return stored;
}

void resolve(StoredQuantization& stored, const Json& config, const std::vector<std::string>& modules,
             const std::string& origin) {
  const std::vector<Group> groups = read_groups(config, origin);
  const ModuleTargets ignored(get_or<std::vector<std::string>>(config, "ignore", {}, origin), origin);
  std::set<const Group*> used;
  std::map<std::string, Scheme> schemes;
  for (const std::string& module : modules) {
    const Group* best = nullptr;
    auto most = ModuleTargets::Match::none;
    for (const Group& group : groups) {
      const auto match = group.targets.match(module, /*other_spellings=*/true);
      if (match == ModuleTargets::Match::none || match < most) continue;
      if (match == most && !group.scheme.stored_like(best->scheme))
        fail("{}: config_groups: {} and {} both claim '{}', with unlike schemes ({} and {})", origin,
             best->name, group.name, module, describe_weight(best->scheme), describe_weight(group.scheme));
      if (match > most) best = &group;
      most = match;
    }
    if (best == nullptr)
      fail("{}: config_groups: '{}' is stored quantized, but no group targets it", origin, module);
    if (ignored.match(module, /*other_spellings=*/false) != ModuleTargets::Match::none)
      fail("{}: '{}' is stored quantized, but 'ignore' has it", origin, module);
    used.insert(best);
    schemes.emplace(module, best->scheme);
  }
  for (const Group& group : groups)
    if (!modules.empty() && !used.contains(&group))
      log_warning(visq::format("{}: config_groups.{}: its targets ({}) match no quantized linear", origin,
                               group.name, fmt::join(group.targets.entries(), ", ")));
  stored.linears.clear();
  if (schemes.empty()) return;
  stored.scheme = schemes.begin()->second;
  if (std::ranges::any_of(schemes, [&](const auto& s) { return !s.second.stored_like(stored.scheme); }))
    stored.linears = std::move(schemes);
}

}  // namespace visq::compressed_tensors

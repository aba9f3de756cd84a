#include "visq/export/engines.h"

#include <algorithm>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/layout.h"
#include "visq/export/name_match.h"
#include "visq/families/family.h"

namespace visq {
namespace {

using Entries = std::vector<std::string>;

constexpr const char* kTextModel = "language_model.";

std::string replaced_first(const std::string& name, const Renames& renames) {
  for (const auto& [from, to] : renames)
    if (name.starts_with(from)) return to + name.substr(from.size());
  return name;
}

std::string module_in_engine(std::string name, const EngineNames& names) {
  name += ".";  // prefixes end in dots, and a module may be all that there is under one
  for (const auto& [from, to] : names.modules)
    if (name.starts_with(from)) name = to + name.substr(from.size());
  name.pop_back();
  for (const Renames* ends : {&names.module_ends, &names.parts})
    for (const auto& [from, to] : *ends)
      if (name.ends_with(from)) name.replace(name.size() - from.size(), from.size(), to);
  return name;
}

/// A linear as an engine has it: perhaps fused with others, whose names are then looked up too.
struct EngineLinear {
  std::string name;
  std::vector<std::string> shards;  ///< q, k and v of a qkv_proj; empty: it stands for itself
};

EngineLinear fused(const std::string& name) {
  static const std::vector<std::pair<std::string, std::vector<std::string>>> kFused = {
      {"qkv_proj", {"q_proj", "k_proj", "v_proj"}}, {"gate_up_proj", {"gate_proj", "up_proj"}}};
  const size_t leaf = name.rfind('.') + 1;
  for (const auto& [whole, parts] : kFused) {
    if (std::ranges::find(parts, name.substr(leaf)) == parts.end()) continue;
    EngineLinear linear{name.substr(0, leaf) + whole, {}};
    for (const std::string& part : parts) linear.shards.push_back(name.substr(0, leaf) + part);
    return linear;
  }
  return {name, {}};
}

/// The linear itself, or all that is fused in it.
template <class Covers>
bool whole_or_all_shards(const EngineLinear& linear, const Covers& covers) {
  return covers(linear.name) || (!linear.shards.empty() && std::ranges::all_of(linear.shards, covers));
}

// "p*" stands for "p" and "p.*".
Entries split_stars(const Entries& entries) {
  Entries split;
  for (const std::string& entry : entries) {
    const bool star = entry.size() > 1 && entry.back() == '*' && entry[entry.size() - 2] != '.';
    if (!star) {
      split.push_back(entry);
      continue;
    }
    split.push_back(entry.substr(0, entry.size() - 1));
    split.push_back(split.back() + ".*");
  }
  return split;
}

Entries renamed(Entries entries, const EngineNames& names) {
  for (std::string& entry : entries) {
    for (const auto& [from, to] : names.parts)
      if (const size_t at = entry.find(from); at != std::string::npos) entry.replace(at, from.size(), to);
    entry = replaced_first(entry, names.entries);
  }
  return entries;
}

// Class names and expressions stand as they are.
Entries paths_renamed(Entries entries, const Renames& renames) {
  for (std::string& entry : entries)
    if (!entry.starts_with("re:") && entry.find('.') != std::string::npos)
      entry = replaced_first(entry, renames);
  return entries;
}

Entries with_text_models(Entries entries) {
  const size_t count = entries.size();
  for (size_t i = 0; i < count; ++i)
    if (entries[i].starts_with(kTextModel))
      entries.push_back(entries[i].substr(std::string(kTextModel).size()));
  return entries;
}

std::string without_text_model(const std::string& name) {
  return name.starts_with(kTextModel) ? name.substr(std::string(kTextModel).size()) : name;
}

bool equal_or_expression(const std::string& entry, const std::string& name) {
  return entry.starts_with("re:") ? expression_matches(entry.substr(3), name) : entry == name;
}

// Components that follow one another, anywhere in the name.
bool has_components(const std::string& name, const std::string& entry) {
  for (size_t at = name.find(entry); at != std::string::npos; at = name.find(entry, at + 1)) {
    const size_t end = at + entry.size();
    if ((at == 0 || name[at - 1] == '.') && (end == name.size() || name[end] == '.')) return true;
  }
  return false;
}

// The name, with and without "language_model.", or any one component; stars cross dots.
bool sglang_glob(const std::string& entry, const std::string& name) {
  if (glob_matches(entry, name) || glob_matches(entry, without_text_model(name))) return true;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    if (glob_matches(entry, name.substr(begin, dot - begin))) return true;
    begin = dot + 1;
  }
  return false;
}

bool tensorrt_llm(const std::string& entry, const std::string& name) {
  for (size_t end = name.size(); end != std::string::npos && end > 0; end = name.rfind('.', end - 1)) {
    const std::string part = name.substr(0, end);
    if (entry.starts_with("re:") ? expression_matches(entry.substr(3), part, /*to_the_end=*/true)
                                 : glob_matches(entry, part))
      return true;
    if (entry.ends_with(".*") && glob_matches(entry.substr(0, entry.size() - 2), part)) return true;
  }
  return false;
}

// One component, or the first ones.
bool is_component(const std::string& entry, const std::string& name) {
  if ((name + ".").starts_with(entry + ".")) return true;
  return entry.find('.') == std::string::npos && has_components(name, entry);
}

Entries entries_in_engine(ExcludeRule rule, Entries entries, const EngineNames& names) {
  switch (rule) {
    case ExcludeRule::vllm_modelopt:
      return renamed(split_stars(entries), names);
    case ExcludeRule::vllm_expressions:
      return paths_renamed(std::move(entries), names.entries);
    case ExcludeRule::sglang_modelopt:  // copies are made where there is something to rename
      return names.entries.empty() ? entries : with_text_models(renamed(std::move(entries), names));
    case ExcludeRule::vllm_names:
    case ExcludeRule::vllm_substrings:
    case ExcludeRule::sglang_names:
    case ExcludeRule::sglang_expressions:
      return renamed(std::move(entries), names);
    case ExcludeRule::sglang_substrings:
    case ExcludeRule::tensorrt_llm:
    case ExcludeRule::components:
    case ExcludeRule::dynamic:
      break;
  }
  return entries;
}

bool is_equal(const std::string& entry, const std::string& name) { return entry == name; }
bool is_part(const std::string& entry, const std::string& name) {
  return name.find(entry) != std::string::npos;
}
bool is_part_or_glob(const std::string& entry, const std::string& name) {
  return is_part(entry, name) || glob_matches(entry, name);
}
bool is_run(const std::string& entry, const std::string& name) { return has_components(name, entry); }
bool is_end_or_expression(const std::string& entry, const std::string& name) {
  return entry.starts_with("re:") ? expression_matches(entry.substr(3), name)
                                  : name == entry || name.ends_with("." + entry);
}
bool is_skipped(const std::string& entry, const std::string& name) {
  return entry.starts_with("-:") && expression_matches(entry.substr(2), name);
}

bool is_looked_up_by_shards(const EngineLinear& linear, const EngineNames& names) {
  const std::string leaf = leaf_of(linear.name);
  return std::ranges::find(names.shards, leaf) != names.shards.end();
}

bool is_covered(ExcludeRule rule, const Entries& entries, const EngineLinear& linear,
                const EngineNames& names) {
  const auto by = [&](bool (*matches)(const std::string&, const std::string&)) {
    return [&entries, matches](const std::string& name) {
      return std::ranges::any_of(entries, [&](const std::string& entry) { return matches(entry, name); });
    };
  };
  switch (rule) {
    case ExcludeRule::vllm_modelopt:
      return whole_or_all_shards(linear, by(is_equal)) || by(is_part_or_glob)(linear.name);
    case ExcludeRule::vllm_names:
      return whole_or_all_shards(linear, by(is_equal));
    case ExcludeRule::vllm_expressions:
      return whole_or_all_shards(linear, by(equal_or_expression));
    case ExcludeRule::vllm_substrings:
      return whole_or_all_shards(linear, by(is_part));
    case ExcludeRule::sglang_modelopt:
      return whole_or_all_shards(linear, by(is_run)) || by(sglang_glob)(linear.name);
    case ExcludeRule::sglang_names:
      return whole_or_all_shards(linear, by(is_run));
    case ExcludeRule::sglang_expressions:
      return is_looked_up_by_shards(linear, names) ? whole_or_all_shards(linear, by(is_end_or_expression))
                                                   : by(is_end_or_expression)(linear.name);
    case ExcludeRule::sglang_substrings:
      return by(is_part)(linear.name);
    case ExcludeRule::tensorrt_llm:
      return by(tensorrt_llm)(linear.name) || std::ranges::any_of(linear.shards, by(tensorrt_llm));
    case ExcludeRule::components:
      return by(is_component)(linear.name);
    case ExcludeRule::dynamic:
      return by(is_skipped)(linear.name);
  }
  return false;
}

/// Whether it is one of visq's families, for which the engine models say which engines have it.
bool is_known(const std::string& architecture) {
  return std::ranges::any_of(families(), [&](const Family& family) {
    return std::ranges::find(family.architectures, architecture) != family.architectures.end();
  });
}

// Layouts from which the engine reads them, and formats that it reads from this one.
std::string other_ways(const EngineModel& engine, const ServedModel& model) {
  std::string layouts, formats;
  for (const auto& [name, layout] : engine.layouts)
    if (engine.reads(name, model.schemes)) layouts += (layouts.empty() ? "" : ", ") + name;
  if (!layouts.empty()) return "write it with --layout " + layouts;
  if (const EngineLayout* const layout = engine.layout(model.layout))
    for (const ReadFormat& format : layout->formats) formats += (formats.empty() ? "" : ", ") + format.name;
  return formats.empty() ? "choose another layout" : "choose another format; it reads those like " + formats;
}

bool is_followed_in_fusion(const std::string& module) {
  const std::string leaf = leaf_of(module);
  return leaf == "q_proj" || leaf == "k_proj" || leaf == "gate_proj";
}

void judge_tiles(const ReadFormat& format, const ServedModel::Linear& linear,
                 std::vector<EngineFinding>& findings) {
  const auto check = [&](const char* what, int64_t extent, int64_t multiple) {
    if (extent % multiple != 0)
      findings.push_back(
          {visq::format("'{}' has {} {}, not a multiple of {}", linear.module, extent, what, multiple),
           visq::format("leave it in 16 bits (--skip '{}')", linear.module)});
  };
  check("rows", linear.rows, is_followed_in_fusion(linear.module) ? format.fused_rows : format.rows);
  check("columns", linear.columns, format.columns);
}

void judge_exclusion(const EngineModel& engine, const ServedModel& model, const ServedModel::Linear& linear,
                     const ExcludeList& list, std::vector<EngineFinding>& findings) {
  if (list.agrees(linear.module, linear.scheme.has_value())) return;
  const bool excluded = list.covers(linear.module);
  const auto covers_alone = [&](const std::string& entry) {
    return ExcludeList(engine, model.layout, {entry}, model.model_type).covers(linear.module);
  };
  const auto entry = std::ranges::find_if(model.exclude, covers_alone);
  if (!excluded)
    findings.push_back(
        {visq::format("'{}' is not quantized, but {} does not cover it", linear.module, model.exclude_key),
         visq::format("add '{}' to {}", linear.module, model.exclude_key)});
  else if (entry != model.exclude.end())
    findings.push_back({visq::format("'{}' is quantized, but the entry '{}' of {} covers it", linear.module,
                                     *entry, model.exclude_key),
                        "remove the entry, or store the weight in 16 bits", false, linear.module});
  else
    findings.push_back({visq::format("'{}' is quantized, but this engine has it in 16 bits whatever {} says",
                                     linear.module, model.exclude_key),
                        "store the weight in 16 bits", false, linear.module});
}

}  // namespace

std::optional<EngineFinding> judge_architecture(const EngineModel& engine, const std::string& architecture) {
  const auto finding = [&](const char* what, std::string fix, bool warning) {
    return EngineFinding{visq::format("{} {} {}", engine.version, what, architecture), std::move(fix),
                         warning};
  };
  if (const auto dropped = engine.dropped.find(architecture); dropped != engine.dropped.end())
    return finding("has no class any more for",
                   visq::format("serve it with {} {}, or with another engine", engine.name, dropped->second),
                   false);
  if (std::ranges::find(engine.architectures, architecture) != engine.architectures.end()) return {};
  if (!is_known(architecture))
    return finding("may have no class for", "visq does not know; names are judged as they stand in the files",
                   true);
  const bool absent = std::ranges::find(engine.absent, architecture) != engine.absent.end();
  if (absent || engine.fallback.empty())
    return finding("has no class for", "serve it with another engine", false);
  return finding("has no class of its own for",
                 visq::format("it may run through {}, whose names are not judged here", engine.fallback),
                 true);
}

std::vector<std::string> text_model_tensors(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const std::string& name : checkpoint.names())
    if (checkpoint.in_text_model(name)) names.push_back(checkpoint.name_in_part(name));
  return names;
}

std::optional<EngineFinding> judge_names(const EngineModel& engine, const std::string& model_type,
                                         const std::vector<std::string>& names) {
  for (const std::string& begin : engine.names_of(model_type).unknown) {
    const auto name =
        std::ranges::find_if(names, [&](const std::string& one) { return one.starts_with(begin); });
    if (name != names.end())
      return EngineFinding{visq::format("'{}': {} does not know names that begin with '{}' in this model",
                                        *name, engine.version, begin),
                           "name the tensors as the model's publisher does, or serve it with another engine"};
  }
  return {};
}

std::vector<EngineFinding> judge(const EngineModel& engine, const ServedModel& model) {
  std::vector<EngineFinding> findings;
  if (auto finding = judge_architecture(engine, model.architecture)) findings.push_back(std::move(*finding));
  if (!engine.reads(model.layout, model.schemes)) {
    findings.push_back({visq::format("{} does not read {} from the {} layout", engine.version,
                                     describe_schemes(model.schemes), model.layout),
                        other_ways(engine, model)});
    return findings;
  }
  if (!engine.reads(model.layout, model.kv_cache))
    findings.push_back({visq::format("{} does not read a KV cache of {} from the {} layout", engine.version,
                                     kv_cache_name(model.kv_cache), model.layout),
                        "write it with --kv-cache none"});
  const EngineLayout& layout = *engine.layout(model.layout);
  if (const auto why = layout.kv_fails.find(model.model_type);
      model.kv_cache != KvCacheFormat::none && why != layout.kv_fails.end())
    findings.push_back(
        {visq::format("{} does not load scales of a KV cache: {}", engine.version, why->second),
         "write it with --kv-cache none"});
  if (const auto why = layout.fails.find(model.model_type); why != layout.fails.end())
    findings.push_back({visq::format("{} does not load this model from the {} layout: {}", engine.version,
                                     model.layout, why->second),
                        "choose another layout or engine"});
  for (const Scheme& scheme : model.schemes) {
    const ReadFormat* const format = engine.format(model.layout, scheme);
    if (const auto why = format->fails.find(model.model_type); why != format->fails.end())
      findings.push_back(
          {visq::format("{} does not load {}: {}", engine.version, describe_weight(scheme), why->second),
           "serve it with another engine, or choose another format"});
  }
  std::vector<std::string> weights;
  for (const ServedModel::Linear& linear : model.linears) weights.push_back(linear.module + ".weight");
  if (auto finding = judge_names(engine, model.model_type, weights)) findings.push_back(std::move(*finding));
  const ExcludeList list(engine, model.layout, model.exclude, model.model_type);
  for (const ServedModel::Linear& linear : model.linears) {
    if (linear.scheme)
      if (const ReadFormat* const format = engine.format(model.layout, *linear.scheme))
        judge_tiles(*format, linear, findings);
    judge_exclusion(engine, model, linear, list, findings);
  }
  return findings;
}

ExcludeList::ExcludeList(const EngineModel& engine, const std::string& layout,
                         std::vector<std::string> entries, const std::string& model_type)
    : engine_(&engine), layout_(engine.layout(layout)), names_(&engine.names_of(model_type)) {
  if (layout_ == nullptr) fail("{} does not read the {} layout", engine.name, layout);
  entries_ = entries_in_engine(layout_->exclude, std::move(entries), *names_);
}

bool ExcludeList::covers(const std::string& module) const {
  if (std::ranges::any_of(names_->unquantized,
                          [&](const std::string& part) { return has_components(module, part); }))
    return true;
  const EngineLinear linear = fused(module_in_engine(module, *names_));
  if (std::ranges::any_of(layout_->unquantized,
                          [&](const std::string& part) { return is_part(part, linear.name); }))
    return true;
  return is_covered(layout_->exclude, entries_, linear, *names_);
}

bool ExcludeList::agrees(const std::string& module, bool quantized) const {
  if (covers(module)) return !quantized;
  if (layout_->as_stored == AsStored::always) return true;
  if (layout_->as_stored == AsStored::without_list && entries_.empty()) return true;
  return quantized || std::ranges::any_of(engine_->as_stored, [&](const std::string& part) {
           return has_components(module, part);
         });
}

}  // namespace visq

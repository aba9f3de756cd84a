#include "visq/pipeline/named_plan.h"

#include <algorithm>
#include <iterator>
#include <set>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/validate.h"

namespace visq {
namespace {

constexpr const char* kLinears[] = {"q_proj",    "k_proj",  "v_proj",    "qkv_proj",     "o_proj", "out_proj",
                                    "gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1",    "fc2"};
constexpr const char* kStacks[] = {"layers", "blocks", "h"};
/// Of parts that are not the text decoder, wherever they stand in a component of the name.
constexpr const char* kForeign[] = {"vision",    "visual",    "image",     "img",     "audio",   "speech",
                                    "tower",     "projector", "connector", "encoder", "merger",  "resampler",
                                    "perceiver", "qformer",   "clip",      "vit",     "adapter", "lora"};
constexpr size_t kMostDigits = 6;       // of a layer's number
constexpr size_t kListedPatterns = 16;  // of a description

std::vector<std::string> components(const std::string& name) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (;;) {
    const size_t dot = name.find('.', begin);
    parts.push_back(name.substr(begin, dot == std::string::npos ? dot : dot - begin));
    if (dot == std::string::npos) return parts;
    begin = dot + 1;
  }
}

bool is_number(const std::string& part) {
  return !part.empty() && part.size() <= kMostDigits &&
         std::ranges::all_of(part, [](char c) { return c >= '0' && c <= '9'; });
}

std::string sibling(const std::string& module, const std::string& leaf) {
  return module.substr(0, module.rfind('.') + 1) + leaf;
}

/// "model.layers.3.mlp.experts" of an expert's linear; "" of others.
std::string experts_of(const std::string& module) {
  const std::string kExperts = ".experts.";
  const size_t at = module.find(kExperts);
  return at == std::string::npos ? "" : module.substr(0, at + kExperts.size() - 1);
}

/// What reads the input that the module reads, itself included, as far as their names say.
std::vector<std::string> group_of(const std::string& module, const Checkpoint& checkpoint) {
  const std::string leaf = leaf_of(module);
  if (reads_alone(module)) return {module};
  if (leaf == "q_proj" || leaf == "k_proj" || leaf == "v_proj") {
    std::vector<std::string> group;
    for (const char* name : {"q_proj", "k_proj", "v_proj"})
      if (const std::string member = sibling(module, name); !reads_alone(member)) group.push_back(member);
    return group;
  }
  // Without a gate beside it, up is the first linear of a plain MLP.
  const std::string gate = sibling(module, "gate_proj");
  if (leaf == "gate_proj" || (leaf == "up_proj" && checkpoint.contains(gate + ".weight")))
    return {gate, sibling(module, "up_proj")};
  return {module};
}

bool can_quantize(const Checkpoint& checkpoint, const std::string& module) {
  if (!is_decoder_linear(module) || !checkpoint.contains(module + ".weight") ||
      !checkpoint.in_text_model(module))
    return false;
  const TensorInfo& info = checkpoint.info(module + ".weight");
  return info.shape.size() == 2 && std::ranges::none_of(info.shape, [](int64_t n) { return n == 0; }) &&
         (info.dtype == at::kFloat || info.dtype == at::kBFloat16 || info.dtype == at::kHalf);
}

std::set<std::string> modules_of(const Plan& plan) {
  std::set<std::string> modules;
  for (const Site& site : plan.sites) modules.insert(site.linear.module);
  return modules;
}

/// Subtrees without a quantized linear, as entries that no engine can take for a part of another name.
class Roots {
 public:
  explicit Roots(std::vector<std::string> quantized) : quantized_(std::move(quantized)) {}

  /// The outermost subtree that holds the module and whose own name is in no quantized one's; "": there is
  /// none.
  std::string around(const std::string& module) {
    size_t begin = 0;
    for (;;) {
      const size_t dot = std::min(module.find('.', begin), module.size());
      if (is_distinct(module.substr(begin, dot - begin))) return module.substr(0, dot);
      if (dot == module.size()) return "";
      begin = dot + 1;
    }
  }

 private:
  std::vector<std::string> quantized_;
  std::map<std::string, bool> known_;

  bool is_distinct(const std::string& part) {
    const auto found = known_.find(part);
    if (found != known_.end()) return found->second;
    const bool distinct = std::ranges::any_of(part, [](unsigned char c) { return std::isalpha(c) != 0; }) &&
                          std::ranges::none_of(quantized_, [&](const std::string& name) {
                            return name.find(part) != std::string::npos;
                          });
    return known_[part] = distinct;
  }
};

/// Modules of the text model that have a matrix and are not quantized, by their names in its files.
std::vector<std::string> others(const Plan& plan, const Checkpoint& checkpoint) {
  const std::set<std::string> quantized = modules_of(plan);
  std::vector<std::string> modules;
  for (const std::string& module : linear_modules(checkpoint))
    if (checkpoint.in_text_model(module) && !quantized.contains(module))
      modules.push_back(checkpoint.name_in_part(module));
  return modules;
}

Roots roots_of(const Plan& plan, const Checkpoint& checkpoint) {
  std::vector<std::string> quantized;
  for (const Site& site : plan.sites) quantized.push_back(checkpoint.name_in_part(site.linear.module));
  return Roots(std::move(quantized));
}

}  // namespace

ExportSummary summarize_by_name(const Plan& plan, const Checkpoint& checkpoint) {
  ExportSummary summary{plan.schemes, plan.kv_cache, {}, {}, others(plan, checkpoint), {}, plan.recipe.name};
  for (const Site& site : plan.sites)
    summary.linears.emplace_back(checkpoint.name_in_part(site.linear.module), site.linear.scheme);
  Roots roots = roots_of(plan, checkpoint);
  std::set<std::string> seen;
  const auto add = [&](const std::string& root) {
    if (seen.insert(root).second) summary.unquantized_roots.push_back(root);
  };
  for (const std::string& module : summary.other_linears) {
    const std::string root = roots.around(module);
    if (root.empty()) {
      summary.unquantized_linears.push_back(module);
      continue;
    }
    // The naming generations differ in what stands before a subtree (spec/export.md §7.7).
    add(root);
    add(leaf_of(root));
    if (root.find('.') == std::string::npos) add("model." + root);
  }
  return summary;
}

namespace {

/// Numbers in names become stars.
std::string pattern_of(const std::string& module) {
  std::string pattern;
  for (const std::string& part : components(module))
    pattern += (pattern.empty() ? "" : ".") + (is_number(part) ? std::string("*") : part);
  return pattern;
}

std::string counted(const std::vector<std::string>& patterns) {
  std::vector<std::pair<std::string, size_t>> counts;  // in the order in which they appear
  std::map<std::string, size_t> place;
  for (const std::string& pattern : patterns) {
    const auto [at, is_new] = place.emplace(pattern, counts.size());
    if (is_new) counts.emplace_back(pattern, 0);
    ++counts[at->second].second;
  }
  std::string text;
  for (size_t i = 0; i < counts.size() && i < kListedPatterns; ++i)
    text += visq::format("{}{} × {}", i == 0 ? "" : ", ", counts[i].first, counts[i].second);
  if (counts.size() > kListedPatterns)
    text += visq::format(" and {} more patterns", counts.size() - kListedPatterns);
  return text;
}

}  // namespace

bool is_decoder_linear(const std::string& module) {
  const std::vector<std::string> parts = components(module);
  if (std::ranges::find(kLinears, parts.back()) == std::end(kLinears)) return false;
  bool in_stack = false;
  for (size_t i = 0; i + 1 < parts.size(); ++i) {
    std::string lower = parts[i];
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return std::tolower(c); });
    for (const char* word : kForeign)
      if (lower.find(word) != std::string::npos) return false;
    in_stack |= i + 2 < parts.size() && is_number(parts[i + 1]) &&
                std::ranges::find(kStacks, parts[i]) != std::end(kStacks);
  }
  return in_stack;
}

std::vector<std::vector<std::string>> decoder_linears_by_name(const Checkpoint& checkpoint) {
  const std::string kWeight = ".weight";
  std::vector<std::vector<std::string>> groups;
  std::set<std::string> grouped, torn;  // modules; experts of layers
  const auto visit = [&](const std::string& name) {
    if (!name.ends_with(kWeight)) return;
    const std::string module = name.substr(0, name.size() - kWeight.size());
    if (!is_decoder_linear(module) || grouped.contains(module)) return;
    std::vector<std::string> group = group_of(module, checkpoint);
    if (std::ranges::all_of(group, [&](const auto& member) { return can_quantize(checkpoint, member); })) {
      grouped.insert(group.begin(), group.end());
      groups.push_back(std::move(group));
    } else {
      torn.insert(experts_of(module));
    }
  };
  std::ranges::for_each(checkpoint.names(), visit);
  std::ranges::for_each(checkpoint.stacked_names(), visit);
  torn.erase("");
  std::erase_if(groups, [&](const auto& group) { return torn.contains(experts_of(group.front())); });
  return groups;
}

Plan make_named_plan(const Checkpoint& checkpoint, const Recipe& recipe, const LayoutChoice& layout,
                     std::filesystem::path directory, KvCacheFormat default_kv_cache) {
  Plan plan;
  plan.recipe = recipe;
  plan.directory = std::move(directory);
  const auto groups = decoder_linears_by_name(checkpoint);
  if (groups.empty())
    fail(
        "{}: no linear of a text decoder was found by its name; such are named like "
        "'model.layers.0.self_attn.q_proj'",
        checkpoint.directory().string());
  std::set<std::string> layers;
  std::vector<std::string> modules;
  std::map<std::string, std::vector<std::optional<Scheme>>> experts;  // what those of a layer get
  for (const std::vector<std::string>& group : groups) {
    std::vector<size_t> sites;
    for (const std::string& module : group) {
      const auto scheme = recipe.scheme_for(module);
      modules.push_back(module);
      auto& verdicts = experts[experts_of(module)];
      if (verdicts.empty() || verdicts.back() != scheme) verdicts.push_back(scheme);
      if (!scheme) {
        plan.left_out.push_back(module);
        continue;
      }
      sites.push_back(plan.sites.size());
      plan.sites.push_back({0, {}, describe_linear(checkpoint, module, *scheme, group.size() == 1)});
    }
    if (sites.empty()) continue;
    const Scheme& scheme = plan.sites[sites.front()].linear.scheme;
    if (sites.size() != group.size() ||
        std::ranges::any_of(sites, [&](size_t site) { return plan.sites[site].linear.scheme != scheme; }))
      fail(
          "the recipe does not have the same for all of '{}': engines fuse q/k/v and gate/up, so give all of "
          "them the same scheme, or none",
          fmt::join(group, "', '"));
    plan.groups.push_back(std::move(sites));
  }
  experts.erase("");
  for (const auto& [stack, verdicts] : experts)
    if (verdicts.size() > 1)
      fail(
          "the recipe does not have the same for all of '{}': engines run them as one, so give all of them "
          "the "
          "same scheme, or none",
          stack);
  if (plan.sites.empty())
    fail("the recipe matches no linear of this model ({}); the linears are named like '{}'",
         describe_rules(recipe), groups.front().front());
  check_rules(recipe, modules);
  choose_layout(plan, checkpoint, layout, default_kv_cache);
  for (const Site& site : plan.sites) {
    const std::vector<std::string> parts = components(site.linear.module);
    std::string layer;
    for (const std::string& part : parts) {
      layer += part + ".";
      if (is_number(part)) break;
    }
    layers.insert(layer);
  }
  plan.layers = static_cast<int64_t>(layers.size());
  plan_tensors(plan, checkpoint);
  plan.summary = summarize_by_name(plan, checkpoint);
  judge_plan(plan, checkpoint, layout.engines);
  return plan;
}

std::string describe_choice(const Plan& plan, const Checkpoint& checkpoint) {
  std::vector<std::string> chosen, left;
  for (const Site& site : plan.sites) chosen.push_back(pattern_of(site.linear.module));
  Roots roots = roots_of(plan, checkpoint);
  for (const std::string& module : others(plan, checkpoint)) {
    const std::string root = roots.around(module);
    left.push_back(pattern_of(root.empty() ? module : root));
  }
  return visq::format("quantized are {}; left as they are: {}{}embeddings, norms and all that is no matrix",
                      counted(chosen), counted(left), left.empty() ? "" : ", ");
}

}  // namespace visq

// Rules B4 and B8 (the exclude list), B5, B9 and B10 (which parts are quantized).
#include <algorithm>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/layout_parts.h"
#include "visq/export/name_match.h"
#include "visq/export/validation_context.h"

namespace visq {
namespace {

/// The subtree to exclude: the unquantized root that holds the module, or itself.
std::string root_of(const ValidationContext& context, const std::string& module) {
  if (context.spec)
    for (const std::string& root : context.spec->unquantized_roots)
      if ((module + ".").starts_with(root + ".")) return root;
  return module;
}

std::string entry_for(const ValidationContext& context, const std::string& module) {
  const std::string root = root_of(context, module);
  if (context.layout == "hf-fp8") return module;
  if (context.layout == "compressed-tensors") return "re:.*" + leaf_of(root) + ".*";
  if (context.layout == "gptq") return "-:.*" + leaf_of(root) + ".*";
  if (context.layout == "autoawq" || context.layout == "bitsandbytes") return leaf_of(root);
  return root == module ? module : root + ".*";
}

/// The entries that can be judged; the others are warned of.
std::vector<std::string> judged(const ValidationContext& context, Findings& findings) {
  std::vector<std::string> entries;
  for (const std::string& entry : context.exclude) {
    try {
      for (const char* prefix : {"re:", "-:"})
        if (entry.starts_with(prefix)) expression_matches(entry.substr(std::string(prefix).size()), "x");
      entries.push_back(entry);
    } catch (const Error& error) {
      findings.warn("", error.what(), "write an expression that takes few steps");
    }
  }
  return entries;
}

/// By ModelOpt's method, whatever the exclude list says.
bool is_never_quantized_by_vllm(const std::string& module) {
  const EngineLayout* const rules = find_engine("vllm").layout("modelopt");
  return std::ranges::any_of(rules->unquantized,
                             [&](const std::string& part) { return module.find(part) != std::string::npos; });
}

/// Mixed precision: the list of what is quantized, linear by linear.
void check_listed(const ValidationContext& context, Findings& findings) {
  if (!context.quantization.contains("quantized_layers")) return;
  const Json& layers = context.quantization.at("quantized_layers");
  if (!layers.is_object())
    return findings.add("", "config.json: quantized_layers is no object", "give each linear its quant_algo");
  std::set<std::string> listed, stored;
  for (const auto& [name, layer] : layers.items()) listed.insert(name);
  // TensorRT-LLM wants the text model's own names, other engines those of the files: either, or both.
  std::set<std::string> ends;
  for (const std::string& module : context.modules) {
    stored.insert(context.output.name_in_part(module));
    ends.insert("model." + name_from_layers(module));
  }
  std::set<std::string> lost;
  for (const std::string& name : context.output.lost_names()) {
    const std::string module = parent_of(name);
    lost.insert({context.output.name_in_part(module), "model." + name_from_layers(module)});
  }
  for (const std::string& name : listed) {
    findings.count();
    if (!stored.contains(name) && !ends.contains(name) && !lost.contains(name) &&
        !context.output.lost_unnamed())
      findings.add(
          "", visq::format("quantized_layers lists '{}', which is no quantized linear of the files", name),
          "write the name as the tensors have it, or remove it");
  }
  for (const std::string& name : stored)
    if (!listed.contains(name))
      findings.add(
          "",
          visq::format("'{}' is quantized, but quantized_layers does not list it: engines build it plain",
                       name),
          "list it with its quant_algo");
}

void check_coverage(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B4", "every engine's own rule excludes exactly what is not quantized");
  if (!context.quantization.is_object()) return findings.skip("nothing says what is excluded");
  if (context.quantized == nullptr && !context.quantization.contains(context.exclude_key))
    return findings.skip("nothing says what is excluded");
  check_listed(context, findings);
  const std::vector<std::string> entries = judged(context, findings);
  if (entries.size() < context.exclude.size())
    return findings.skip("some entries are expressions that visq does not judge");
  for (const EngineModel* engine : context.engines) {
    if (engine->layout(context.layout) == nullptr) continue;  // A4 says so
    const ExcludeList list(*engine, context.layout, entries, context.model_type);
    for (const std::string& module : context.linears) {
      if (!context.output.in_text_model(module)) continue;  // the list is the text model's own
      findings.count();
      const std::string name = context.output.name_in_part(module);
      const auto covers = [&](const std::string& entry) {
        return ExcludeList(*engine, context.layout, {entry}, context.model_type).covers(name);
      };
      if (list.agrees(name, context.modules.contains(module))) continue;
      const bool excluded = list.covers(name);
      const std::string dtype = context.dtype_of(module);
      if (excluded) {
        const auto by = std::ranges::find_if(entries, covers);
        const std::string entry = by == entries.end() ? "" : *by;
        findings.add(
            engine->name,
            visq::format(
                "'{}' is quantized ({}) but {} covers it by '{}': it is built plain and stops at the scales",
                module, dtype, context.exclude_key, entry),
            visq::format("store it in BF16, or remove '{}' from {} for an engine that reads it quantized",
                         entry, context.exclude_key));
      } else {
        const std::string what = visq::format(
            "'{}' is {} but no entry of {} covers it: it is built quantized and lacks its scales", module,
            dtype, context.exclude_key);
        const std::string fix =
            visq::format("add \"{}\" to {}", entry_for(context, module), context.exclude_key);
        findings.add(engine->name, what, fix);
      }
    }
  }
}

/// A name without what differs between naming generations.
std::string bare(std::string name) {
  for (bool again = true; again;) {
    again = false;
    for (const std::string prefix : {"model.", "language_model."})
      if (name.starts_with(prefix)) {
        name = name.substr(prefix.size());
        again = true;
      }
  }
  return name;
}

bool names_something(const std::string& entry, const std::set<std::string>& nodes,
                     const std::set<std::string>& leaves) {
  const bool expression = entry.starts_with("re:") || entry.starts_with("-:");
  const std::string text = bare(entry);
  if (!expression && text.find_first_of("*?[") == std::string::npos)
    return nodes.contains(text) || leaves.contains(text);
  const auto matches = [&](const std::string& name) {
    return expression ? expression_matches(entry.substr(3), name) : glob_matches(text, name);
  };
  return std::ranges::any_of(nodes, [&](const std::string& node) {
    return matches(node) ||
           (expression && (matches("model." + node) || matches("language_model.model." + node) ||
                           matches("model.language_model." + node)));
  });
}

void check_entries(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B8", "each entry of the exclude list names something");
  if (context.exclude.empty()) return findings.skip("there is no exclude list");
  std::set<std::string> nodes;  // modules and what they are in
  for (const auto& [name, module] : context.stored)
    for (std::string node = bare(context.output.name_in_part(name)); nodes.insert(node).second;) {
      const size_t dot = node.rfind('.');
      if (dot == std::string::npos) break;
      node.resize(dot);
    }
  std::set<std::string> leaves;
  for (const std::string& node : nodes) leaves.insert(leaf_of(node));
  std::set<std::string> known = {"lm_head"};  // named whether or not the model has them
  if (context.spec)
    for (const std::string& root : context.spec->unquantized_roots) known.insert(bare(root));
  for (const std::string& entry : context.exclude) {
    findings.count();
    std::string stem = entry;
    for (const std::string end : {".*", "*"})
      if (stem.ends_with(end)) stem.resize(stem.size() - end.size());
    if (stem.starts_with("re:.*")) stem = stem.substr(5);
    const bool is_known = std::ranges::any_of(known, [&](const std::string& root) {
      return bare(stem) == root || leaf_of(root) == stem || root.empty();
    });
    try {
      if (is_known || names_something(entry, nodes, leaves)) continue;
    } catch (const Error&) {  // B4 says that it cannot be judged
      continue;
    }
    findings.warn("",
                  visq::format("'{}' of {} matches no module of the checkpoint", entry, context.exclude_key),
                  "write it as the tensors are named, or remove it");
  }
}

/// Parts that engines build without quantization.
struct PlainPart {
  const char* name;
  bool (*holds)(const ValidationContext&, const std::string& module);
  const char* engine;    ///< "": all
  const char* layout;    ///< "": all
  const char* families;  ///< of model_type, in spaces; "": all
  bool warning;          ///< some versions or families of it are built quantized
  const char* why;
};

const std::vector<PlainPart>& plain_parts() {
  static const auto router = [](const ValidationContext&, const std::string& module) {
    const std::string leaf = leaf_of(module);
    return leaf == "gate" || leaf == "router" || leaf == "shared_expert_gate";
  };
  static const auto embedding = [](const ValidationContext&, const std::string& module) {
    return leaf_of(module).find("embed") != std::string::npos;
  };
  static const auto head = [](const ValidationContext&, const std::string& module) {
    return leaf_of(module) == "lm_head";
  };
  static const auto tower = [](const ValidationContext& c, const std::string& module) {
    return c.in_tower(module);
  };
  static const auto hard_coded = [](const ValidationContext&, const std::string& module) {
    return is_never_quantized_by_vllm(module);
  };
  static const auto projector = [](const ValidationContext& c, const std::string& module) {
    return c.in_projector(module);
  };
  static const std::vector<PlainPart> all = {
      {"a router", router, "", "", "", false, "engines build routers plain and stop at its scales"},
      {"an embedding", embedding, "", "", "", false,
       "vLLM stops in most families, SGLang drops it without an error"},
      {"the head", head, "tensorrt-llm", "", "", false, "it never makes room for the head's scales"},
      {"of the vision tower", hard_coded, "vllm", "modelopt", "", false,
       "it builds everything under vision_tower and vision_model plain"},
      {"of the vision tower", tower, "", "", "", true,
       "not every engine and version builds towers quantized"},
      {"of the projector", projector, "vllm", "", " llava_onevision internvl internvl_chat ", false,
       "it builds this projector of plain linears"},
      {"of the projector", projector, "", "", "", true,
       "not every engine and version builds projectors quantized"}};
  return all;
}

void check_plain_parts(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B9", "routers, embeddings, projectors and towers are plain");
  const std::string layout = context.quantized != nullptr ? context.quantized->layout().name() : "";
  std::map<std::pair<const PlainPart*, std::string>, std::pair<std::string, int64_t>>
      found;  // first, how many
  for (const auto& [module, stored] : context.stored) {
    findings.count();
    if (!stored.is_packed()) continue;
    bool said = false;
    for (const PlainPart& part : plain_parts()) {
      const bool applies =
          (part.engine[0] == '\0' || context.is_for(part.engine)) &&
          (part.layout[0] == '\0' || part.layout == layout) &&
          (part.families[0] == '\0' ||
           std::string(part.families).find(" " + context.model_type + " ") != std::string::npos);
      if (!applies || (part.warning && said) || !part.holds(context, module)) continue;
      auto& [first, count] = found[{&part, ""}];
      if (count++ == 0) first = module;
      said = true;
    }
  }
  for (const auto& [key, value] : found) {
    const PlainPart& part = *key.first;
    const auto& [module, count] = value;
    const std::string what = visq::format("'{}'{} is {} but quantized ({}): {}", module,
                                          count > 1 ? visq::format(" (and {} more)", count - 1) : "",
                                          part.name, context.dtype_of(module), part.why);
    const std::string fix = visq::format("store it in BF16 and list \"{}\" in {}", entry_for(context, module),
                                         context.exclude_key);
    if (part.warning)
      findings.warn(part.engine, what, fix);
    else
      findings.add(part.engine, what, fix);
  }
}

void check_fused(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B5", "q/k/v and gate/up are quantized together or not at all");
  for (const auto& group : context.fusible_groups()) {
    findings.count();
    std::vector<std::string> packed, plain;
    for (const std::string& module : group)
      (context.modules.contains(module) ? packed : plain).push_back(module);
    if (!packed.empty() && !plain.empty())
      findings.add(
          "",
          visq::format("'{}' is {}, '{}' is {}: engines fuse the two and stop", packed.front(),
                       context.dtype_of(packed.front()), plain.front(), context.dtype_of(plain.front())),
          "quantize all of q/k/v and of gate/up alike, or none");
    if (context.quantized == nullptr || !plain.empty()) continue;
    for (const std::string& module : group)
      if (!context.quantized->scheme(module).stored_like(context.quantized->scheme(group.front())))
        findings.add(
            "", visq::format("'{}' and '{}', which are fused, have unlike schemes", group.front(), module),
            "give them one scheme");
  }
}

/// "….experts." of an expert's module and what follows the number; empty: none.
std::optional<std::pair<std::string, std::string>> expert_of(const std::string& module) {
  const size_t at = module.find(".experts.");
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = at + 9, end = module.find('.', begin);
  if (end == std::string::npos ||
      !std::all_of(module.begin() + static_cast<long>(begin), module.begin() + static_cast<long>(end),
                   [](char c) { return c >= '0' && c <= '9'; }))
    return std::nullopt;
  return std::pair{module.substr(0, begin), module.substr(end + 1)};
}

void check_experts(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B10", "the experts of a layer are stored alike");
  std::map<std::string, std::vector<std::string>> layers;  // the experts of each, all their linears together
  for (const std::string& module : context.linears)
    if (const auto expert = expert_of(module)) layers[expert->first].push_back(module);
  for (const auto& [layer, modules] : layers) {
    findings.count();
    std::vector<std::string> packed, plain;
    for (const std::string& module : modules) (context.is_packed(module) ? packed : plain).push_back(module);
    if (!packed.empty() && !plain.empty())
      findings.add("",
                   visq::format("'{}' is {} ({} linears of experts), '{}' is {} ({}): a fused mixture of "
                                "experts has one format",
                                packed.front(), context.dtype_of(packed.front()), packed.size(),
                                plain.front(), context.dtype_of(plain.front()), plain.size()),
                   "quantize all experts of the layer, or none");
  }
}

}  // namespace

void check_excludes(const ValidationContext& context, Validation& validation) {
  check_coverage(context, validation);
  check_entries(context, validation);
}

void check_parts(const ValidationContext& context, Validation& validation) {
  check_fused(context, validation);
  check_plain_parts(context, validation);
  check_experts(context, validation);
}

}  // namespace visq

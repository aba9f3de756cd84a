// Rules B2, B7, B11 and B12: names of tensors, as far as they follow from config.json and from what loaders
// map.
#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/engines.h"
#include "visq/export/validation_context.h"
#include "visq/families/model_checks.h"

namespace visq {
namespace {

/// What exporters leave behind, and which name is meant; nullptr: nothing of the kind.
const char* leftover(const std::string& name) {
  static const std::vector<std::pair<const char*, const char*>> kParts = {
      {"_quantizer", "it is a buffer of ModelOpt"},
      {"_amax", "it is a calibration buffer"},
      {"base_layer", "it is a level that adapters add"},
      {"parametrizations", "it is a level that torch adds"},
      {"_orig_mod", "it is a level that torch.compile adds"}};
  for (const auto& [part, why] : kParts)
    if (name.find(part) != std::string::npos) return why;
  const std::string leaf = leaf_of(name);
  for (const char* buffer : {"_scale", "_double_scale", "_zero_point", "weight_double_scale"})
    if (leaf == buffer) return "it is a buffer of ModelOpt";
  for (const char* end :
       {"_weight_scale", "_weight_scale_2", "_weight_packed", "_weight_global_scale", "_input_scale"})
    if (leaf.ends_with(end) && leaf.size() > std::string(end).size())
      return "loaders drop scales that hang on the name by an underscore";
  return nullptr;
}

void check_leftovers(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B2",
                    "no tensor is left over from a tool, and none has a name that loaders drop");
  const bool adapters = context.spec && !context.spec->adapters.empty();  // whose own names hold "base_layer"
  int64_t drafts = 0, repeated = 0;
  std::string first;
  for (const std::string& name : context.output.names()) {
    findings.count();
    if (name.find(".weight_quantizer._svdquant_lora_") != std::string::npos) continue;
    const bool of_source = context.source != nullptr && context.source->contains(parent_of(name) + ".weight");
    const bool own_level = name.find("base_layer") != std::string::npos && (adapters || of_source);
    if (const char* why = leftover(name); why != nullptr && !own_level)
      findings.add("", visq::format("tensor '{}': {}: loaders stop with a KeyError or drop it", name, why),
                   "delete it, or give it the name that the format has for it");
    const std::string leaf = leaf_of(name), parent = leaf_of(parent_of(name));
    if (leaf == "activation_scale")
      findings.add("", visq::format("tensor '{}': vllm and sglang call it input_scale", name),
                   "rename it to '" + parent_of(name) + ".input_scale'");
    if (name.starts_with("mtp.") || name.find(".mtp.") != std::string::npos) ++drafts;
    const std::string known = context.spec ? NameMap::canonical(*context.spec, name) : name;
    if (known.find("language_model.language_model.") != std::string::npos && repeated++ == 0) first = name;
    if (leaf == parent)
      findings.warn("", visq::format("tensor '{}' repeats '{}.'", name, leaf),
                    "drop the repetition unless the engine's model has it");
  }
  if (repeated > 0)
    findings.add("",
                 visq::format("{} tensors repeat 'language_model.' ('{}', …): no loader maps such names",
                              repeated, first),
                 context.spec ? visq::format("name them '{}layers.0…'", context.spec->decoder_prefix)
                              : "drop the repetition");
  const std::vector<std::string> tensors = text_model_tensors(context.output);
  for (const EngineModel* engine : context.engines)
    if (const auto finding = judge_names(*engine, context.model_type, tensors))
      findings.add(engine->name, finding->what, finding->fix);
  if (drafts > 0)
    findings.warn(
        "",
        visq::format(
            "{} tensors of draft layers (mtp.) are stored; config.json's model is served without them",
            drafts),
        "delete them where the engine stops at names that it does not know");
}

/// A part of the model, and which of the tensors that config.json asks for are absent.
struct Part {
  const char* name;
  std::string prefix;
  int64_t expected = 0;
  std::vector<const ExpectedTensor*> missing;
};

/// What stands before "layers.0.self_attn." in the files where that is not the decoder's prefix; "": nothing.
std::string other_prefix(const ValidationContext& context) {
  static const std::string kAttention = "layers.0.self_attn.";
  for (const std::string& name : context.output.names()) {
    const std::string canonical = NameMap::canonical(*context.spec, name);
    const size_t at = canonical.find(kAttention);
    if (at == std::string::npos || canonical.substr(0, at).ends_with("encoder.")) continue;  // a tower's
    if (canonical.substr(0, at) != context.spec->decoder_prefix) return name.substr(0, name.find(kAttention));
  }
  return "";
}

/// Whether some tensor of a linear's is there, however it is stored, or may be.
/// @param lost  canonical names of what is in shards that could not be read
bool is_there(const ValidationContext& context, const ExpectedTensor& tensor,
              const std::set<std::string>& lost) {
  if (!context.names->source(tensor.name).empty() || lost.contains(tensor.name)) return true;
  if (!tensor.name.ends_with(".weight")) return false;
  const auto inside = lost.lower_bound(parent_of(tensor.name) + ".");
  if (inside != lost.end() && parent_of(*inside) == parent_of(tensor.name)) return true;
  const std::string module = context.names->source_module(parent_of(tensor.name));
  const auto stored = context.stored.find(module);
  return !module.empty() && stored != context.stored.end() && stored->second.weight() != nullptr;
}

void check_shape(const ValidationContext& context, const ExpectedTensor& tensor, Findings& findings) {
  const std::string source = context.names->source(tensor.name);
  if (source.empty() || tensor.leading_ones) return;
  if (tensor.name.ends_with(".weight") &&
      (context.is_packed(parent_of(source)) || context.may_be_lost(parent_of(source))))
    return;  // C1
  const std::vector<int64_t>& shape = context.output.info(source).shape;
  if (shape != tensor.shape)
    findings.add("",
                 visq::format("tensor '{}' has shape [{}], but config.json says [{}]", source,
                              fmt::join(shape, ", "), fmt::join(tensor.shape, ", ")),
                 "take the config.json of the model that these weights are of");
}

void report(const ValidationContext& context, const Part& part, Findings& findings) {
  const std::string architecture = context.spec->architecture;
  const auto count = static_cast<int64_t>(part.missing.size());
  if (count == 0) return;
  if (count < part.expected || part.expected < 4) {
    for (const ExpectedTensor* tensor : part.missing)
      findings.add("",
                   visq::format("tensor '{}' is missing; config.json asks for one of shape [{}], and engines "
                                "leave it uninitialised",
                                tensor->name, fmt::join(tensor->shape, ", ")),
                   "copy it from the original, or quantize again");
    return;
  }
  const std::string other = part.prefix == context.spec->decoder_prefix ? other_prefix(context) : "";
  if (!other.empty())
    findings.add(
        "",
        visq::format("the language model's tensors are named '{}layers.0…': no engine has them there", other),
        visq::format("name them '{}layers.0…'", part.prefix));
  else
    findings.add(
        "",
        visq::format("config.json is {}, but 0 of {} tensors of the {} ('{}…') are stored: SGLang serves NaN "
                     "without an error, vLLM does not check quantized models",
                     architecture, part.expected, part.name, part.prefix),
        "copy them from the original");
}

void check_config_tensors(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B7", "the tensors that config.json asks for are there");
  if (!context.spec) return findings.skip("config.json's architecture is none of visq's families");
  if (!context.names) return findings.skip("two tensors have one meaning: see B2");
  if (context.output.lost_unnamed()) return findings.skip("what A7 could not read may be all of them");
  std::set<std::string> lost;
  for (const std::string& name : context.output.lost_names())
    lost.insert(NameMap::canonical(*context.spec, name));
  const std::vector<ExpectedTensor> expected = expected_tensors(*context.spec, /*with_linears=*/true);
  const ModelSpec& spec = *context.spec;
  std::vector<Part> parts = {{"projector", spec.projector_prefix, 0, {}},
                             {"projector", spec.deepstack_prefix, 0, {}},
                             {"vision tower", spec.tower_prefix, 0, {}},
                             {"language model", spec.decoder_prefix, 0, {}},
                             {"model", "", 0, {}}};
  for (const ExpectedTensor& tensor : expected) {
    findings.count();
    Part& part = *std::ranges::find_if(parts, [&](const Part& known) {
      return known.prefix.empty() ? known.name == std::string("model")
                                  : tensor.name.starts_with(known.prefix);
    });
    ++part.expected;
    if (is_there(context, tensor, lost))
      check_shape(context, tensor, findings);
    else if (!(part.prefix == spec.tower_prefix && !spec.tower_elsewhere.empty()))
      part.missing.push_back(&tensor);
  }
  for (const Part& part : parts) report(context, part, findings);
}

/// What stands between "layers." and the next dot, and what is left when it is taken out.
std::optional<std::pair<int64_t, std::string>> in_layer(const std::string& name) {
  const size_t at = name.rfind("layers.");
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = at + 7, end = name.find('.', begin);
  if (end == std::string::npos || end == begin || end - begin > 5) return std::nullopt;
  int64_t layer = 0;
  for (size_t i = begin; i < end; ++i) {
    if (name[i] < '0' || name[i] > '9') return std::nullopt;
    layer = 10 * layer + (name[i] - '0');
  }
  return std::pair{layer, name.substr(0, begin) + "N" + name.substr(end)};
}

/// Of models that visq does not know: layers are alike, so what all have but a few is missing in those.
void check_alike_layers(const ValidationContext& context, Validation& validation) {
  if (context.spec) return;
  Findings findings(validation, "B7",
                    "layers hold the same tensors, where the architecture is none of visq's");
  if (!context.output.lost_names().empty() || context.output.lost_unnamed())
    return findings.skip("what A7 could not read may be what is missing");
  std::map<std::string, std::set<int64_t>> layers_with;  // by name without the number
  std::map<std::string, std::set<int64_t>> layers_of;    // by prefix
  for (const std::string& name : context.output.names())
    if (const auto found = in_layer(name)) {
      layers_with[found->second].insert(found->first);
      layers_of[found->second.substr(0, found->second.find("layers.N") + 8)].insert(found->first);
    }
  for (const auto& [pattern, with] : layers_with) {
    findings.count();
    const std::set<int64_t>& all = layers_of[pattern.substr(0, pattern.find("layers.N") + 8)];
    const size_t without = all.size() - with.size();
    if (without == 0 || 4 * without > all.size()) continue;
    // A layer that a recipe has left out has weights alone.
    const std::string leaf = leaf_of(pattern);
    if (leaf != "weight" && leaf != "bias") continue;
    for (const int64_t layer : all)
      if (!with.contains(layer)) {
        std::string name = pattern;
        name.replace(name.find("layers.N") + 7, 1, std::to_string(layer));
        findings.add("",
                     visq::format("tensor '{}' is missing, though {} of {} layers have it", name, with.size(),
                                  all.size()),
                     "copy it from the original, or quantize again");
      }
  }
}

void check_tie(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B11", "tie_word_embeddings and the head that is stored agree");
  const Json& config = context.output.text_model().config;
  std::optional<bool> tied;
  const Json text = config.value("text_config", Json(nullptr));
  for (const Json& part : {config, text})
    if (part.is_object() && part.contains("tie_word_embeddings") &&
        part.at("tie_word_embeddings").is_boolean())
      tied = part.at("tie_word_embeddings").get<bool>();
  if (context.spec) tied = context.spec->decoder.tied_head;
  if (!tied) return findings.skip("config.json does not say");
  std::string head, embedding;
  const auto matches = [](const std::string& name, const std::string& leaf) {
    return name == leaf || name.ends_with("." + leaf);
  };
  for (const auto& [name, module] : context.stored) {
    if (matches(name, "lm_head") && module.weight() != nullptr) head = name;
    if (matches(name, "embed_tokens") && module.weight() != nullptr) embedding = name;
  }
  findings.count();
  bool lost = context.output.lost_unnamed();
  for (const std::string& name : context.output.lost_names())
    lost |= name.find("lm_head.") != std::string::npos;
  if (!*tied && head.empty() && !lost)
    return findings.add("",
                        "'lm_head.weight' is missing, though tie_word_embeddings is false: engines leave the "
                        "head uninitialised",
                        "copy it from the original, or set tie_word_embeddings where the model is tied");
  if (!*tied || head.empty()) return;
  const bool plain = !context.is_packed(head) && !context.is_packed(embedding) && !embedding.empty();
  const auto bytes = [&](const std::string& module) { return context.output.bytes(module + ".weight"); };
  const bool equal = plain && std::ranges::equal(bytes(head), bytes(embedding));
  const std::string what = visq::format("tie_word_embeddings is true, but '{}.weight' is stored ({})", head,
                                        !plain  ? "quantized"
                                        : equal ? "equal to the embedding"
                                                : "unlike the embedding");
  const char* fix =
      equal ? "delete it" : "delete it, or set tie_word_embeddings to false if the head is meant";
  if (context.is_for("sglang"))
    findings.add("sglang", what + "; SGLang stops with KeyError 'lm_head.weight'", fix);
  if (!equal) findings.warn("", what + "; engines that skip it compute other logits", fix);
}

}  // namespace

void check_expected(const ValidationContext& context, Validation& validation) {
  check_leftovers(context, validation);
  check_config_tensors(context, validation);
  check_alike_layers(context, validation);
  check_tie(context, validation);
}

void check_kv_names(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B12", "scales of the KV cache are where loaders look, and announced");
  const auto is_scale = [](const std::string& name) {
    const std::string leaf = leaf_of(name);
    return leaf == "k_scale" || leaf == "v_scale" || leaf == "kv_scale";
  };
  std::vector<std::string> scales;
  std::ranges::copy_if(context.output.names(), std::back_inserter(scales), is_scale);
  if (context.quantized == nullptr) return findings.skip("the configuration is not one that visq reads");
  const KvCacheFormat format = context.quantized->kv_cache();
  if (format == KvCacheFormat::none) {
    findings.count();
    if (!scales.empty())
      findings.add(
          "",
          visq::format(
              "{} KV scales are stored ('{}', …), but the configuration announces none: they are not loaded, "
              "or stop vLLM with a KeyError",
              scales.size(), scales.front()),
          "write kv_cache_scheme, or delete the scales");
    return;
  }
  const KvStorage storage = context.quantized->layout().kv_storage(at::kFloat);
  const std::string key = std::string(storage.key) + "scale", value = std::string(storage.value) + "scale";
  for (const std::string& name : scales) {
    findings.count();
    const bool keys = name.ends_with(key);
    const auto is_attention = [&](const std::string& module) {
      return std::ranges::any_of(
          std::initializer_list<const char*>{".q_proj", ".k_proj", ".qkv_proj", ".qkv_proj.base_layer"},
          [&](const char* linear) { return context.stored.contains(module + linear); });
    };
    const size_t length = (keys ? key : value).size();
    if (context.may_be_lost(parent_of(name))) continue;
    if ((!keys && !name.ends_with(value)) || !is_attention(name.substr(0, name.size() - length))) {
      findings.add(
          "",
          visq::format("KV scale '{}' is under a name that not all loaders map: the cache runs at scale 1.0",
                       name),
          visq::format("name it '….self_attn{}'", leaf_of(name) == "v_scale" ? value : key));
      continue;
    }
    const std::string attention = name.substr(0, name.size() - (keys ? key : value).size());
    if (!context.output.contains(attention + (keys ? value : key)))
      findings.add("", visq::format("'{}' is stored without '{}'", name, attention + (keys ? value : key)),
                   "store both, or neither and no kv_cache_scheme");
  }
  const KvFormat& kv = kv_format(format);
  if (!kv.calibrated && !storage.unit_scales) return;
  for (const auto& group : context.fusible_groups()) {
    const std::string& module = group.front();
    if (!module.ends_with("q_proj") || module.find("attn.") == std::string::npos ||
        !context.in_decoder(module) || !in_layer(module))
      continue;
    const std::string attention = parent_of(module);
    if (context.may_be_lost(attention)) continue;
    findings.count();
    if (!context.output.contains(attention + key) && !context.output.contains(attention + value))
      findings.add("",
                   visq::format("'{}{}' is missing, though the configuration announces a KV cache of {}",
                                attention, key, kv_cache_name(format)),
                   "calibrate again, or write kv_cache_scheme: null");
  }
}

}  // namespace visq

// Rules A1 to A6 (files and configuration), B1 and B6 (names and bytes of the source).
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/validation_context.h"

namespace visq {
namespace {

bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

bool same_files(const std::filesystem::path& a, const std::filesystem::path& b) {
  std::ifstream left(a, std::ios::binary), right(b, std::ios::binary);
  if (!left || !right) return false;
  constexpr size_t kPiece = 1 << 20;
  std::string x(kPiece, '\0'), y(kPiece, '\0');
  do {
    left.read(x.data(), kPiece);
    right.read(y.data(), kPiece);
    if (left.gcount() != right.gcount() ||
        std::memcmp(x.data(), y.data(), static_cast<size_t>(left.gcount())) != 0)
      return false;
  } while (left && right);
  return true;
}

void check_side_files(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "A1", "tokenizer, processor and other files are the source's, byte for byte");
  if (context.source == nullptr) return findings.skip("needs --source");
  for (const auto& file : context.source->side_files())
    findings.expect(same_files(context.source->directory() / file, context.output.directory() / file),
                    "copy it from the source", "{} is missing or differs", file.string());
}

// What the configuration in config.json says of a key of hf_quant_config.json: under that name, or the way
// ModelOpt says it there, in config_groups and kv_cache_scheme (spec/export.md §3.3).
Json said_inline(const Json& config, const std::string& key) {
  if (const Json value = config.value(key, Json(nullptr)); !value.is_null()) return value;
  if (key == "kv_cache_quant_algo") {
    const Json scheme = config.value("kv_cache_scheme", Json(nullptr));
    const bool fp8 = scheme.is_object() && scheme.value("num_bits", Json(0)) == 8 &&
                     scheme.value("type", Json("float")) == "float";
    return fp8 ? Json("FP8") : scheme;
  }
  const Json groups = config.value("config_groups", Json(nullptr));
  if (!groups.is_object() || groups.size() != 1 || !groups.front().is_object()) return nullptr;
  const Json& group = groups.front();
  const Json weights = group.value("weights", Json(nullptr));
  if (weights.is_object() && weights.contains(key)) return weights.at(key);
  return group.value(key, Json(nullptr));
}

void check_configs(const ValidationContext& context, Validation& validation) {
  const Json& config = context.output.text_model().config;
  const Json& inline_config = context.quantization;
  std::string layout;  // where visq cannot read it, by its name
  if (context.quantized != nullptr)
    layout = context.quantized->layout().name();
  else if (inline_config.is_object() && inline_config.value("quant_method", Json(nullptr)) == "modelopt")
    layout = "modelopt";
  {
    Findings findings(validation, "A2", "config.json is the source's, plus quantization_config");
    if (context.source == nullptr)
      findings.skip("needs --source");
    else
      findings.expect(without_quantization_config(config) == context.source->text_model().config,
                      "take the source's config.json and add quantization_config alone",
                      "config.json differs elsewhere too");
  }
  {
    Findings findings(validation, "A3", "config.json and hf_quant_config.json agree");
    const auto path = context.output.text_model().directory / "hf_quant_config.json";
    if (layout != "modelopt") {
      findings.skip("only the modelopt layout has two configurations");
    } else if (!std::filesystem::exists(path)) {
      findings.expect(false, "write it beside config.json; visq convert DIR --to modelopt does",
                      "hf_quant_config.json is missing: TensorRT-LLM reads it first");
    } else {
      const Json nested = require<Json>(read_json(path), "quantization", path.string());
      std::vector<std::string> unsaid;
      for (const char* key : {"quant_algo", "kv_cache_quant_algo", "quantized_layers", "group_size",
                              "has_zero_point", "pre_quant_scale"}) {
        const Json here = said_inline(inline_config, key), there = nested.value(key, Json(nullptr));
        // How blocks are cut may stand in one file alone; what is quantized, and to what, may not.
        const bool of_blocks = key == std::string("group_size") || key == std::string("has_zero_point") ||
                               key == std::string("pre_quant_scale");
        if (of_blocks && here.is_null() && !there.is_null())
          unsaid.push_back(visq::format("{} {}", key, json_text(there)));
        else
          findings.expect(here == there, "let both say what the tensors are",
                          "{} is {} in config.json and {} in hf_quant_config.json", key, json_excerpt(here),
                          json_excerpt(there));
      }
      if (!unsaid.empty())
        findings.warn("",
                      visq::format("config.json does not say {}, hf_quant_config.json alone does; who reads "
                                   "only config.json has to guess",
                                   fmt::join(unsaid, ", ")),
                      "add the same keys to quantization_config; visq convert DIR --to modelopt does");
      auto listed = get_or<std::vector<std::string>>(nested, "exclude_modules", {}, path.string());
      auto ignored = context.exclude;
      std::sort(listed.begin(), listed.end());
      std::sort(ignored.begin(), ignored.end());
      std::vector<std::string> apart;
      std::ranges::set_symmetric_difference(listed, ignored, std::back_inserter(apart));
      findings.expect(apart.empty(), "list the same modules in both",
                      "exclude_modules of hf_quant_config.json differs from ignore of config.json in {}",
                      apart.empty() ? "" : "'" + apart.front() + "'");
    }
  }
  {
    Findings findings(validation, "A4", "the engines asked for read this scheme in this layout");
    if (context.quantized == nullptr) {
      findings.skip("the format is not one that visq reads");
    } else {
      const auto& read = context.quantized->layout();
      const auto expect = [&](const std::vector<std::string>& readers, const std::string& what) {
        for (const EngineModel* engine : context.engines) {
          findings.count();
          if (std::ranges::find(readers, engine->name) == readers.end())
            findings.add(engine->name, visq::format("does not read {} in the {} layout", what, layout),
                         readers.empty()
                             ? "choose another format or layout: visq formats says who reads what"
                             : visq::format("serve it with {}, or choose another format or layout "
                                            "(visq formats says who reads what)",
                                            fmt::join(readers, " or ")));
        }
      };
      const std::string word =
          inline_config.contains("quant_algo") && inline_config.at("quant_algo").is_string()
              ? " (quant_algo " + inline_config.at("quant_algo").get<std::string>() + ")"
              : "";
      expect(read.engines(context.quantized->schemes()), context.quantized->format_name() + word);
      ServedModel model = context.quantized->served_model();
      model.kv_cache = KvCacheFormat::none;  // below
      for (const EngineModel* engine : context.engines)
        for (const EngineFinding& finding : judge(*engine, model))
          if (!finding.warning && engine->reads(layout, context.quantized->schemes()))
            findings.add(engine->name, finding.what, finding.fix);
      if (context.engines.empty())
        findings.warn("",
                      visq::format("no engine reads {}{} in the {} layout", context.quantized->format_name(),
                                   word, layout),
                      "choose another format or layout: visq formats says who reads what");
      if (const KvCacheFormat kv_cache = context.quantized->kv_cache(); kv_cache != KvCacheFormat::none)
        expect(read.engines(kv_cache), visq::format("a KV cache of {}", kv_cache_name(kv_cache)));
    }
  }
  Findings findings(validation, "A6", "quant_method and producer are given");
  if (!inline_config.is_object()) return findings.skip("config.json has no quantization_config");
  findings.expect(inline_config.contains("quant_method"), "add quant_method",
                  "config.json: quant_method is missing");
  if (layout == "modelopt")
    findings.expect(inline_config.contains("producer"), "add \"producer\": {\"name\": \"modelopt\"}",
                    "config.json: producer is missing: loaders of hf_quant_config.json know ModelOpt by it");
}

void check_index(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "A5", "the index covers exactly the tensors, and its total is their size");
  const Checkpoint& output = context.output;
  const auto path = output.text_model().directory / "model.safetensors.index.json";
  if (!std::filesystem::exists(path)) return findings.skip("one file, no index");
  const Json index = read_json(path, kMaxTokenizerBytes);
  const auto map = require<Json>(index, "weight_map", path.string());
  constexpr const char* kFix = "write the index anew from the headers of the shards";
  std::map<std::string, Json> listed;  // Json looks keys up one by one
  for (const auto& [name, shard] : map.items()) listed.emplace(name, shard);
  size_t tensors = 0;
  uint64_t bytes = 0;
  for (const std::string& name : output.names()) {
    if (!output.in_text_model(name)) continue;
    ++tensors;
    bytes += output.info(name).bytes();
    const auto found = listed.find(output.name_in_part(name));
    findings.expect(found != listed.end() && found->second == output.file_of(name).filename().string(), kFix,
                    "tensor '{}' is not listed in its shard", name);
  }
  if (!output.lost_names().empty()) return;  // A7 names the shards
  findings.expect(map.size() == tensors, kFix, "the index lists {} tensors, the shards hold {}", map.size(),
                  tensors);
  const Json metadata = index.value("metadata", Json::object());
  const auto total =
      get_or<int64_t>(metadata.is_object() ? metadata : Json::object(), "total_size", 0, path.string());
  findings.expect(static_cast<uint64_t>(total) == bytes, kFix, "total_size is {}, the tensors have {} bytes",
                  total, bytes);
}

// A source tensor that need not be there: the alias of a tied weight.
bool is_tied_alias(const Checkpoint& source, const std::string& name) {
  return name.find("lm_head") != std::string::npos &&
         get_or<bool>(source.text_model().config, "tie_word_embeddings", false, "config.json");
}

// Stacks of the source whose experts are quantized, every one.
std::set<std::string> unstacked_tensors(const ValidationContext& context) {
  std::set<std::string> whole, torn;
  for (const std::string& name : context.source->stacked_names()) {
    const std::string& stack = context.source->stored_in(name);
    (context.modules.contains(parent_of(name)) ? whole : torn).insert(stack);
  }
  for (const std::string& stack : torn) whole.erase(stack);
  return whole;
}

}  // namespace

void check_files(const ValidationContext& context, Validation& validation) {
  check_side_files(context, validation);
  check_configs(context, validation);
  check_index(context, validation);
}

namespace {

/// Whether a linear that is not quantized is the source's with a merged adapter in it.
bool has_merged_weight(const ValidationContext& context, const std::string& name) {
  const std::string module = parent_of(name);
  const TensorInfo &a = context.source->info(name), &b = context.output.info(name);
  return linear_name(module) != module && a.dtype == b.dtype && a.shape == b.shape &&
         source_weight(context, module).equal(context.output.tensor(name));
}

}  // namespace

void check_names(const ValidationContext& context, Validation& validation) {
  const Checkpoint& output = context.output;
  {
    Findings findings(validation, "B1", "tensors are the source's, and the scales of quantized ones");
    if (context.source == nullptr) {
      findings.skip("needs --source");
    } else {
      const std::set<std::string> unstacked = unstacked_tensors(context);
      for (const std::string& name : context.source->names())
        findings.expect(output.contains(name) || context.modules.contains(parent_of(name)) ||
                            unstacked.contains(name) || is_tied_alias(*context.source, name) ||
                            context.may_be_lost(name) || context.may_be_lost(parent_of(name)),
                        "copy it from the source", "tensor '{}' of the source is missing", name);
      static const std::set<std::string> kSuffixes = {"weight",
                                                      "weight_packed",
                                                      "weight_scale",
                                                      "weight_scale_2",
                                                      "weight_scale_inv",
                                                      "weight_global_scale",
                                                      "weight_shape",
                                                      "input_scale",
                                                      "k_scale",
                                                      "v_scale",
                                                      "k_bias",
                                                      "v_bias",
                                                      "pre_quant_scale",
                                                      "absmax",
                                                      "quant_map",
                                                      "nested_absmax",
                                                      "nested_quant_map",
                                                      "bitsandbytes__nf4",
                                                      "weight_zero_point",
                                                      "weight_g_idx",
                                                      "input_global_scale",
                                                      "qweight",
                                                      "qzeros",
                                                      "scales",
                                                      "g_idx",
                                                      "_svdquant_lora_a",
                                                      "_svdquant_lora_b"};
      for (const std::string& name : output.names())
        if (!context.source->contains(name))
          findings.expect(kSuffixes.contains(leaf_of(name)), "delete it",
                          "tensor '{}' is not known: neither the source nor the format has it", name);
    }
  }
  Findings findings(validation, "B6",
                    "what is not quantized is the source's, byte for byte, folded norms, biases, routers and "
                    "adapters, and merged adapters, aside");
  if (context.source == nullptr) return findings.skip("needs --source");
  const bool smoothed = context.quantized != nullptr && context.quantized->is_smoothed();
  constexpr const char* kFix = "copy the tensor from the source";
  for (const std::string& name : context.source->names()) {
    if (!output.contains(name) || context.modules.contains(parent_of(name)) ||
        context.may_be_lost(parent_of(name)))
      continue;
    const bool may_be_folded =
        smoothed &&
        (name.ends_with("input_layernorm.weight") || name.ends_with("post_attention_layernorm.weight") ||
         name.ends_with("pre_feedforward_layernorm.weight") || name.ends_with(".mlp.gate.weight") ||
         name.ends_with(".router.weight") || name.find(".lora_") != std::string::npos);
    const TensorInfo &a = context.source->info(name), &b = output.info(name);
    findings.expect(a.dtype == b.dtype && a.shape == b.shape, kFix, "tensor '{}' has another dtype or shape",
                    name);
    findings.expect(may_be_folded || same_bytes(context.source->bytes(name), output.bytes(name)) ||
                        is_merged(context, name) || has_merged_weight(context, name),
                    kFix, "tensor '{}' has other values", name);
  }
}

}  // namespace visq

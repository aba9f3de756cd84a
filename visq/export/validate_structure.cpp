// Rules A (files and configuration), B (names) and C (dtypes and shapes).
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"
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

std::string parent_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

Json without_quantization(Json config) {
  config.erase("quantization_config");
  return config;
}

void check_side_files(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "A1", "tokenizer, processor and other files are the source's, byte for byte");
  if (context.source == nullptr) return findings.skip("needs --source");
  for (const auto& file : context.source->side_files())
    findings.expect(same_files(context.source->directory() / file, context.output.directory() / file),
                    "{} is missing or differs", file.string());
}

void check_configs(const ValidationContext& context, Validation& validation) {
  const Json& config = context.output.text_model().config;
  const Json& inline_config = config.at("quantization_config");
  {
    Findings findings(validation, "A2", "config.json is the source's, plus quantization_config");
    if (context.source == nullptr)
      findings.skip("needs --source");
    else
      findings.expect(without_quantization(config) == context.source->text_model().config,
                      "config.json differs elsewhere too");
  }
  {
    Findings findings(validation, "A3", "config.json and hf_quant_config.json agree");
    const auto path = context.output.text_model().directory / "hf_quant_config.json";
    if (context.quantized.layout().name() != std::string("modelopt")) {
      findings.skip("only the modelopt layout has two configurations");
    } else if (!std::filesystem::exists(path)) {
      findings.expect(false, "hf_quant_config.json is missing: TensorRT-LLM reads it first");
    } else {
      const Json nested = require<Json>(read_json(path), "quantization", path.string());
      for (const char* key :
           {"quant_algo", "kv_cache_quant_algo", "group_size", "has_zero_point", "pre_quant_scale"}) {
        const Json a = inline_config.value(key, Json(nullptr)), b = nested.value(key, Json(nullptr));
        findings.expect(a == b, "{} is {} in config.json and {} in hf_quant_config.json", key, json_text(a),
                        json_text(b));
      }
      auto listed = get_or<std::vector<std::string>>(nested, "exclude_modules", {}, path.string());
      auto ignored = context.exclude;
      std::sort(listed.begin(), listed.end());
      std::sort(ignored.begin(), ignored.end());
      findings.expect(listed == ignored, "exclude_modules differs from ignore");
    }
  }
  {
    Findings findings(validation, "A4", "the engines asked for read this scheme in this layout");
    const auto readers = context.quantized.layout().engines(context.quantized.schemes());
    for (const Engine engine : context.engines)
      findings.expect(std::find(readers.begin(), readers.end(), engine_name(engine)) != readers.end(),
                      "{} does not read {} in the {} layout", engine_name(engine),
                      context.quantized.format_name(), context.quantized.layout().name());
    const KvCacheFormat kv_cache = context.quantized.kv_cache();
    if (kv_cache != KvCacheFormat::none) {
      const auto kv_readers = context.quantized.layout().engines(kv_cache);
      for (const Engine engine : context.engines)
        findings.expect(std::ranges::find(kv_readers, engine_name(engine)) != kv_readers.end(),
                        "{} does not read a KV cache of {} in the {} layout", engine_name(engine),
                        kv_cache_name(kv_cache), context.quantized.layout().name());
    }
  }
  Findings findings(validation, "A6", "quant_method and producer are given");
  findings.expect(inline_config.contains("quant_method"), "config.json: quant_method is missing");
  if (context.quantized.layout().name() == std::string("modelopt"))
    findings.expect(inline_config.contains("producer"), "config.json: producer is missing");
}

void check_index(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "A5", "the index covers exactly the tensors, and its total is their size");
  const Checkpoint& output = context.output;
  const auto path = output.text_model().directory / "model.safetensors.index.json";
  if (!std::filesystem::exists(path)) return findings.skip("one file, no index");
  const Json index = read_json(path, kMaxTokenizerBytes);
  const auto map = require<Json>(index, "weight_map", path.string());
  size_t tensors = 0;
  uint64_t bytes = 0;
  for (const std::string& name : output.names()) {
    if (!output.in_text_model(name)) continue;
    ++tensors;
    bytes += output.info(name).bytes();
    const std::string listed = output.name_in_part(name);
    findings.expect(map.contains(listed) && map.at(listed) == output.file_of(name).filename().string(),
                    "tensor '{}' is not listed in its shard", name);
  }
  findings.expect(map.size() == tensors, "the index lists {} tensors, the shards hold {}", map.size(),
                  tensors);
  const auto total = index.value("metadata", Json::object()).value("total_size", uint64_t{0});
  findings.expect(total == bytes, "total_size is {}, the tensors have {} bytes", total, bytes);
}

// A source tensor that need not be there: the alias of a tied weight.
bool is_tied_alias(const Checkpoint& source, const std::string& name) {
  return name.find("lm_head") != std::string::npos &&
         get_or<bool>(source.text_model().config, "tie_word_embeddings", false, "config.json");
}

void check_engine_excludes(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B4", "every engine's own rule excludes exactly what is not quantized");
  for (const Engine engine : context.engines)
    for (const std::string& module : context.linears) {
      if (!context.output.in_text_model(module)) continue;  // the list is the text model's own
      const bool excluded = engine_excludes(engine, context.exclude, context.output.name_in_part(module),
                                            context.model_type, context.quantized.layout().exclude_rule());
      const bool quantized = context.modules.contains(module);
      findings.expect(excluded != quantized, "{}: '{}' is {}quantized, but the exclude list {} it",
                      engine_name(engine), module, quantized ? "" : "not ",
                      excluded ? "covers" : "does not cover");
    }
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
                            unstacked.contains(name) || is_tied_alias(*context.source, name),
                        "tensor '{}' of the source is missing", name);
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
                                                      "_svdquant_lora_a",
                                                      "_svdquant_lora_b"};
      for (const std::string& name : output.names())
        if (!context.source->contains(name))
          findings.expect(kSuffixes.contains(name.substr(name.rfind('.') + 1)), "tensor '{}' is not known",
                          name);
    }
  }
  {
    Findings findings(validation, "B2", "no tensor is left over from a tool");
    for (const std::string& name : output.names())
      for (const char* part : {"_quantizer", "_amax", "base_layer", "parametrizations"}) {
        // Phi-4's own names hold "base_layer".
        const bool of_source = context.source != nullptr && parent_of(name).find(part) != std::string::npos &&
                               context.source->contains(parent_of(name) + ".weight");
        const bool of_layout = name.find(".weight_quantizer._svdquant_lora_") != std::string::npos;
        findings.expect(of_source || of_layout || name.find(part) == std::string::npos,
                        "tensor '{}' holds '{}'", name, part);
      }
  }
  check_engine_excludes(context, validation);
  {
    Findings findings(validation, "B5", "q/k/v and gate/up are quantized together or not at all");
    for (const auto& group : context.fused_groups()) {
      const size_t expected = group.front().ends_with("q_proj") ? 3 : 2;
      findings.expect(group.size() == expected, "only some of what is fused with '{}' is quantized",
                      group.front());
      for (const std::string& module : group)
        findings.expect(context.quantized.scheme(module).stored_like(context.quantized.scheme(group.front())),
                        "'{}' and '{}', which are fused, have unlike schemes", group.front(), module);
    }
  }
  Findings findings(validation, "B6",
                    "what is not quantized is the source's, byte for byte, folded norms, biases, routers and "
                    "adapters, and merged adapters, aside");
  if (context.source == nullptr) return findings.skip("needs --source");
  const bool smoothed = context.quantized.is_smoothed();
  for (const std::string& name : context.source->names()) {
    if (!output.contains(name) || context.modules.contains(parent_of(name))) continue;
    const bool may_be_folded =
        smoothed &&
        (name.ends_with("input_layernorm.weight") || name.ends_with("post_attention_layernorm.weight") ||
         name.ends_with("pre_feedforward_layernorm.weight") || name.ends_with(".mlp.gate.weight") ||
         name.ends_with(".router.weight") || name.find(".lora_") != std::string::npos);
    const TensorInfo &a = context.source->info(name), &b = output.info(name);
    findings.expect(a.dtype == b.dtype && a.shape == b.shape, "tensor '{}' has another dtype or shape", name);
    findings.expect(may_be_folded || same_bytes(context.source->bytes(name), output.bytes(name)) ||
                        is_merged(context, name) || has_merged_weight(context, name),
                    "tensor '{}' has other values", name);
  }
}

void check_shapes(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "C1",
                    "dtypes and shapes are those of the layout and of the source's linears");
  for (const std::string& module : context.modules) {
    const Scheme& scheme = context.quantized.scheme(module);
    QuantizedLinear linear{module, 0, 0, at::kBFloat16, scheme, reads_alone(module)};
    if (context.source != nullptr && context.source->contains(module + ".weight")) {
      const TensorInfo& info = context.source->info(module + ".weight");
      linear.rows = info.shape.at(0);
      linear.columns = info.shape.at(1);
      linear.source_dtype = info.dtype;
    } else {
      const PackedTensor weight = context.quantized.read(module).weight;
      linear.rows = weight.rows;
      linear.columns = weight.columns;
      for (const char* scale : {".pre_quant_scale", kLowRankA, ".weight_scale"})  // where one has it
        if (context.output.contains(module + scale)) {
          linear.source_dtype = context.output.info(module + scale).dtype;
          break;
        }
    }
    findings.expect(scheme.block == 0 || linear.columns % scheme.block == 0,
                    "'{}' has {} columns, not a multiple of the block of {}", module, linear.columns,
                    scheme.block);
    for (const LayoutTensor& expected : context.quantized.layout().tensors(linear)) {
      const PlannedTensor& planned = expected.planned;
      if (!context.output.contains(planned.name)) {
        findings.expect(false, "tensor '{}' is missing", planned.name);
        continue;
      }
      const TensorInfo& info = context.output.info(planned.name);
      findings.expect(info.dtype == planned.dtype && info.shape == planned.shape,
                      "tensor '{}' is {} [{}], not {} [{}]", planned.name, safetensors_dtype(info.dtype),
                      fmt::join(info.shape, ", "), safetensors_dtype(planned.dtype),
                      fmt::join(planned.shape, ", "));
    }
  }
}

}  // namespace visq

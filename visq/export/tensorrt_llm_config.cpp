// config.json of a TensorRT-LLM checkpoint (spec/export.md §4.1; what ModelOpt writes, and what the builder
// needs beside it: rope, biases, what sets Gemma and Qwen apart).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"
#include "visq/export/tensorrt_llm_form.h"

namespace visq::trt {
namespace {

constexpr std::pair<const char*, at::ScalarType> kDtypes[] = {
    {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}, {"float32", at::kFloat}};

const char* dtype_name(const Model& model, at::ScalarType dtype) {
  for (const auto& [name, known] : kDtypes)
    if (known == dtype) return name;
  fail("{}: tensor '{}' is {}, not F32, BF16 or F16", model.checkpoint().directory().string(),
       embedding_name(model), safetensors_dtype(dtype));
}

std::string activation(const nn::DecoderSpec& spec) {
  if (spec.norm_plus_one) return "gelu_pytorch_tanh";
  return spec.fused_gate_up ? "swiglu" : "silu";
}

void add_rope(Json& config, const nn::DecoderSpec& spec) {
  const nn::Rope& rope = spec.rope;
  config["rotary_base"] = rope.theta;
  config["rotary_scaling"] = nullptr;
  if (!rope.mrope_section.empty()) {
    config["position_embedding_type"] = "mrope";
    config["rotary_embedding_dim"] = spec.head_dim;
    config["rotary_scaling"] = {{"type", "mrope"}, {"mrope_section", rope.mrope_section}};
    return;
  }
  switch (rope.kind) {
    case nn::Rope::Kind::standard:
      break;
    case nn::Rope::Kind::linear:
      config["rotary_scaling"] = {{"type", "linear"}, {"factor", rope.factor}};
      break;
    case nn::Rope::Kind::llama3:
      config["rotary_scaling"] = {
          {"type", "llama3"},
          {"rope_type", "llama3"},
          {"factor", rope.factor},
          {"low_freq_factor", rope.low_freq_factor},
          {"high_freq_factor", rope.high_freq_factor},
          {"original_max_position_embeddings", static_cast<int64_t>(rope.original_max_positions)}};
      break;
    case nn::Rope::Kind::longrope:
      config["position_embedding_type"] = "long_rope";
      config["longrope_scaling_short_factors"] = rope.short_factors;
      config["longrope_scaling_long_factors"] = rope.long_factors;
      config["original_max_position_embeddings"] = static_cast<int64_t>(rope.original_max_positions);
      break;
  }
}

void add_gemma(Json& config, const nn::DecoderSpec& spec, const Json& text) {
  if (spec.sandwich_norms) {
    config["query_pre_attn_scalar"] = std::round(1 / (spec.score_scale * spec.score_scale));
    config["final_logit_softcapping"] = spec.logit_softcap > 0 ? Json(spec.logit_softcap) : Json(nullptr);
  }
  if (spec.sandwich_norms && !spec.qk_norm)
    config["attn_logit_softcapping"] = spec.score_softcap > 0 ? Json(spec.score_softcap) : Json(nullptr);
  if (!spec.qk_norm) return;
  config["qk_layernorm"] = true;
  config["sliding_window"] = spec.window;
  config["sliding_window_pattern"] = get_or<int64_t>(text, "sliding_window_pattern", 6, "config.json");
  config["rope_local_base_freq"] = spec.local_rope ? spec.local_rope->theta : spec.rope.theta;
}

Json quantization(const Form& form) {
  const Algorithm& algorithm = *find_algorithm(form.scheme);
  Json config = {{"quant_algo", algorithm.name},
                 {"kv_cache_quant_algo", form.kv_cache == KvCacheFormat::none ? Json(nullptr) : Json("FP8")}};
  if (form.scheme.block > 0) config["group_size"] = form.scheme.block;
  if (form.scheme.weight == Codec::int4) {
    config["has_zero_point"] = false;
    config["pre_quant_scale"] = true;
  }
  config["exclude_modules"] = {"lm_head"};
  return config;
}

KvCacheFormat read_kv_cache(const Json& config, const Json& quantization, const std::string& origin) {
  const auto name = get_or<std::string>(quantization, "kv_cache_quant_algo", "", origin);
  if (name.empty()) return KvCacheFormat::none;
  if (name != "FP8") fail("{}: kv_cache_quant_algo '{}' is not one that visq reads", origin, name);
  return named_kv_cache(config, KvCacheFormat::fp8);
}

int64_t read_count(const Json& object, const char* key, int64_t limit, const std::string& origin) {
  const auto value = require<int64_t>(object, key, origin);
  if (value < 1 || value > limit) fail("{}: '{}' is {}, outside 1..{}", origin, key, value, limit);
  return value;
}

Scheme read_scheme(const Json& config, const Json& quantization, const std::string& origin) {
  const auto name = get_or<std::string>(quantization, "quant_algo", "", origin);
  const auto found =
      std::ranges::find_if(algorithms(), [&](const Algorithm& algorithm) { return name == algorithm.name; });
  if (found == algorithms().end()) fail("{}: quant_algo '{}' is not one that visq reads", origin, name);
  Scheme scheme = named_scheme(config, found->preset);
  if (scheme.block > 0) scheme.block = read_count(quantization, "group_size", 1 << 16, origin);
  if (!scheme.stored_like(find_preset(found->preset).scheme))
    fail("{}: group_size {} is not one that visq reads with {}", origin, scheme.block, name);
  if (get_or<bool>(quantization, "has_zero_point", false, origin))
    fail("{}: zero points are not read in this format", origin);
  return scheme;
}

}  // namespace

Json make_config(const Model& model, const Form& form) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  const DecoderKind kind = decoder_kind(model);
  const Json& text = text_config(model);
  const int64_t rotary = spec.rope.rotary_dim > 0 ? spec.rope.rotary_dim : spec.head_dim;
  const auto [tp, pp] = form.sharding;
  const char* const dtype = dtype_name(model, form.dtype);
  ExportSummary summary;
  summary.schemes = {form.scheme};
  summary.kv_cache = form.kv_cache;
  summary.recipe = form.recipe;
  Json producer = producer_of("visq", summary);
  producer["version"] = VISQ_VERSION;
  Json config = {{"producer", producer},
                 {"architecture", kind.architecture},
                 {"dtype", dtype},
                 {"logits_dtype", form.dtype == at::kBFloat16 ? "float16" : dtype},
                 {"num_hidden_layers", spec.layers},
                 {"num_attention_heads", spec.heads},
                 {"num_key_value_heads", spec.kv_heads},
                 {"hidden_size", spec.hidden},
                 {"norm_epsilon", spec.norm_eps},
                 {"vocab_size", form.vocabulary},
                 {"max_position_embeddings",
                  get_or<int64_t>(text, "max_position_embeddings",
                                  spec.max_tokens > 0 ? spec.max_tokens : 4096, "config.json")},
                 {"hidden_act", activation(spec)},
                 {"use_parallel_embedding", true},
                 {"embedding_sharding_dim", 0},
                 {"head_size", spec.head_dim},
                 {"intermediate_size", spec.intermediate},
                 {"position_embedding_type", "rope_gpt_neox"},
                 {"share_embedding_table", form.shared_embedding},
                 {"residual_mlp", false},
                 {"bias", spec.o_bias},
                 {"rotary_pct", static_cast<double>(rotary) / static_cast<double>(spec.head_dim)},
                 {"rank", form.ranks() - 1},
                 {"decoder", kind.decoder},
                 {"rmsnorm", true},
                 {"lm_head_bias", false}};
  add_rope(config, spec);
  config["attn_bias"] = spec.qkv_bias;
  config["mlp_bias"] = spec.mlp_bias;
  if (std::string(kind.decoder) == "qwen")
    config["qwen_type"] = spec.rope.mrope_section.empty() ? "qwen2" : "qwen2_vl";
  if (spec.norm_plus_one) add_gemma(config, spec, text);
  config["mapping"] = {{"world_size", form.ranks()}, {"tp_size", tp}, {"pp_size", pp}};
  config["quantization"] = quantization(form);
  return config;
}

Form read_config_alone(const std::filesystem::path& directory) {
  const std::string origin = (directory / "config.json").string();
  const Json config = read_json(directory / "config.json");
  Form form;
  const auto mapping = require<Json>(config, "mapping", origin);
  form.sharding.tensor_parallel = read_count(mapping, "tp_size", 4096, origin);
  form.sharding.pipeline_parallel = get_or<int64_t>(mapping, "pp_size", 1, origin);
  if (form.sharding.pipeline_parallel < 1 || form.sharding.pipeline_parallel > 4096)
    fail("{}: 'pp_size' is {}, outside 1..4096", origin, form.sharding.pipeline_parallel);
  if (get_or<int64_t>(mapping, "world_size", form.ranks(), origin) != form.ranks() || form.ranks() > 4096)
    fail("{}: 'world_size' is not tp_size times pp_size, or larger than 4096", origin);
  const auto dtype = require<std::string>(config, "dtype", origin);
  const auto* const known =
      std::ranges::find_if(kDtypes, [&](const auto& entry) { return dtype == entry.first; });
  if (known == std::end(kDtypes)) fail("{}: dtype '{}' is not one that visq reads", origin, dtype);
  form.dtype = known->second;
  const auto quantization = require<Json>(config, "quantization", origin);
  form.scheme = read_scheme(config, quantization, origin);
  form.kv_cache = read_kv_cache(config, quantization, origin);
  form.vocabulary = read_count(config, "vocab_size", int64_t{1} << 31, origin);
  form.shared_embedding = get_or<bool>(config, "share_embedding_table", false, origin);
  form.recipe = named_recipe(config);
  return form;
}

Form read_config(const std::filesystem::path& directory, const Model& model) {
  const std::string origin = (directory / "config.json").string();
  const Json config = read_json(directory / "config.json");
  const Form form = read_config_alone(directory);
  decoder_kind(model);  // refuses models that the format cannot be of
  const nn::DecoderSpec& spec = model.spec().decoder;
  const auto expect = [&](const char* key, int64_t expected) {
    const auto value = require<int64_t>(config, key, origin);
    if (value != expected)
      fail("{}: '{}' is {}, but {} in {}; name the model that this checkpoint was made of", origin, key,
           value, expected, model.checkpoint().directory().string());
  };
  expect("num_hidden_layers", spec.layers);
  expect("num_attention_heads", spec.heads);
  expect("num_key_value_heads", spec.kv_heads);
  expect("hidden_size", spec.hidden);
  expect("intermediate_size", spec.intermediate);
  expect("head_size", spec.head_dim);
  const int64_t rows = model.checkpoint().info(embedding_name(model)).shape.at(0);
  if (form.vocabulary != rows && form.vocabulary != padded_vocabulary(rows)) expect("vocab_size", rows);
  return form;
}

}  // namespace visq::trt

#include "visq/export/tensorrt_llm_names.h"

#include <algorithm>
#include <set>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/quant/recipe.h"

namespace visq::trt {
namespace {

using nn::Role;

// What the format's decoders lack; "": nothing.
std::string unsupported(const Model& model) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  if (spec.experts.count > 0) return "mixtures of experts";
  if (!spec.cross.empty()) return "layers that attend to an image";
  if (!spec.unrotated.empty() || spec.unit_heads || spec.rope.neighbours) return "layers like Llama 4's";
  if (spec.qk_norm && !spec.norm_plus_one) return "norms of queries and keys like Qwen3's";
  if (spec.sandwich_norms && !spec.norm_plus_one) return "norms behind attention and MLP";
  if (!spec.fused_qkv && spec.fused_gate_up) return "separate q, k, v beside a joined gate and up";
  if (spec.o_bias && !spec.qkv_bias) return "a bias of o_proj alone";
  if (spec.fused_qkv && (spec.norm_plus_one || spec.qkv_bias)) return "a joined qkv_proj of this kind";
  for (const std::string& name : model.checkpoint().names())
    if (name.find(".lora_") != std::string::npos)
      return visq::format("adapters ('{}'); quantize with --merge-vision-adapter", name);
  return "";
}

}  // namespace

const Json& text_config(const Model& model) {
  const Json& config = model.checkpoint().text_model().config;
  for (const char* key : {"text_config", "llm_config", "language_config", "llm_cfg"})
    if (config.contains(key) && config.at(key).is_object()) return config.at(key);
  return config;
}

DecoderKind decoder_kind(const Model& model) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  if (const std::string reason = unsupported(model); !reason.empty())
    fail(
        "{}: the tensorrt-llm format has no place for a {} model: its decoder has {}; TensorRT-LLM's PyTorch "
        "backend reads the modelopt layout",
        model.checkpoint().directory().string(), model.spec().family, reason);
  if (spec.norm_plus_one) {
    if (spec.qk_norm) return {"Gemma3ForCausalLM", "gemma3"};
    return spec.sandwich_norms ? DecoderKind{"Gemma2ForCausalLM", "gemma2"}
                               : DecoderKind{"GemmaForCausalLM", "gemma"};
  }
  if (spec.fused_qkv) return {"Phi3ForCausalLM", "phi3"};
  if (spec.qkv_bias && !spec.o_bias) return {"Qwen2ForCausalLM", "qwen"};
  const auto type = get_or<std::string>(text_config(model), "model_type", "", "config.json");
  if (type.find("mistral") != std::string::npos) return {"MistralForCausalLM", "llama"};
  return {"LlamaForCausalLM", "llama"};
}

std::vector<Module> modules(const nn::DecoderSpec& spec, const Sharding& sharding) {
  const int64_t tp = sharding.tensor_parallel;
  const int64_t q = spec.heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim, mlp = spec.intermediate;
  // TensorRT-LLM gives each rank a whole head at least.
  const int64_t kv_shards = std::min(tp, spec.kv_heads);
  const char* const heads = "attention heads";
  const char* const kv_heads = "key/value heads";
  const char* const channels = "channels of the MLP";
  const auto rows = [&](Role role, int64_t begin, int64_t count, const char* name, int64_t units) {
    return Piece{role, begin, count, name == kv_heads ? kv_shards : tp, name, units};
  };
  const bool qkv = spec.fused_qkv, gate_up = spec.fused_gate_up;
  std::vector<Module> all = {
      {"attention.qkv",
       {rows(qkv ? Role::qkv : Role::q, 0, q, heads, spec.heads),
        rows(qkv ? Role::qkv : Role::k, qkv ? q : 0, kv, kv_heads, spec.kv_heads),
        rows(qkv ? Role::qkv : Role::v, qkv ? q + kv : 0, kv, kv_heads, spec.kv_heads)}},
      {"attention.dense", {{Role::o, 0, spec.hidden, 1, heads, spec.heads}}, true}};
  if (gate_up) {  // TensorRT-LLM's activation takes the second half for the gate
    all.push_back(
        {"mlp.fc",
         {rows(Role::gate_up, mlp, mlp, channels, mlp), rows(Role::gate_up, 0, mlp, channels, mlp)}});
  } else {
    all.push_back({"mlp.fc", {rows(Role::gate, 0, mlp, channels, mlp)}});
    all.push_back({"mlp.gate", {rows(Role::up, 0, mlp, channels, mlp)}});
  }
  all.push_back({"mlp.proj", {{Role::down, 0, spec.hidden, 1, channels, mlp}}, true});
  return all;
}

nn::Extent extent_of(const nn::DecoderSpec& spec, const Module& module, const Sharding& sharding) {
  nn::Extent extent{0, nn::extent_of(spec, 0, {module.pieces.front().role}).columns};
  for (const Piece& piece : module.pieces) extent.rows += piece.count / piece.shards;
  if (module.by_columns) extent.columns /= sharding.tensor_parallel;
  return extent;
}

std::vector<PlainTensor> layer_norms(const Model& model, int64_t layer) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  std::vector<PlainTensor> all;
  const auto add = [&](const char* canonical, const char* name) {
    const std::string source = model.names().source(
        visq::format("{}layers.{}.{}.weight", model.spec().decoder_prefix, layer, canonical));
    all.push_back({source, std::string(name) + ".weight"});
  };
  add("input_layernorm", "input_layernorm");
  add("post_attention_layernorm", "post_layernorm");
  if (spec.sandwich_norms) {
    add("pre_feedforward_layernorm", "pre_feedforward_layernorm");
    add("post_feedforward_layernorm", "post_feedforward_layernorm");
  }
  if (spec.qk_norm) {
    add("self_attn.q_norm", "attention.q_layernorm");
    add("self_attn.k_norm", "attention.k_layernorm");
  }
  return all;
}

std::string embedding_name(const Model& model) {
  return model.names().source(model.spec().decoder_prefix + "embed_tokens.weight");
}
std::string final_norm_name(const Model& model) {
  return model.names().source(model.spec().decoder_prefix + "norm.weight");
}
std::string head_name(const Model& model) { return model.names().source("lm_head.weight"); }

std::string layer_prefix(int64_t local_layer) { return visq::format("transformer.layers.{}.", local_layer); }

void fail_unquantized(const Model& model, const std::string& module) {
  fail(
      "{}: '{}' is not quantized, and the tensorrt-llm format has one number format for all linears of the "
      "decoder: quantize without --skip and --only, or use the modelopt layout",
      model.checkpoint().directory().string(), module);
}

void check_tensors(const Model& model, const QuantizedCheckpoint& quantized) {
  const Checkpoint& checkpoint = model.checkpoint();
  const ModelSpec& spec = model.spec();
  std::set<std::string> known;
  for (int64_t layer = 0; layer < spec.decoder.layers; ++layer) {
    for (const PlainTensor& norm : layer_norms(model, layer)) known.insert(norm.source);
    for (const nn::LinearId& id : nn::linears(spec.decoder, layer)) {
      const std::string module = model.names().module(spec, layer, id);
      if (!quantized.is_quantized(module)) fail_unquantized(model, module);
      for (const std::string& name : quantized.tensors_of(module)) known.insert(name);
      known.insert(module + ".bias");
    }
    for (std::string& name : quantized.cache_tensors_of(model.names().attention(spec, layer),
                                                        spec.decoder.kv_heads, spec.decoder.head_dim))
      known.insert(std::move(name));
  }
  const std::string layers = spec.decoder_prefix + "layers.";
  for (const std::string& name : checkpoint.names()) {
    const std::string canonical = NameMap::canonical(spec, name);
    const bool ignored = name.ends_with(".rotary_emb.inv_freq") ||
                         std::ranges::any_of(spec.ignored_patterns, [&](const std::string& pattern) {
                           return glob_match(pattern, canonical);
                         });
    const bool placed = canonical.starts_with(layers) ? known.contains(name) : canonical != "lm_head.bias";
    if (!placed && !ignored)
      fail("{}: tensor '{}' has no place in the tensorrt-llm format; use the modelopt layout",
           checkpoint.file_of(name).string(), name);
  }
}

}  // namespace visq::trt

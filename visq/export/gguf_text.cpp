#include "visq/export/gguf_text.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/families/config.h"

namespace visq {
namespace {

using nn::Role;
using nn::Rope;

constexpr int64_t kGemma3Pattern = 6;  // every so manieth layer sees all tokens
constexpr double kGemma3LocalTheta = 10000;
constexpr int64_t kGemma3LayersOf27B = 62;

/// By what the decoder computes, whatever it is called; "": none.
std::string architecture_of(const nn::DecoderSpec& spec) {
  if (spec.fused_qkv) return "phi3";
  if (!spec.rope.mrope_section.empty()) return spec.rope.mrope_interleaved ? "qwen3vl" : "qwen2vl";
  if (spec.norm_plus_one) return spec.sandwich_norms && spec.qk_norm && spec.local_rope ? "gemma3" : "";
  if (spec.qk_norm) return "qwen3";
  return spec.qkv_bias && !spec.o_bias ? "qwen2" : "llama";
}

const char* stem_of(Role role) {
  switch (role) {
    case Role::q:
      return "attn_q";
    case Role::k:
      return "attn_k";
    case Role::v:
      return "attn_v";
    case Role::qkv:
      return "attn_qkv";
    case Role::o:
      return "attn_output";
    case Role::gate:
      return "ffn_gate";
    case Role::up:
    case Role::gate_up:
      return "ffn_up";
    case Role::down:
      return "ffn_down";
  }
  return "";
}

const Json& text_config(const Model& model) {
  const Json& config = model.checkpoint().text_model().config;
  return object_or(config, "text_config", config);
}

int64_t max_positions(const Model& model, const std::string& architecture) {
  const Json& config = text_config(model);
  const std::string origin = (model.checkpoint().text_model().directory / "config.json").string();
  if (const auto own = get_or<int64_t>(config, "max_position_embeddings", 0, origin); own > 0) return own;
  if (architecture == "qwen2vl") return 32768;  // its class knows the text model by no name of its own
  const auto type = get_or<std::string>(config, "model_type", "", origin);
  return text_defaults(architecture == "gemma3"                       ? "gemma3_text"
                       : architecture == "qwen3vl"                    ? "qwen3_vl_text"
                       : architecture == "llama" && type == "mistral" ? type
                                                                      : architecture,
                       origin)
      .max_positions;
}

/// What the frequencies are divided by, f32 [head_dim / 2]. Source: spec/models-llava-vila-qwen.md §1.1.
at::Tensor llama3_divisors(const Rope& rope, int64_t channels) {
  std::vector<float> divisors;
  for (int64_t i = 0; i < channels; i += 2) {
    const double frequency = std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(channels));
    const double turns = rope.original_max_positions * frequency / (2 * std::numbers::pi);
    const double smooth =
        std::clamp((turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
    divisors.push_back(static_cast<float>(1 / ((1 - smooth) / rope.factor + smooth)));
  }
  return at::tensor(divisors, at::kFloat);
}

at::Tensor factors(const std::vector<double>& values) { return at::tensor(values, at::kFloat); }

}  // namespace

at::Tensor interleave_halves(const at::Tensor& rows, int64_t heads) {
  if (heads == 0) return rows;
  std::vector<int64_t> shape = rows.sizes().vec();
  shape.erase(shape.begin());
  shape.insert(shape.begin(), {heads, 2, rows.size(0) / heads / 2});
  return rows.reshape(shape).transpose(1, 2).reshape(rows.sizes()).contiguous();
}

at::Tensor separate_halves(const at::Tensor& rows, int64_t heads) {
  if (heads == 0) return rows;
  std::vector<int64_t> shape = rows.sizes().vec();
  shape.erase(shape.begin());
  shape.insert(shape.begin(), {heads, rows.size(0) / heads / 2, 2});
  return rows.reshape(shape).transpose(1, 2).reshape(rows.sizes()).contiguous();
}

GgufTextModel::GgufTextModel(const Model& model)
    : spec_(model.spec().decoder), family_(model.spec().family), architecture_(architecture_of(spec_)) {
  if (!model.spec().adapters.empty())
    fail(
        "--to gguf: the family '{}' runs images with an adapter beside the weights, which llama.cpp has no "
        "place "
        "for",
        family_);
  check();
  add_keys(model);
  add_rope_keys();
  add_tensors(model);
  check_complete(model);
}

void GgufTextModel::check() const {
  const auto require = [this](bool fits, const char* what) {
    if (!fits)
      fail(
          "--to gguf: {}, as the family '{}' has it, is not among what the architecture '{}' of llama.cpp "
          "computes",
          what, family_, architecture_.empty() ? "gemma" : architecture_);
  };
  const bool gemma = architecture_ == "gemma3", phi = architecture_ == "phi3";
  require(!architecture_.empty(), "a text model of this kind");
  require(spec_.experts.count == 0, "a mixture of experts");
  require(spec_.cross.empty(), "cross attention");
  require(!spec_.rope.neighbours && !spec_.unit_heads && spec_.unrotated.empty() && spec_.query_growth == 0,
          "this kind of attention");
  require(!spec_.chunked, "attention in chunks");
  require(spec_.extra_embeddings == 0, "an embedding with more rows than the head");
  require(spec_.logit_softcap == 0 && spec_.score_softcap == 0, "a limit of scores or logits");
  require(spec_.activation == (gemma ? nn::Activation::gelu_tanh : nn::Activation::silu), "this activation");
  const bool biases = spec_.o_bias || spec_.mlp_bias;
  require(!biases || architecture_ == "llama", "a bias behind attention or in the MLP");
  require(!spec_.qkv_bias || architecture_ == "llama" || architecture_.starts_with("qwen2"),
          "a bias of q, k and v");
  require(spec_.qk_norm == (gemma || architecture_.starts_with("qwen3")), "this norm of queries and keys");
  require(spec_.rope.rotary_dim == 0 || spec_.rope.rotary_dim == spec_.head_dim || phi,
          "a head that turns in part");
  const auto kind = spec_.rope.kind;
  require(kind == Rope::Kind::standard || (kind == Rope::Kind::longrope && phi) ||
              (kind == Rope::Kind::llama3 && architecture_ == "llama") ||
              (kind == Rope::Kind::linear && !phi && spec_.rope.mrope_section.empty()),
          "this kind of rope");
  const auto close = [](double a, double b) { return std::abs(a - b) < 1e-6 * b; };
  if (!gemma)
    return require(spec_.score_scale == 0 && spec_.embed_scale == 1, "a scale of scores or embeddings");
  const double channels =
      static_cast<double>(spec_.layers == kGemma3LayersOf27B ? spec_.hidden / spec_.heads : spec_.head_dim);
  require(close(spec_.score_scale, 1 / std::sqrt(channels)), "this 'query_pre_attn_scalar'");
  require(close(spec_.local_rope->theta, kGemma3LocalTheta) && spec_.local_rope->kind == Rope::Kind::standard,
          "this rope of windowed layers");
  for (int64_t layer = 0; layer < spec_.layers; ++layer)
    require(spec_.is_windowed(layer) == ((layer + 1) % kGemma3Pattern != 0), "this order of windowed layers");
}

void GgufTextModel::add_keys(const Model& model) {
  const auto add = [this](const char* key, GgufValue value) {
    metadata_.emplace_back(architecture_ + "." + key, std::move(value));
  };
  const auto u32 = [&](const char* key, int64_t value) {
    add(key, GgufValue::u32(static_cast<uint64_t>(value)));
  };
  int64_t context = max_positions(model, architecture_);
  const bool windowed = std::ranges::any_of(spec_.windowed, [](bool own) { return own; });
  if (windowed && architecture_ != "gemma3" && spec_.window < context) {
    caveat_ = visq::format(
        "--to gguf: llama.cpp has no sliding window for the architecture '{}': beyond {} tokens it computes "
        "something else than the original",
        architecture_, spec_.window);
    if (architecture_ != "phi3") context = spec_.window;
  }
  u32("vocab_size", spec_.vocab);
  u32("context_length", context);
  u32("embedding_length", spec_.hidden);
  u32("block_count", spec_.layers);
  u32("feed_forward_length", spec_.intermediate);
  u32("attention.head_count", spec_.heads);
  u32("attention.head_count_kv", spec_.kv_heads);
  u32("attention.key_length", spec_.head_dim);
  u32("attention.value_length", spec_.head_dim);
  add("attention.layer_norm_rms_epsilon", GgufValue::f32(spec_.norm_eps));
  if (architecture_ == "gemma3" || architecture_ == "phi3")
    u32("attention.sliding_window", windowed ? spec_.window : 0);
  if (architecture_ == "qwen3vl")
    u32("n_deepstack_layers", static_cast<int64_t>(model.spec().vision.deepstack_blocks.size()));
}

void GgufTextModel::add_rope_keys() {
  const Rope& rope = spec_.rope;
  const auto add = [this](const char* key, GgufValue value) {
    metadata_.emplace_back(architecture_ + ".rope." + key, std::move(value));
  };
  const int64_t channels = rope.rotary_dim > 0 ? rope.rotary_dim : spec_.head_dim;
  add("dimension_count", GgufValue::u32(static_cast<uint64_t>(channels)));
  add("freq_base", GgufValue::f32(rope.theta));
  if (!rope.mrope_section.empty()) {
    std::vector<int64_t> sections = rope.mrope_section;
    sections.resize(4, 0);
    add("dimension_sections", GgufValue::i32s(std::move(sections)));
  }
  const auto original = GgufValue::u32(static_cast<uint64_t>(rope.original_max_positions));
  switch (rope.kind) {
    case Rope::Kind::standard:
      break;
    case Rope::Kind::linear:
      add("scaling.type", GgufValue::text("linear"));
      add("scaling.factor", GgufValue::f32(rope.factor));
      break;
    case Rope::Kind::llama3:
      tensors_.push_back({.name = "rope_freqs.weight",
                          .source = "",
                          .shape = {channels / 2},
                          .made_up = llama3_divisors(rope, channels)});
      break;
    case Rope::Kind::longrope:
      add("scaling.original_context_length", original);
      add("scaling.attn_factor", GgufValue::f32(rope.attention_factor));
      for (const auto& [name, values] : {std::pair{"rope_factors_long.weight", rope.long_factors},
                                         std::pair{"rope_factors_short.weight", rope.short_factors}})
        tensors_.push_back({.name = name, .source = "", .shape = {channels / 2}, .made_up = factors(values)});
      break;
  }
}

void GgufTextModel::add_tensors(const Model& model) {
  const std::string& prefix = model.spec().decoder_prefix;
  const auto add = [&](const char* name, const std::string& canonical, std::vector<int64_t> shape,
                       bool plus_one) {
    const std::string source = model.names().source(canonical);
    if (source.empty())
      fail("{}: tensor '{}' is missing", model.checkpoint().directory().string(), canonical);
    tensors_.push_back({.name = name, .source = source, .shape = std::move(shape), .plus_one = plus_one});
  };
  add("token_embd.weight", prefix + "embed_tokens.weight", {spec_.vocab, spec_.hidden}, false);
  for (int64_t layer = 0; layer < spec_.layers; ++layer) add_layer(model, layer);
  add("output_norm.weight", prefix + "norm.weight", {spec_.hidden}, spec_.norm_plus_one);
  // Without one, llama.cpp takes the embedding.
  if (!model.names().source("lm_head.weight").empty())
    add("output.weight", "lm_head.weight", {spec_.vocab, spec_.hidden}, false);
}

void GgufTextModel::add_layer(const Model& model, int64_t layer) {
  const std::string path = visq::format("{}layers.{}.", model.spec().decoder_prefix, layer);
  const auto name = [layer](const char* stem, const char* part) {
    return visq::format("blk.{}.{}.{}", layer, stem, part);
  };
  const auto add_norm = [&](const char* stem, const std::string& norm, int64_t channels) {
    const std::string source = model.names().source(path + norm + ".weight");
    if (source.empty())
      fail("{}: tensor '{}{}.weight' is missing", model.checkpoint().directory().string(), path, norm);
    tensors_.push_back({.name = name(stem, "weight"),
                        .source = source,
                        .shape = {channels},
                        .layer = layer,
                        .plus_one = spec_.norm_plus_one});
  };
  add_norm("attn_norm", nn::norm_path(spec_, nn::InputGroup::attn_in), spec_.hidden);
  add_norm("ffn_norm", nn::norm_path(spec_, nn::InputGroup::mlp_in), spec_.hidden);
  if (spec_.sandwich_norms) {
    add_norm("post_attention_norm", "post_attention_layernorm", spec_.hidden);
    add_norm("post_ffw_norm", "post_feedforward_layernorm", spec_.hidden);
  }
  if (spec_.qk_norm) {
    add_norm("attn_q_norm", "self_attn.q_norm", spec_.head_dim);
    add_norm("attn_k_norm", "self_attn.k_norm", spec_.head_dim);
  }
  for (const nn::LinearId& id : nn::linears(spec_, layer)) {
    const std::string module = model.names().module(model.spec(), layer, id);
    const auto [rows, columns] = nn::extent_of(spec_, layer, id);
    const int64_t heads = architecture_ != "llama" ? 0
                          : id.role == Role::q     ? spec_.heads
                          : id.role == Role::k     ? spec_.kv_heads
                                                   : 0;
    tensors_.push_back({.name = name(stem_of(id.role), "weight"),
                        .source = module + ".weight",
                        .shape = {rows, columns},
                        .linear = id,
                        .layer = layer,
                        .permuted_heads = heads});
    if (model.checkpoint().contains(module + ".bias"))
      tensors_.push_back({.name = name(stem_of(id.role), "bias"),
                          .source = module + ".bias",
                          .shape = {rows},
                          .layer = layer,
                          .permuted_heads = heads});
  }
}

// What is left of a layer would change its results.
void GgufTextModel::check_complete(const Model& model) const {
  std::set<std::string> modules;
  for (const GgufTextTensor& tensor : tensors_) modules.insert(parent_of(tensor.source));
  const std::string layers = model.spec().decoder_prefix + "layers.";
  for (const std::string& name : model.checkpoint().names()) {
    const std::string canonical = NameMap::canonical(model.spec(), name);
    if (!canonical.starts_with(layers) || canonical.ends_with(".inv_freq")) continue;
    // Scales lie in the module of their linear, or one below; those of a KV cache are not asked for here.
    const bool known = std::ranges::any_of(modules, [&](const std::string& module) {
      return !module.empty() && name.starts_with(module + ".");
    });
    const bool of_cache = canonical.find("self_attn.k_") != std::string::npos ||
                          canonical.find("self_attn.v_") != std::string::npos ||
                          canonical.find("self_attn.k_proj.") != std::string::npos;
    if (!known && !of_cache)
      fail("--to gguf: tensor '{}' has no place in the architecture '{}' of llama.cpp", name, architecture_);
  }
}

}  // namespace visq

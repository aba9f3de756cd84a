#include <algorithm>
#include <cmath>

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §5.5.

namespace visq {
namespace {

using nn::ProjectorOp;

const TowerNames kNames{.patch = "patch_embedding.linear",
                        .patch_is_linear = true,
                        .class_embedding = "class_embedding",
                        .position_table = "positional_embedding_vlm",
                        .pre_norm = "layernorm_pre",
                        .post_norm = "layernorm_post",
                        .blocks = "model.layers.",
                        .norm1 = "input_layernorm",
                        .norm2 = "post_attention_layernorm",
                        .q = "self_attn.q_proj",
                        .k = "self_attn.k_proj",
                        .v = "self_attn.v_proj",
                        .out = "self_attn.o_proj",
                        .fc1 = "mlp.fc1",
                        .fc2 = "mlp.fc2"};

/// A list of one entry a layer under `key`; empty when absent, null or empty.
template <typename T>
std::vector<T> read_per_layer(const Json& text, const std::string& key, int64_t layers,
                              const std::string& origin) {
  auto list = get_or<std::vector<T>>(text, key, {}, origin);
  if (!list.empty() && static_cast<int64_t>(list.size()) < layers)
    fail("{}: '{}' has {} entries for {} layers", origin, key, list.size(), layers);
  return list;
}

/// Files have true, or the 4 that the flag once was.
bool read_flag(const Json& text, const std::string& key, bool fallback, const std::string& origin) {
  if (text.contains(key) && text.at(key).is_number_integer())
    return get_or<int64_t>(text, key, 0, origin) != 0;
  return get_or<bool>(text, key, fallback, origin);
}

/// Which layers know where tokens stand, and which of them see their chunk only.
void read_attention(const Json& text, nn::DecoderSpec& spec, const std::string& origin) {
  spec.rope.neighbours = true;
  spec.chunked = true;
  spec.unit_heads = get_or<bool>(text, "use_qk_norm", true, origin);
  const bool null_chunk = text.contains("attention_chunk_size") && text.at("attention_chunk_size").is_null();
  if (!null_chunk) spec.window = read_extent(text, "attention_chunk_size", 8192, 1 << 30, origin);
  if (read_flag(text, "attn_temperature_tuning", true, origin)) {
    spec.query_growth = get_or<double>(text, "attn_scale", 0.1, origin);
    spec.query_step = get_or<double>(text, "floor_scale", 8192, origin);
    if (!(spec.query_step > 0)) fail("{}: 'floor_scale' must be positive", origin);
  }
  const int64_t interval = read_extent(text, "no_rope_layer_interval", 4, 1 << 20, origin);
  const auto rotated = read_per_layer<int64_t>(text, "no_rope_layers", spec.layers, origin);  // 1: with rope
  const auto types = read_per_layer<std::string>(text, "layer_types", spec.layers, origin);
  for (int64_t layer = 0; layer < spec.layers; ++layer) {
    const auto i = static_cast<size_t>(layer);
    spec.unrotated.push_back(rotated.empty() ? (layer + 1) % interval == 0 : rotated[i] == 0);
    spec.windowed.push_back(types.empty() ? !spec.unrotated.back() : types[i] == "chunked_attention");
  }
}

/// intermediate_size is that of an expert and of the shared MLP.
void read_experts(const Json& text, nn::DecoderSpec& spec, const std::string& origin) {
  nn::ExpertsSpec& experts = spec.experts;
  experts.routing = nn::ExpertsSpec::Routing::sigmoid_input;
  experts.count = read_extent(text, "num_local_experts", 16, 4096, origin);
  experts.per_token = read_extent(text, "num_experts_per_tok", 1, experts.count, origin);
  experts.intermediate = experts.shared = spec.intermediate;
  spec.intermediate = read_extent(text, "intermediate_size_mlp", 16384, 1 << 20, origin);
  const int64_t step = read_extent(text, "interleave_moe_layer_step", 1, 1 << 20, origin);
  const bool listed = text.contains("moe_layers") && !text.at("moe_layers").is_null();
  const std::vector<int64_t> layers = read_integers(text, "moe_layers", origin);
  for (int64_t layer = 0; layer < spec.layers; ++layer)
    experts.sparse.push_back(listed ? std::ranges::find(layers, layer) != layers.end()
                                    : (layer + 1) % step == 0);
}

Tower read_vision(const Json& given, const std::string& origin) {
  // The base of the reading is SigLIP's; the epsilon is fixed in the reference.
  Json vision = {{"hidden_size", 768},        {"intermediate_size", 5632}, {"num_hidden_layers", 34},
                 {"num_attention_heads", 16}, {"image_size", 448},         {"patch_size", 14},
                 {"hidden_act", "gelu"}};
  for (const auto& [key, value] : given.items())
    if (key != "model_type") vision[key] = value;
  vision["layer_norm_eps"] = 1e-5;
  Tower tower = read_tower(vision, "siglip_vision_model", origin);
  tower.names = kNames;
  nn::VisionSpec& spec = tower.spec;
  spec.activation = nn::Activation::gelu;  // whatever 'hidden_act' says: so the reference
  spec.class_token = spec.class_token_last = spec.drop_class_token = true;
  spec.pre_norm = spec.post_norm = true;
  spec.patch_bias = false;
  read_tower_rope(vision, nn::VisionRope::neighbours, spec, origin);
  return tower;
}

/// Patches a side that the projector makes one of.
int64_t read_merge(const Json& vision, const nn::VisionSpec& tower, const std::string& origin) {
  const double ratio = get_or<double>(vision, "pixel_shuffle_ratio", 0.5, origin);
  const int64_t side = tower.image_size / tower.patch;
  const double merge = 1 / ratio;
  if (!(ratio > 0) || merge != std::floor(merge) || merge > static_cast<double>(side) ||
      side % static_cast<int64_t>(merge) != 0)
    fail("{}: 'pixel_shuffle_ratio' {} does not divide the {} × {} patches of a tile", origin, ratio, side,
         side);
  return static_cast<int64_t>(merge);
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& text = object_or(config, "text_config", none);
  const Json& vision = object_or(config, "vision_config", none);
  const TextDefaults& defaults = text_defaults("llama4_text", origin);
  ModelSpec spec;
  spec.family = "llama4";
  spec.decoder = read_decoder(text, defaults, origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  read_attention(text, spec.decoder, origin);
  read_experts(text, spec.decoder, origin);
  Tower tower = read_vision(vision, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  const ProjectorOp gelu = ProjectorOp::activation(nn::Activation::gelu);
  const int64_t inner = read_extent(vision, "projector_input_dim", 4096, 1 << 20, origin),
                outer = read_extent(vision, "projector_output_dim", 4096, 1 << 20, origin);
  spec.projector = {
      ProjectorOp::unshuffle(read_merge(vision, spec.vision, origin)),
      ProjectorOp::linear("vision_model.vision_adapter.mlp.fc1", inner, /*bias=*/false),
      gelu,
      ProjectorOp::linear("vision_model.vision_adapter.mlp.fc2", outer, /*bias=*/false),
      gelu,
      ProjectorOp::linear("multi_modal_projector.linear_1", spec.decoder.hidden, /*bias=*/false)};

  spec.name_rules = {{"language_model.lm_head.", "lm_head.", {}},
                     {".feed_forward.router.", ".mlp.gate.", {}},
                     {".feed_forward.", ".mlp.", {}}};
  spec.decoder_prefix = "language_model.model.";
  spec.tower_prefix = "vision_model.";
  spec.projector_prefix = "";  // its linears are in two places
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "vision_model.rotary_embedding.*"};
  spec.image_token_id = read_image_token(config, 200092, origin);
  spec.image_token = "<|patch|>";
  spec.image_placeholder = "<|image|>";
  spec.layout.kind = ImageLayout::Kind::tagged;
  spec.layout.before = "<|image_start|>";
  spec.layout.tile_gap = "<|tile_x_separator|>";
  spec.layout.line_end = "<|tile_y_separator|>";
  spec.layout.global_tag = "<|image|>";
  spec.layout.after = "<|image_end|>";
  spec.prompt = PromptStyle::llama_4;
  spec.eos_ids = read_eos(config, text, defaults, origin);
  spec.bos_id = read_bos(text, defaults, origin);
  spec.unquantized_roots = {"lm_head", "language_model.lm_head", "vision_model", "multi_modal_projector"};
  return spec;
}

}  // namespace

Family llama4_family() {
  return {"llama4", {"Llama4ForConditionalGeneration"}, "Llama 4 (Scout, Maverick)", describe};
}

}  // namespace visq

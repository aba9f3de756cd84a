#include <algorithm>

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §5.2.

namespace visq {
namespace {

constexpr TextDefaults kText{.vocab = 128256,
                             .hidden = 4096,
                             .intermediate = 14336,
                             .layers = 40,
                             .heads = 32,
                             .kv_heads = 8,
                             .max_positions = 131072,
                             .norm_eps = 1e-5,
                             .theta = 5e5,
                             .bos = 128000,
                             .eos = 128001};
constexpr int64_t kExtraEmbeddings = 8;  // fixed in the reference
constexpr int64_t kMaxTiles = 64;

const TowerNames kNames{.patch = "patch_embedding",
                        .class_embedding = "class_embedding",
                        .position_table = "gated_positional_embedding.embedding",
                        .pre_norm = "layernorm_pre",
                        .post_norm = "layernorm_post",
                        .blocks = "transformer.layers.",
                        .norm1 = "input_layernorm",
                        .norm2 = "post_attention_layernorm",
                        .q = "self_attn.q_proj",
                        .k = "self_attn.k_proj",
                        .v = "self_attn.v_proj",
                        .out = "self_attn.o_proj",
                        .fc1 = "mlp.fc1",
                        .fc2 = "mlp.fc2",
                        .scale1 = "gate_attn",
                        .scale2 = "gate_ffn",
                        .position_gate = "gated_positional_embedding.gate",
                        .tile_positions = "gated_positional_embedding.tile_embedding.weight",
                        .pre_tile = "pre_tile_positional_embedding",
                        .post_tile = "post_tile_positional_embedding",
                        .global_blocks = "global_transformer.layers."};

/// Grids of tiles, rows × columns, in the order of the tile tables.
std::vector<nn::Grid> read_tilings(const Json& vision, int64_t max_tiles, const std::string& origin) {
  std::vector<nn::Grid> tilings;
  for (const auto& tiling : get_or<std::vector<std::vector<int64_t>>>(
           vision, "supported_aspect_ratios",
           {{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 1}, {2, 2}, {3, 1}, {4, 1}}, origin)) {
    const bool fits = tiling.size() == 2 && tiling[0] > 0 && tiling[1] > 0 && tiling[0] <= max_tiles &&
                      tiling[1] <= max_tiles && tiling[0] * tiling[1] <= max_tiles;
    if (!fits || tilings.size() == static_cast<size_t>(kMaxTiles * kMaxTiles))
      fail("{}: 'supported_aspect_ratios' must be grids of at most 'max_num_tiles' {} tiles", origin,
           max_tiles);
    tilings.emplace_back(tiling[0], tiling[1]);
  }
  return tilings;
}

Tower read_vision(const Json& given, const std::string& origin) {
  // The base of the reading is SigLIP's; the names of some keys differ.
  Json vision = {{"hidden_size", 1280},       {"intermediate_size", 5120}, {"num_hidden_layers", 32},
                 {"num_attention_heads", 16}, {"image_size", 448},         {"patch_size", 14},
                 {"layer_norm_eps", 1e-5},    {"hidden_act", "gelu"}};
  for (const auto& [key, value] : given.items()) {
    if (key == "model_type") continue;
    vision[key == "attention_heads" ? "num_attention_heads"
           : key == "norm_eps"      ? "layer_norm_eps"
                                    : key] = value;
  }
  Tower tower = read_tower(vision, "siglip_vision_model", origin);
  tower.names = kNames;
  nn::VisionSpec& spec = tower.spec;
  if (spec.norm_eps != 1e-5)
    fail("{}: 'norm_eps' is {}, but the norms around the tower have 1e-5", origin, spec.norm_eps);
  spec.class_token = spec.pre_norm = spec.post_norm = true;
  spec.patch_bias = spec.qkv_bias = spec.out_bias = false;
  spec.positions = nn::VisionPositions::gated;
  spec.joined_tiles = read_extent(vision, "max_num_tiles", 4, kMaxTiles, origin);
  spec.tilings = read_tilings(vision, spec.joined_tiles, origin);
  spec.global_layers = read_extent(vision, "num_global_layers", 8, 1024, origin);
  spec.tapped_blocks = read_integers(vision, "intermediate_layers_indices", origin);
  if (spec.tapped_blocks.empty()) spec.tapped_blocks = {3, 7, 15, 23, 30};
  const std::vector<int64_t>& taps = spec.tapped_blocks;
  const bool ascending = std::ranges::adjacent_find(taps, std::ranges::greater_equal{}) == taps.end();
  if (!ascending || taps.front() < 0 || taps.back() >= spec.layers)
    fail("{}: 'intermediate_layers_indices' must be ascending indices of the tower's {} layers", origin,
         spec.layers);
  const int64_t out = spec.width * (1 + static_cast<int64_t>(taps.size()));
  if (const int64_t said = get_or<int64_t>(vision, "vision_output_dim", 7680, origin); said != out)
    fail("{}: 'vision_output_dim' is {}, but the tower's features have {} channels", origin, said, out);
  return tower;
}

/// Which layers are cross layers; indices beyond the last layer are left out, as in the reference.
std::vector<bool> read_cross_layers(const Json& text, int64_t layers, const std::string& origin) {
  std::vector<int64_t> indices = read_integers(text, "cross_attention_layers", origin);
  const bool absent = !text.contains("cross_attention_layers") || text.at("cross_attention_layers").is_null();
  if (absent) indices = {3, 8, 13, 18, 23, 28, 33, 38};
  std::vector<bool> cross(static_cast<size_t>(layers), false);
  for (const int64_t index : indices) {
    if (index < 0) fail("{}: 'cross_attention_layers' holds {}", origin, index);
    if (index < layers) cross[static_cast<size_t>(index)] = true;
  }
  return cross;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& text = object_or(config, "text_config", none);
  ModelSpec spec;
  spec.family = "mllama";
  spec.decoder = read_decoder(text, kText, origin);
  spec.decoder.cross = read_cross_layers(text, spec.decoder.layers, origin);
  spec.decoder.extra_embeddings = kExtraEmbeddings;
  Tower tower = read_vision(object_or(config, "vision_config", none), origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  spec.projector = {nn::ProjectorOp::linear("multi_modal_projector", spec.decoder.hidden)};

  spec.name_rules = {{"language_model.lm_head.", "lm_head.", {}},
                     {"language_model.model.", "model.language_model.", {}},
                     {"vision_model.", "model.vision_model.", {}},
                     {"multi_modal_projector.", "model.multi_modal_projector.", {}}};
  spec.decoder_prefix = "model.language_model.";
  spec.tower_prefix = "model.vision_model.";
  spec.projector_prefix = "model.";  // the projector is one linear
  spec.ignored_patterns = {"*.rotary_emb.inv_freq"};
  spec.image_token_id = read_image_token(config, 128256, origin);
  spec.image_token = "<|image|>";
  spec.layout.kind = ImageLayout::Kind::cross;
  spec.prompt = PromptStyle::llama_3_2;
  spec.eos_ids = read_eos(config, text, kText, origin);
  spec.bos_id = read_bos(text, kText, origin);
  spec.unquantized_roots = {"lm_head",
                            "language_model.lm_head",
                            "vision_model",
                            "model.vision_model",
                            "multi_modal_projector",
                            "model.multi_modal_projector"};
  return spec;
}

}  // namespace

Family mllama_family() {
  return {"mllama", {"MllamaForConditionalGeneration"}, "Llama 3.2 Vision (11B, 90B)", describe};
}

}  // namespace visq

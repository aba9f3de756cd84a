#include "visq/families/qwen2_5_vl.h"

#include <algorithm>
#include <numeric>

#include "visq/families/config.h"

// Source: spec/models-llava-vila-qwen.md §1.1–1.3, §2, §7, §8.

namespace visq {
namespace {

constexpr TextDefaults kText{.vocab = 152064,
                             .hidden = 8192,
                             .intermediate = 29568,
                             .layers = 80,
                             .heads = 64,
                             .kv_heads = 8,
                             .max_positions = 32768,
                             .norm_eps = 1e-5,
                             .theta = 1e6,
                             .biases = TextDefaults::Biases::qkv,
                             .window = TextDefaults::Window::when_enabled,
                             .bos = 151643,
                             .eos = 151645};

const TowerNames kTowerNames{.patch = "patch_embed.proj",
                             .blocks = "blocks.",
                             .norm1 = "norm1",
                             .norm2 = "norm2",
                             .qkv = "attn.qkv",
                             .out = "attn.proj",
                             .gate = "mlp.gate_proj",
                             .up = "mlp.up_proj",
                             .down = "mlp.down_proj"};

nn::VisionSpec read_tower(const Json& vision, const std::string& origin) {
  nn::VisionSpec spec;
  spec.layers = read_extent(vision, "depth", 32, 1024, origin);
  spec.width = read_extent(vision, "hidden_size", 3584, 1 << 20, origin);
  spec.mlp_width = read_extent(vision, "intermediate_size", 3420, 1 << 20, origin);
  spec.heads = read_extent(vision, "num_heads", 16, 1 << 20, origin);
  spec.patch = read_extent(vision, "patch_size", 14, 1024, origin);
  spec.temporal_patch = read_extent(vision, "temporal_patch_size", 2, 1024, origin);
  spec.merge = read_extent(vision, "spatial_merge_size", 2, 64, origin);
  spec.window = read_extent(vision, "window_size", 112, 1 << 14, origin);
  spec.full_blocks = {7, 15, 23, 31};
  if (vision.contains("fullatt_block_indexes"))
    spec.full_blocks = read_integers(vision, "fullatt_block_indexes", origin);
  spec.activation = nn::parse_activation(get_or<std::string>(vision, "hidden_act", "silu", origin), origin);
  spec.norm_eps = 1e-6;  // fixed in the reference
  spec.rms_norm = spec.fused_qkv = spec.gated_mlp = true;
  spec.input = nn::VisionInput::patches;
  spec.positions = nn::VisionPositions::none;
  spec.rope = nn::VisionRope::shared;
  if (spec.width % (4 * spec.heads) != 0)
    fail("{}: tower width {} does not split into {} heads of a multiple of 4", origin, spec.width,
         spec.heads);
  if (spec.window < spec.merge * spec.patch)
    fail("{}: 'window_size' {} is smaller than a cell of {} pixels", origin, spec.window,
         spec.merge * spec.patch);
  if (get_or<int64_t>(vision, "in_channels", 3, origin) != 3) fail("{}: 'in_channels' is not 3", origin);
  return spec;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  // Hub files are flat; later ones nest the text fields, some with duplicates at the root.
  const bool nested = config.contains("text_config") && config.at("text_config").is_object();
  const Json& text = nested ? config.at("text_config") : config;
  const bool has_vision = config.contains("vision_config") && config.at("vision_config").is_object();
  const Json none = Json::object();
  const Json& vision = has_vision ? config.at("vision_config") : none;

  ModelSpec spec;
  spec.family = "qwen2_5_vl";
  spec.decoder = read_decoder(text, kText, origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  auto& section = spec.decoder.rope.mrope_section;
  if (section.empty()) section = {16, 24, 24};
  const bool positive = std::ranges::all_of(section, [](int64_t count) { return count >= 0; });
  if (!positive || std::accumulate(section.begin(), section.end(), int64_t{0}) != spec.decoder.head_dim / 2)
    fail("{}: 'mrope_section' must add up to half of the head dimension {}", origin, spec.decoder.head_dim);
  spec.vision = read_tower(vision, origin);
  const int64_t out = read_extent(vision, "out_hidden_size", 3584, 1 << 20, origin);
  if (out != spec.decoder.hidden)
    fail("{}: 'out_hidden_size' is {}, but the text model's 'hidden_size' is {}", origin, out,
         spec.decoder.hidden);
  const int64_t merged = spec.vision.width * spec.vision.merge * spec.vision.merge;
  spec.projector = {nn::ProjectorOp::norm(nn::ProjectorOp::Kind::rms_norm, "ln_q", 1e-6),
                    nn::ProjectorOp::concat(spec.vision.merge), nn::ProjectorOp::linear("mlp.0", merged),
                    nn::ProjectorOp::activation(nn::Activation::gelu), nn::ProjectorOp::linear("mlp.2", out)};

  spec.name_rules = {{"visual.", "model.visual.", {}},
                     {"model.", "model.language_model.", {"model.language_model.", "model.visual."}}};
  spec.decoder_prefix = "model.language_model.";
  spec.tower_prefix = "model.visual.";
  spec.projector_prefix = "model.visual.merger.";
  spec.tower_names = kTowerNames;
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.rotary_pos_emb.inv_freq"};

  spec.image_token_id = get_or<int64_t>(config, "image_token_id", 151655, origin);
  spec.image_token = "<|image_pad|>";
  spec.prompt = PromptStyle::chatml;
  spec.mrope = true;
  spec.eos_ids = read_eos(config, text, kText, origin);
  spec.bos_id = kText.bos;
  if (const auto bos = read_integers(text, "bos_token_id", origin); !bos.empty()) spec.bos_id = bos.front();
  spec.unquantized_roots = {"lm_head", "visual", "model.visual"};
  return spec;
}

}  // namespace

Family qwen2_5_vl_family() {
  return {"qwen2_5_vl", {"Qwen2_5_VLForConditionalGeneration"}, "Qwen2.5-VL", describe};
}

}  // namespace visq

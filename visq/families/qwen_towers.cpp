#include <cmath>

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-llava-vila-qwen.md §1.2, §2, §7–9.

namespace visq {
namespace {

const TowerNames kPlainNames{.patch = "patch_embed.proj",
                             .blocks = "blocks.",
                             .norm1 = "norm1",
                             .norm2 = "norm2",
                             .qkv = "attn.qkv",
                             .out = "attn.proj",
                             .fc1 = "mlp.fc1",
                             .fc2 = "mlp.fc2"};

const TowerNames kGatedNames{.patch = "patch_embed.proj",
                             .blocks = "blocks.",
                             .norm1 = "norm1",
                             .norm2 = "norm2",
                             .qkv = "attn.qkv",
                             .out = "attn.proj",
                             .gate = "mlp.gate_proj",
                             .up = "mlp.up_proj",
                             .down = "mlp.down_proj"};

const TowerNames kQwen3Names{.patch = "patch_embed.proj",
                             .position_table = "pos_embed.weight",
                             .blocks = "blocks.",
                             .norm1 = "norm1",
                             .norm2 = "norm2",
                             .qkv = "attn.qkv",
                             .out = "attn.proj",
                             .fc1 = "mlp.linear_fc1",
                             .fc2 = "mlp.linear_fc2"};

/// What the three have in common.
/// @param width_key  the tower's own width: Qwen2-VL calls the text model's width hidden_size
nn::VisionSpec read_common(const Json& vision, const char* width_key, int64_t width, int64_t layers,
                           int64_t patch, const char* activation, const std::string& origin) {
  nn::VisionSpec spec;
  spec.layers = read_extent(vision, "depth", layers, 1024, origin);
  spec.width = read_extent(vision, width_key, width, 1 << 20, origin);
  spec.heads = read_extent(vision, "num_heads", 16, 1 << 20, origin);
  spec.patch = read_extent(vision, "patch_size", patch, 1024, origin);
  spec.temporal_patch = read_extent(vision, "temporal_patch_size", 2, 1024, origin);
  spec.merge = read_extent(vision, "spatial_merge_size", 2, 64, origin);
  spec.activation =
      nn::parse_activation(get_or<std::string>(vision, "hidden_act", activation, origin), origin);
  spec.norm_eps = 1e-6;  // fixed in the reference
  spec.fused_qkv = true;
  spec.input = nn::VisionInput::patches;
  spec.positions = nn::VisionPositions::none;
  spec.rope = nn::VisionRope::shared;
  if (spec.width % (4 * spec.heads) != 0)
    fail("{}: tower width {} does not split into {} heads of a multiple of 4", origin, spec.width,
         spec.heads);
  if (get_or<int64_t>(vision, "in_channels", 3, origin) != 3) fail("{}: 'in_channels' is not 3", origin);
  return spec;
}

}  // namespace

Tower read_qwen2_vl_tower(const Json& vision, const std::string& origin) {
  Tower tower{read_common(vision, "embed_dim", 1280, 32, 14, "quick_gelu", origin), kPlainNames};
  const auto ratio = get_or<double>(vision, "mlp_ratio", 4.0, origin);
  tower.spec.mlp_width = static_cast<int64_t>(static_cast<double>(tower.spec.width) * ratio);
  if (!(ratio > 0 && ratio < 1024) || tower.spec.mlp_width < 1)
    fail("{}: 'mlp_ratio' is {}, outside 0..1024", origin, ratio);
  return tower;
}

Tower read_qwen2_5_vl_tower(const Json& vision, const std::string& origin) {
  Tower tower{read_common(vision, "hidden_size", 3584, 32, 14, "silu", origin), kGatedNames};
  nn::VisionSpec& spec = tower.spec;
  spec.mlp_width = read_extent(vision, "intermediate_size", 3420, 1 << 20, origin);
  spec.window = read_extent(vision, "window_size", 112, 1 << 14, origin);
  spec.full_blocks = {7, 15, 23, 31};
  if (vision.contains("fullatt_block_indexes"))
    spec.full_blocks = read_integers(vision, "fullatt_block_indexes", origin);
  spec.rms_norm = spec.gated_mlp = true;
  if (spec.window < spec.merge * spec.patch)
    fail("{}: 'window_size' {} is smaller than a cell of {} pixels", origin, spec.window,
         spec.merge * spec.patch);
  return tower;
}

Tower read_qwen3_vl_tower(const Json& vision, const std::string& origin) {
  Tower tower{read_common(vision, "hidden_size", 1152, 27, 16, "gelu_pytorch_tanh", origin), kQwen3Names};
  nn::VisionSpec& spec = tower.spec;
  spec.mlp_width = read_extent(vision, "intermediate_size", 4304, 1 << 20, origin);
  spec.patch_bias = true;
  spec.positions = nn::VisionPositions::resampled;
  spec.position_rows = read_extent(vision, "num_position_embeddings", 2304, 1 << 24, origin);
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(spec.position_rows))));
  if (side * side != spec.position_rows)
    fail("{}: 'num_position_embeddings' {} is not the square of a side", origin, spec.position_rows);
  spec.deepstack_blocks = {8, 16, 24};
  if (vision.contains("deepstack_visual_indexes"))
    spec.deepstack_blocks = read_integers(vision, "deepstack_visual_indexes", origin);
  for (const int64_t block : spec.deepstack_blocks)
    if (block < 0 || block >= spec.layers)
      fail("{}: 'deepstack_visual_indexes' {} does not exist: the tower has {} blocks", origin, block,
           spec.layers);
  return tower;
}

}  // namespace visq

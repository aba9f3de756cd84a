// Small random blocks and towers, for the tests of nn.
#pragma once
#include "tests/unit/nn/reference.h"
#include "visq/nn/decoder.h"
#include "visq/nn/vision.h"

namespace visq::nn::test {

inline DecoderSpec tiny_spec() {
  DecoderSpec spec;
  spec.layers = 2, spec.hidden = 16, spec.intermediate = 24, spec.heads = 4, spec.kv_heads = 2,
  spec.head_dim = 8;
  spec.qkv_bias = true;
  return spec;
}

inline DecoderLayer random_layer(const DecoderSpec& spec, uint64_t seed) {
  const auto linear = [&seed](int64_t out, int64_t in, bool bias) {
    return Linear{random({out, in}, ++seed) * 0.2, bias ? random({out}, ++seed) * 0.2 : at::Tensor(), {}};
  };
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  DecoderLayer layer;
  layer.q = linear(queries, spec.hidden, true), layer.k = linear(keys, spec.hidden, true);
  layer.v = linear(keys, spec.hidden, true), layer.o = linear(spec.hidden, queries, false);
  layer.gate = linear(spec.intermediate, spec.hidden, false),
  layer.up = linear(spec.intermediate, spec.hidden, false);
  layer.down = linear(spec.hidden, spec.intermediate, false);
  layer.input_norm.weight = random({spec.hidden}, ++seed);
  layer.mlp_norm.weight = random({spec.hidden}, ++seed);
  return layer;
}

inline Linear random_linear(int64_t out, int64_t in, uint64_t seed) {
  return {random({out, in}, seed) * 0.2, random({out}, seed + 1) * 0.2, {}};
}

inline VisionSpec clip_spec() {
  VisionSpec spec;
  spec.layers = 3, spec.width = 16, spec.mlp_width = 20, spec.heads = 2, spec.patch = 3, spec.image_size = 7;
  spec.class_token = spec.pre_norm = true;
  return spec;
}

inline VisionTower clip_tower(const VisionSpec& spec) {
  VisionTower tower;
  tower.patch_weight = random({spec.width, 27}, 1) * 0.2;
  tower.class_embedding = random({spec.width}, 2);
  tower.position_table = random({5, spec.width}, 3);
  tower.pre_norm = {random({spec.width}, 4), random({spec.width}, 5)};
  for (uint64_t seed = 100; seed < 100 + 100 * static_cast<uint64_t>(spec.layers); seed += 100) {
    VisionBlock block;
    block.norm1 = {random({spec.width}, seed), random({spec.width}, seed + 1)};
    block.norm2 = {random({spec.width}, seed + 2), random({spec.width}, seed + 3)};
    block.q = random_linear(16, 16, seed + 4), block.k = random_linear(16, 16, seed + 6);
    block.v = random_linear(16, 16, seed + 8), block.out = random_linear(16, 16, seed + 10);
    block.fc1 = random_linear(20, 16, seed + 12), block.fc2 = random_linear(16, 20, seed + 14);
    tower.blocks.push_back(block);
  }
  return tower;
}

inline VisionSpec window_spec() {
  VisionSpec spec;
  spec.layers = 2, spec.width = 16, spec.mlp_width = 20, spec.heads = 2, spec.patch = 2,
  spec.temporal_patch = 2;
  spec.rms_norm = spec.fused_qkv = spec.gated_mlp = true;
  spec.input = VisionInput::patches;
  spec.positions = VisionPositions::none;
  spec.rope = VisionRope::shared;
  spec.merge = 2, spec.window = 8;  // windows of 2 x 2 cells
  spec.activation = Activation::silu;
  spec.norm_eps = 1e-6;
  return spec;
}

inline VisionTower window_tower(const VisionSpec& spec) {
  VisionTower tower;
  tower.patch_weight = random({spec.width, 24}, 1) * 0.2;
  for (uint64_t seed = 100; seed < 300; seed += 100) {
    VisionBlock block;
    block.norm1.weight = random({16}, seed), block.norm2.weight = random({16}, seed + 1);
    block.qkv = random_linear(48, 16, seed + 2), block.out = random_linear(16, 16, seed + 4);
    block.gate = random_linear(20, 16, seed + 6), block.up = random_linear(20, 16, seed + 8);
    block.down = random_linear(16, 20, seed + 10);
    tower.blocks.push_back(block);
  }
  return tower;
}

/// Tiles of one size. @param pixels [n, 3, h, w] → [n, tokens, channels]
inline at::Tensor tile_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& pixels) {
  const Grid grid{pixels.size(2) / spec.patch, pixels.size(3) / spec.patch};
  const TowerInput input{
      cut_patches(pixels, spec.patch), std::vector<Grid>(static_cast<size_t>(pixels.size(0)), grid), {}};
  const at::Tensor rows = run_tower(spec, tower, input).rows;
  return rows.view({pixels.size(0), -1, rows.size(1)});
}

/// Images of unlike sizes, as rows of patches.
inline TowerRows patch_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& patches,
                                const std::vector<Grid>& grids) {
  return run_tower(spec, tower, {patches, grids, {}});
}

}  // namespace visq::nn::test

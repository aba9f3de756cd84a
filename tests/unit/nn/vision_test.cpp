#include "visq/nn/vision.h"

#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;

Linear random_linear(int64_t out, int64_t in, uint64_t seed) {
  return {random({out, in}, seed) * 0.2, random({out}, seed + 1) * 0.2, {}};
}

VisionSpec clip_spec() {
  VisionSpec spec;
  spec.layers = 3, spec.width = 16, spec.mlp_width = 20, spec.heads = 2, spec.patch = 3, spec.image_size = 7;
  spec.class_token = spec.pre_norm = true;
  return spec;
}

VisionTower clip_tower(const VisionSpec& spec) {
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

TEST(VisionFeatures, OfTheEncoderInputAreTheConvolutionWithPositionsAndNorm) {
  VisionSpec spec = clip_spec();
  spec.feature_layers = {0};
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({2, 3, 7, 7}, 9);
  const at::Tensor patches =
      at::conv2d(pixels, tower.patch_weight.view({16, 3, 3, 3}), {}, {3, 3}).flatten(2).transpose(1, 2);
  const at::Tensor x = at::cat({tower.class_embedding.expand({2, 1, 16}), patches}, 1) + tower.position_table;
  const at::Tensor expected = at::layer_norm(x, {16}, tower.pre_norm.weight, tower.pre_norm.bias, 1e-5);
  EXPECT_LT(largest_difference(vision_features(spec, tower, pixels), expected), 1e-5);
}

TEST(VisionFeatures, CountLayersFromEitherEndAndConcatenateSeveral) {
  VisionSpec spec = clip_spec();
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({2, 3, 7, 7}, 9);
  const auto features = [&](std::vector<int64_t> layers) {
    spec.feature_layers = std::move(layers);
    return vision_features(spec, tower, pixels);
  };
  EXPECT_TRUE(at::equal(features({-2}), features({2})));
  EXPECT_TRUE(at::equal(features({}), features({3})));
  EXPECT_TRUE(at::equal(features({-1, 1}), at::cat({features({3}), features({1})}, -1)));
  EXPECT_THROW(features({4}), Error);
}

TEST(VisionFeatures, DropTheFirstTokenWhenAskedTo) {
  VisionSpec spec = clip_spec();
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({1, 3, 7, 7}, 9);
  const at::Tensor all = vision_features(spec, tower, pixels);
  spec.drop_class_token = true;
  EXPECT_EQ(all.size(1), 5);
  EXPECT_TRUE(at::equal(vision_features(spec, tower, pixels), all.narrow(1, 1, 4)));
}

TEST(VisionFeatures, OfAnImageDoNotDependOnTheOthers) {
  const VisionSpec spec = clip_spec();
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({3, 3, 7, 7}, 9);
  const at::Tensor together = vision_features(spec, tower, pixels);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_LT(
        largest_difference(vision_features(spec, tower, pixels.narrow(0, i, 1)), together.narrow(0, i, 1)),
        1e-5);
}

VisionSpec window_spec() {
  VisionSpec spec;
  spec.layers = 2, spec.width = 16, spec.mlp_width = 20, spec.heads = 2, spec.patch = 2,
  spec.temporal_patch = 2;
  spec.rms_norm = spec.fused_qkv = spec.gated_mlp = true;
  spec.position_table = false;
  spec.merge = 2, spec.window = 8;  // windows of 2 x 2 cells
  spec.activation = Activation::silu;
  spec.norm_eps = 1e-6;
  return spec;
}

VisionTower window_tower(const VisionSpec& spec) {
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

/// Rows in image order.
at::Tensor restored(const VisionSpec& spec, const PatchFeatures& features) {
  const int64_t cell = spec.merge * spec.merge, rows = features.rows.size(0);
  return features.rows.view({rows / cell, -1}).index_select(0, features.restore).view({rows, -1});
}

TEST(PatchFeatures, WindowsDoNotSeeOneAnother) {
  const VisionSpec spec = window_spec();
  const VisionTower tower = window_tower(spec);
  const at::Tensor patches = random({6 * 4, 24}, 7);
  const at::Tensor before = restored(spec, patch_features(spec, tower, patches, {{6, 4}}));
  at::Tensor changed = patches.clone();
  changed.narrow(0, 16, 8) += 1;  // the third row of cells: the lower window
  const at::Tensor after = restored(spec, patch_features(spec, tower, changed, {{6, 4}}));
  EXPECT_LT(largest_difference(before.narrow(0, 0, 16), after.narrow(0, 0, 16)), 1e-6);
  EXPECT_GT(largest_difference(before.narrow(0, 16, 8), after.narrow(0, 16, 8)), 1e-3);
}

TEST(PatchFeatures, FullBlocksSeeTheWholeImageAndNoOther) {
  VisionSpec spec = window_spec();
  spec.full_blocks = {1};
  const VisionTower tower = window_tower(spec);
  const at::Tensor patches = random({24 + 16, 24}, 7);
  const at::Tensor before = restored(spec, patch_features(spec, tower, patches, {{6, 4}, {4, 4}}));
  at::Tensor changed = patches.clone();
  changed.narrow(0, 16, 8) += 1;
  const at::Tensor after = restored(spec, patch_features(spec, tower, changed, {{6, 4}, {4, 4}}));
  EXPECT_GT(largest_difference(before.narrow(0, 0, 16), after.narrow(0, 0, 16)), 1e-4);
  EXPECT_LT(largest_difference(before.narrow(0, 24, 16), after.narrow(0, 24, 16)), 1e-6);
}

TEST(PatchFeatures, TurnQueriesAndKeysWithRowAndColumn) {
  // Without rope, equal patches would give equal rows whatever their number; with it, two different patches
  // of one window tell their distance: swapping them along a row or along a column differs.
  VisionSpec spec = window_spec();
  const VisionTower tower = window_tower(spec);
  at::Tensor across = at::zeros({16, 24}), down = at::zeros({16, 24});
  across[0] += 1, across[1] += 2;  // (0, 0) and (0, 1)
  down[0] += 1, down[2] += 2;      // (0, 0) and (1, 0)
  const at::Tensor a = restored(spec, patch_features(spec, tower, across, {{4, 4}}));
  const at::Tensor d = restored(spec, patch_features(spec, tower, down, {{4, 4}}));
  EXPECT_GT(largest_difference(a[0], d[0]), 1e-4);
}

TEST(Project, MergesRowsAfterTheNorm) {
  ProjectorSpec spec;
  spec.norm = true, spec.merge_rows = 4;
  const Projector projector{{random({16}, 1), {}}, random_linear(64, 64, 2), random_linear(24, 64, 4)};
  const at::Tensor rows = random({8, 16}, 6);
  const at::Tensor normed = rows / (rows.square().mean(-1, true) + 1e-6).sqrt() * projector.norm.weight;
  const at::Tensor x =
      at::gelu(normed.view({2, 64}).matmul(projector.linear_1.weight.t()) + projector.linear_1.bias);
  const at::Tensor expected = x.matmul(projector.linear_2.weight.t()) + projector.linear_2.bias;
  EXPECT_LT(largest_difference(project(spec, projector, rows), expected), 1e-5);
}

}  // namespace
}  // namespace visq::nn

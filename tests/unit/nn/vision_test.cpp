#include "visq/nn/vision.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "tests/unit/nn/tiny_models.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::clip_spec;
using test::clip_tower;
using test::largest_difference;
using test::patch_features;
using test::random;
using test::tile_features;
using test::window_spec;
using test::window_tower;

TEST(VisionFeatures, OfTheEncoderInputAreTheConvolutionWithPositionsAndNorm) {
  VisionSpec spec = clip_spec();
  spec.feature_layers = {0};
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({2, 3, 7, 7}, 9);
  const at::Tensor patches =
      at::conv2d(pixels, tower.patch_weight.view({16, 3, 3, 3}), {}, {3, 3}).flatten(2).transpose(1, 2);
  const at::Tensor x = at::cat({tower.class_embedding.expand({2, 1, 16}), patches}, 1) + tower.position_table;
  const at::Tensor expected = at::layer_norm(x, {16}, tower.pre_norm.weight, tower.pre_norm.bias, 1e-5);
  EXPECT_LT(largest_difference(tile_features(spec, tower, pixels), expected), 1e-5);
}

TEST(VisionFeatures, CountLayersFromEitherEndAndConcatenateSeveral) {
  VisionSpec spec = clip_spec();
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({2, 3, 7, 7}, 9);
  const auto features = [&](std::vector<int64_t> layers) {
    spec.feature_layers = std::move(layers);
    return tile_features(spec, tower, pixels);
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
  const at::Tensor all = tile_features(spec, tower, pixels);
  spec.drop_class_token = true;
  EXPECT_EQ(all.size(1), 5);
  EXPECT_TRUE(at::equal(tile_features(spec, tower, pixels), all.narrow(1, 1, 4)));
}

TEST(VisionFeatures, OfAnImageDoNotDependOnTheOthers) {
  const VisionSpec spec = clip_spec();
  const VisionTower tower = clip_tower(spec);
  const at::Tensor pixels = random({3, 3, 7, 7}, 9);
  const at::Tensor together = tile_features(spec, tower, pixels);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_LT(
        largest_difference(tile_features(spec, tower, pixels.narrow(0, i, 1)), together.narrow(0, i, 1)),
        1e-5);
}

/// Rows in image order.
at::Tensor restored(const VisionSpec& spec, const TowerRows& features) {
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

/// A tower of plain blocks without positions, for rows of 12 numbers.
VisionSpec plain_spec() {
  VisionSpec spec;
  spec.layers = 2, spec.width = 16, spec.mlp_width = 20, spec.heads = 2, spec.patch = 2;
  spec.positions = VisionPositions::none;
  return spec;
}

VisionTower plain_tower(const VisionSpec& spec) {
  VisionTower tower = clip_tower(clip_spec());
  tower.patch_weight = random({16, 12}, 7) * 0.2;
  tower.blocks.resize(static_cast<size_t>(spec.layers));
  for (VisionBlock& block : tower.blocks) {
    block.scale1 = random({16}, 8), block.scale2 = random({16}, 9);
    block.q_norm.weight = at::full({16}, 2.0), block.k_norm.weight = at::full({16}, 0.5);
  }
  tower.post_norm = {random({16}, 10), random({16}, 11)};
  return tower;
}

TEST(Tower, PatchesThatShowNothingAreSeenByNone) {
  const VisionSpec spec = plain_spec();
  const VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12 + 4, 12}, 1);
  at::Tensor mask = at::ones({16}, at::kBool);
  mask.narrow(0, 4, 8).fill_(false);  // the second and the third row of the first image
  const std::vector<Grid> grids = {{3, 4}, {1, 4}};
  const at::Tensor rows = run_tower(spec, tower, {patches, grids, mask}).rows;
  const at::Tensor shown = at::cat({patches.narrow(0, 0, 4), patches.narrow(0, 12, 4)});
  const at::Tensor expected = run_tower(spec, tower, {shown, {{1, 4}, {1, 4}}, {}}).rows;
  EXPECT_EQ(rows.size(0), 16);
  EXPECT_LT(largest_difference(rows.narrow(0, 0, 4), expected.narrow(0, 0, 4)), 1e-5);
  EXPECT_LT(largest_difference(rows.narrow(0, 12, 4), expected.narrow(0, 4, 4)), 1e-5);
  at::Tensor changed = patches.clone();
  changed[5] += 1;
  const at::Tensor after = run_tower(spec, tower, {changed, grids, mask}).rows;
  EXPECT_GT(largest_difference(rows[5], after[5]), 1e-3);  // it has a row of its own all the same
  EXPECT_TRUE(at::equal(rows.narrow(0, 0, 5), after.narrow(0, 0, 5)));
}

TEST(Tower, AMaskThatHidesNothingChangesNothing) {
  const VisionSpec spec = plain_spec();
  const VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);
  const at::Tensor masked = run_tower(spec, tower, {patches, {{3, 4}}, at::ones({12}, at::kBool)}).rows;
  EXPECT_TRUE(at::equal(masked, run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows));
}

TEST(Tower, ScalesItsBranches) {
  const VisionSpec spec = plain_spec();
  VisionTower tower = plain_tower(spec), unscaled = tower;
  for (VisionBlock& block : unscaled.blocks) block.scale1 = block.scale2 = at::Tensor();
  const at::Tensor patches = random({12, 12}, 1);
  const at::Tensor plain = run_tower(spec, unscaled, {patches, {{3, 4}}, {}}).rows;
  EXPECT_GT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, plain), 1e-3);
  for (VisionBlock& block : tower.blocks) block.scale1 = block.scale2 = at::ones({16});
  EXPECT_TRUE(at::equal(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, plain));
  for (VisionBlock& block : tower.blocks) block.scale1 = block.scale2 = at::zeros({16});
  EXPECT_LT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows,
                               patches.matmul(tower.patch_weight.t())),
            1e-5);
}

TEST(Tower, NormsQueriesOverAllHeadsTogether) {
  VisionSpec spec = plain_spec();
  spec.layers = 1, spec.qk_norm = true;
  VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);
  const at::Tensor before = run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows;
  // What is the same factor for all heads falls out of the norm.
  tower.blocks[0].q.weight = tower.blocks[0].q.weight * 3,
  tower.blocks[0].q.bias = tower.blocks[0].q.bias * 3;
  EXPECT_LT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, before), 1e-4);
  // A factor for one head does not.
  tower.blocks[0].q.weight.narrow(0, 0, 8) *= 3, tower.blocks[0].q.bias.narrow(0, 0, 8) *= 3;
  EXPECT_GT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, before), 1e-3);
}

TEST(Tower, FusedQueriesAreNormedLikeSeparateOnes) {
  VisionSpec spec = plain_spec();
  spec.layers = 1, spec.qk_norm = true, spec.qk_norm_eps = 1e-2;
  VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);
  const at::Tensor separate = run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows;
  VisionBlock& block = tower.blocks[0];
  block.qkv = {at::cat({block.q.weight, block.k.weight, block.v.weight}),
               at::cat({block.q.bias, block.k.bias, block.v.bias}),
               {}};
  spec.fused_qkv = true;
  EXPECT_LT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, separate), 1e-5);
  spec.qk_norm_eps = 1e-6;
  EXPECT_GT(largest_difference(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, separate), 1e-5);
}

TEST(Tower, NormalizesThePixelsOfEachChannel) {
  VisionSpec spec = plain_spec();
  VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);  // 2 × 2 pixels of three channels
  const at::Tensor mean = at::tensor({0.5F, 0.25F, -1.0F}), std = at::tensor({2.0F, 0.5F, 4.0F});
  const at::Tensor normalized =
      ((patches.view({12, 3, 4}) - mean.view({3, 1})) / std.view({3, 1})).view({12, 12});
  const at::Tensor expected = run_tower(spec, tower, {normalized, {{3, 4}}, {}}).rows;
  spec.normalizes = true;
  tower.pixel_mean = mean, tower.pixel_std = std;
  EXPECT_TRUE(at::equal(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, expected));
}

TEST(Tower, SeveralClassTokensStandBeforePlacedPatches) {
  VisionSpec spec = plain_spec();
  spec.layers = 0;
  spec.positions = VisionPositions::resampled;
  spec.class_token = true, spec.class_tokens = 3;
  VisionTower tower = plain_tower(spec);
  tower.class_embedding = random({3, 16}, 5);
  tower.position_table = random({9, 16}, 6);
  const at::Tensor patches = random({18, 12}, 1);  // two images of 3 × 3
  const at::Tensor rows = run_tower(spec, tower, {patches, {{3, 3}, {3, 3}}, {}}).rows.view({2, 12, 16});
  const at::Tensor placed = patches.matmul(tower.patch_weight.t()).view({2, 9, 16}) + tower.position_table;
  for (int64_t image = 0; image < 2; ++image) {
    EXPECT_TRUE(at::equal(rows[image].narrow(0, 0, 3), tower.class_embedding));
    EXPECT_LT(largest_difference(rows[image].narrow(0, 3, 9), placed[image]), 1e-5);
  }
  spec.drop_class_token = true;
  EXPECT_EQ(tower_tokens(spec, {3, 3}), 9);
  EXPECT_LT(largest_difference(run_tower(spec, tower, {patches, {{3, 3}, {3, 3}}, {}}).rows.view({2, 9, 16}),
                               placed),
            1e-5);
}

TEST(Tower, NormsWhatComesOutOfTheLastBlock) {
  VisionSpec spec = plain_spec();
  const VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);
  const at::Tensor plain = run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows;
  spec.post_norm = true;
  EXPECT_LT(largest_difference(
                run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows,
                at::layer_norm(plain, {16}, tower.post_norm.weight, tower.post_norm.bias, spec.norm_eps)),
            1e-5);
}

TEST(Tower, HandsOutTheBlocksThatGoToTheTextModel) {
  VisionSpec spec = plain_spec();
  const VisionTower tower = plain_tower(spec);
  const at::Tensor patches = random({12, 12}, 1);
  spec.deepstack_blocks = {0, 1};
  const TowerRows all = run_tower(spec, tower, {patches, {{3, 4}}, {}});
  ASSERT_EQ(all.deepstack.size(), 2u);
  EXPECT_TRUE(at::equal(all.deepstack[1], all.rows));
  spec.feature_layers = {1};
  EXPECT_TRUE(at::equal(run_tower(spec, tower, {patches, {{3, 4}}, {}}).rows, all.deepstack[0]));
}

TEST(CutPatches, FlattenEachChannelFirstAndLeaveARemainderOut) {
  const at::Tensor pixels = at::arange(2 * 3 * 5, at::kFloat).view({1, 2, 3, 5});
  const at::Tensor patches = cut_patches(pixels, 2);
  EXPECT_EQ(patches.size(0), 2);
  EXPECT_TRUE(at::equal(patches[1], at::tensor({2, 3, 7, 8, 17, 18, 22, 23}, at::kFloat)));
}

}  // namespace
}  // namespace visq::nn

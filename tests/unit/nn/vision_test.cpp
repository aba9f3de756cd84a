#include "visq/nn/vision.h"

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

}  // namespace
}  // namespace visq::nn

#include "visq/nn/vision_tiles.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/tiny_models.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;

constexpr int64_t kTiles = 3, kTokens = 5, kFilled = 8, kWidth = 16;

VisionSpec tiled_spec() {
  VisionSpec spec = test::clip_spec();
  spec.positions = VisionPositions::gated;
  spec.post_norm = true;
  spec.joined_tiles = kTiles;
  spec.tilings = {{1, 1}, {1, 2}, {2, 1}};
  spec.tapped_blocks = {0, 2};
  spec.global_layers = 1;
  return spec;
}

VisionTower tiled_tower(const VisionSpec& spec) {
  VisionTower tower = test::clip_tower(spec);
  tower.post_norm = {random({kWidth}, 6), random({kWidth}, 7)};
  tower.position_gate = at::tensor({0.6f});
  tower.tile_positions = random({4, kTiles * kTokens * kWidth}, 8);
  tower.pre_tile = {random({4, kTiles * kWidth}, 9), at::tensor({0.5f})};
  tower.post_tile = {random({4, kTiles * kWidth}, 10), at::tensor({-0.8f})};
  VisionBlock global = tower.blocks.front();
  global.scale1 = at::tensor({0.3f}), global.scale2 = at::tensor({0.9f});
  tower.global_blocks = {global};
  return tower;
}

/// A block of one image, with a mask that is added to the scores.
at::Tensor plain_block(const VisionBlock& block, const at::Tensor& x, const at::Tensor& mask) {
  const auto norm = [](const at::Tensor& t, const Norm& n) {
    return at::layer_norm(t, {kWidth}, n.weight, n.bias, 1e-5);
  };
  const auto linear = [](const Linear& l, const at::Tensor& t) { return t.matmul(l.weight.t()) + l.bias; };
  const auto gate = [](const at::Tensor& scale) { return scale.defined() ? scale.item<double>() : 1.0; };
  const at::Tensor n = norm(x, block.norm1);
  const at::Tensor q = linear(block.q, n), k = linear(block.k, n), v = linear(block.v, n);
  std::vector<at::Tensor> heads;
  for (int64_t h = 0; h < 2; ++h) {
    const auto own = [h](const at::Tensor& t) { return t.narrow(1, 8 * h, 8); };
    heads.push_back((own(q).matmul(own(k).t()) / std::sqrt(8.0) + mask).softmax(-1).matmul(own(v)));
  }
  const at::Tensor y = x + gate(block.scale1) * linear(block.out, at::cat(heads, 1));
  const at::Tensor m = linear(block.fc1, norm(y, block.norm2));
  return y + gate(block.scale2) * linear(block.fc2, m * (1.702 * m).sigmoid());
}

/// The specification of one image with a dense mask. @param patches  [shown tiles · 4, 27]
at::Tensor plain_tower(const VisionTower& tower, const at::Tensor& patches, int64_t row, int64_t shown) {
  at::Tensor x = at::zeros({kTiles, 4, 27});
  x.narrow(0, 0, shown).copy_(patches.view({shown, 4, 27}));
  x = x.matmul(tower.patch_weight.t());
  x = x + std::tanh(0.5) * tower.pre_tile.table[row].view({kTiles, 1, kWidth});
  x = at::cat({tower.class_embedding.expand({kTiles, 1, kWidth}), x}, 1);
  x = x + (1 - std::tanh(0.6)) * tower.position_table +
      std::tanh(0.6) * tower.tile_positions[row].view({kTiles, kTokens, kWidth});
  x = at::layer_norm(x, {kWidth}, tower.pre_norm.weight, tower.pre_norm.bias, 1e-5);
  at::Tensor filled = at::zeros({kTiles, kFilled, kWidth}), hidden = at::ones({kTiles, kFilled});
  filled.narrow(1, 0, kTokens).copy_(x);
  hidden.narrow(0, 0, shown).narrow(1, 0, kTokens).fill_(0);
  const at::Tensor column = hidden.view({-1, 1}), mask = column.matmul(column.t()) * -1e30;
  x = filled.view({-1, kWidth});
  std::vector<at::Tensor> states;
  for (const VisionBlock& block : tower.blocks) states.push_back(x = plain_block(block, x, mask));
  x = at::layer_norm(x, {kWidth}, tower.post_norm.weight, tower.post_norm.bias, 1e-5);
  x = (x.view({kTiles, kFilled, kWidth}) +
       std::tanh(-0.8) * tower.post_tile.table[row].view({kTiles, 1, kWidth}))
          .view({-1, kWidth});
  x = plain_block(tower.global_blocks.front(), x, mask);
  const at::Tensor all = at::cat({x, at::stack({states[0], states[2]}, -1).view({-1, 2 * kWidth})}, 1);
  return all.view({kTiles, kFilled, -1}).narrow(1, 0, kTokens).reshape({kTiles * kTokens, -1});
}

TEST(JoinedTiles, AreTheTowerOfTheSpecification) {
  const VisionSpec spec = tiled_spec();
  const VisionTower tower = tiled_tower(spec);
  const at::Tensor one = random({4, 27}, 20), two = random({8, 27}, 21);  // patches of one and of two tiles
  TowerInput input{at::zeros({2 * kTiles * 4, 27}), std::vector<Grid>(2 * kTiles, Grid{2, 2}), {}};
  input.patches.narrow(0, 0, 4).copy_(one);
  input.patches.narrow(0, kTiles * 4, 8).copy_(two);
  input.tilings = {{1, 1}, {2, 1}};
  const at::Tensor rows = run_tower(spec, tower, input).rows;
  ASSERT_EQ(rows.sizes().vec(), (std::vector<int64_t>{2 * kTiles * kTokens, 3 * kWidth}));
  EXPECT_LT(largest_difference(rows.narrow(0, 0, kTiles * kTokens), plain_tower(tower, one, 1, 1)), 2e-5);
  EXPECT_LT(
      largest_difference(rows.narrow(0, kTiles * kTokens, kTiles * kTokens), plain_tower(tower, two, 3, 2)),
      2e-5);
}

TEST(JoinedTiles, OfAnUnknownTilingAreRefused) {
  EXPECT_EQ(tiling_row(tiled_spec(), {1, 2}), 2);
  EXPECT_THROW(tiling_row(tiled_spec(), {1, 3}), Error);
}

TEST(JoinedTiles, AreFilledToAMultipleOfEight) {
  const TileFill tile = tile_fill(tiled_spec(), {2, 2});
  EXPECT_EQ(tile.filled, kFilled);
  const at::Tensor rows = random({2 * kTokens, 3}, 1), filled = tile.fill(rows);
  EXPECT_EQ(filled.size(0), 2 * kFilled);
  EXPECT_TRUE(at::equal(filled.narrow(0, kTokens, 3), at::zeros({3, 3})));
  EXPECT_TRUE(at::equal(tile.unfill(filled), rows));
}

}  // namespace
}  // namespace visq::nn

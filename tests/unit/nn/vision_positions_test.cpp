#include "visq/nn/vision_positions.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;

at::Tensor counting(int64_t count) { return at::arange(count, at::kLong); }

TEST(StretchedPositions, OfAFullTileAreTheTable) {
  for (const int64_t side : {26, 27, 32, 64, 70})
    EXPECT_TRUE(at::equal(stretched_positions({{side, side}}, {}, side), counting(side * side)));
}

TEST(StretchedPositions, SpreadTheVisibleRowsOverTheWholeTable) {
  at::Tensor mask = at::zeros({32, 32}, at::kBool);
  mask.narrow(0, 0, 20).fill_(true);
  const at::Tensor ids = stretched_positions({{32, 32}}, mask.flatten(), 32).view({32, 32});
  for (int64_t row = 0; row < 20; ++row) EXPECT_EQ(ids[row][0].item<int64_t>(), 32 * row / 20 * 32);
  EXPECT_TRUE(at::equal(ids[0], counting(32)));
  EXPECT_EQ(ids.narrow(0, 20, 12).sum().item<int64_t>(), 0);
}

TEST(StretchedPositions, CountEachTileByItself) {
  at::Tensor mask = at::ones({2, 4, 4}, at::kBool);
  mask[1].narrow(1, 2, 2).fill_(false);  // the second shows two columns of four
  const at::Tensor ids = stretched_positions({{4, 4}, {4, 4}}, mask.flatten(), 4);
  EXPECT_TRUE(at::equal(ids.narrow(0, 0, 16), counting(16)));
  EXPECT_TRUE(at::equal(ids.narrow(0, 16, 8), at::tensor({0, 2, 0, 0, 4, 6, 0, 0}, at::kLong)));
}

/// @param map  [channels, h, w] → rows in the order of cells of 2 × 2
at::Tensor cell_by_cell(const at::Tensor& map) {
  const int64_t channels = map.size(0), height = map.size(1), width = map.size(2);
  return map.view({channels, height / 2, 2, width / 2, 2}).permute({1, 3, 2, 4, 0}).reshape({-1, channels});
}

TEST(ResampledPositions, InterpolateTheTableCornerOnCorner) {
  const at::Tensor table = random({36, 5}, 1);
  const at::Tensor planes = table.view({1, 6, 6, 5}).permute({0, 3, 1, 2}).contiguous();
  std::vector<at::Tensor> expected;
  const std::vector<Grid> grids = {{4, 10}, {6, 6}, {2, 2}};
  for (const auto& [height, width] : grids)
    expected.push_back(cell_by_cell(at::upsample_bilinear2d(planes, {height, width}, true)[0].contiguous()));
  EXPECT_LT(largest_difference(resampled_positions(grids, table, 2), at::cat(expected)), 1e-6);
}

TEST(ResampledPositions, OfASinglePatchAreTheFirstRow) {
  const at::Tensor table = random({36, 5}, 1);
  EXPECT_TRUE(at::equal(resampled_positions({{1, 1}}, table, 1), table.narrow(0, 0, 1)));
}

VisionSpec rope_spec(VisionRope rope) {
  VisionSpec spec;
  spec.width = 16, spec.heads = 2, spec.rope = rope, spec.rope_theta = 10000;
  return spec;
}

TEST(VisionAngles, TurnRowsAndColumnsWithTheSameFrequencies) {
  // Heads of 8: frequencies 1 and 0.01, for rows and for columns, twice.
  const at::Tensor angles = vision_angles(rope_spec(VisionRope::shared), {{2, 3}});
  EXPECT_LT(largest_difference(angles[5], at::tensor({1.0, 0.01, 2.0, 0.02, 1.0, 0.01, 2.0, 0.02})), 1e-6);
}

TEST(VisionAngles, DealTheFrequenciesOutInTurnForPixtral) {
  // Heads of 8: frequencies 1, 0.1, 0.01, 0.001; rows take the first and the third.
  const at::Tensor angles = vision_angles(rope_spec(VisionRope::alternating), {{2, 3}});
  EXPECT_LT(largest_difference(angles[5], at::tensor({1.0, 0.01, 0.2, 0.002, 1.0, 0.01, 0.2, 0.002})), 1e-6);
}

}  // namespace
}  // namespace visq::nn

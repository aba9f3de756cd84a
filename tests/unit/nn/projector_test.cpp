#include "visq/nn/projector.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;
using Kind = ProjectorOp::Kind;
using Channels = ProjectorOp::Channels;
using Order = ProjectorOp::Order;

at::Tensor numbers(int64_t rows, int64_t channels) {
  return at::arange(rows * channels, at::kFloat).view({rows, channels});
}

at::Tensor literal(const std::vector<std::vector<float>>& rows) {
  std::vector<at::Tensor> parts;
  for (const auto& row : rows) parts.push_back(at::tensor(row));
  return at::stack(parts);
}

at::Tensor run(const ProjectorOp& op, const at::Tensor& rows, const std::vector<Grid>& grids) {
  return project({op}, {{}}, rows, grids);
}

TEST(Project, MergesRowsAfterTheNorm) {
  const ProjectorSpec spec = {ProjectorOp::norm(Kind::rms_norm, "ln_q", 1e-6), ProjectorOp::concat(2),
                              ProjectorOp::linear("mlp.0", 64), ProjectorOp::activation(Activation::gelu),
                              ProjectorOp::linear("mlp.2", 24)};
  const Projector projector = {{random({16}, 1), {}},
                               {},
                               {random({64, 64}, 2), random({64}, 3)},
                               {},
                               {random({24, 64}, 4), random({24}, 5)}};
  const at::Tensor rows = random({8, 16}, 6);
  const at::Tensor normed = rows / (rows.square().mean(-1, true) + 1e-6).sqrt() * projector[0].weight;
  const at::Tensor x = at::gelu(normed.view({2, 64}).matmul(projector[2].weight.t()) + projector[2].bias);
  const at::Tensor expected = x.matmul(projector[4].weight.t()) + projector[4].bias;
  EXPECT_LT(largest_difference(project(spec, projector, rows, {{2, 4}}), expected), 1e-4);
  EXPECT_EQ(projected_grid(spec, {2, 4}), (Grid{1, 2}));
  EXPECT_EQ(projected_channels(spec, 16), 24);
}

TEST(Project, UnshufflesCellsBeforeChannelsRowByRow) {
  // Grid of 2 x 4, two channels: patch (y, x) holds 8y + 2x and 8y + 2x + 1.
  EXPECT_TRUE(at::equal(run(ProjectorOp::unshuffle(2), numbers(8, 2), {{2, 4}}),
                        literal({{0, 1, 2, 3, 8, 9, 10, 11}, {4, 5, 6, 7, 12, 13, 14, 15}})));
}

TEST(Project, UnshufflesChannelsFirstAsUnfoldDoes) {
  const at::Tensor rows = random({24, 3}, 1);
  const at::Tensor planes = rows.view({1, 4, 6, 3}).permute({0, 3, 1, 2});
  const at::Tensor expected = at::im2col(planes, {2, 2}, {1, 1}, {0, 0}, {2, 2})[0].t();
  EXPECT_TRUE(at::equal(run(ProjectorOp::unshuffle(2, Channels::channels_first), rows, {{4, 6}}), expected));
}

TEST(Project, UnshufflesColumnByColumnForOlderVila) {
  const at::Tensor rows = random({16, 2}, 1);
  const at::Tensor by_rows = run(ProjectorOp::unshuffle(2), rows, {{4, 4}});
  const at::Tensor by_columns =
      run(ProjectorOp::unshuffle(2, Channels::cells_first, Order::columns), rows, {{4, 4}});
  EXPECT_TRUE(at::equal(by_columns, by_rows.index_select(0, at::tensor({0, 2, 1, 3}))));
}

TEST(Project, FillsTheGridUpWithZerosBelowAndRight) {
  const at::Tensor out = run(ProjectorOp::unshuffle(2), numbers(9, 1) + 1, {{3, 3}});
  EXPECT_TRUE(at::equal(out, literal({{1, 2, 4, 5}, {3, 0, 6, 0}, {7, 8, 0, 0}, {9, 0, 0, 0}})));
  EXPECT_EQ(projected_grid({ProjectorOp::unshuffle(2)}, {27, 27}), (Grid{14, 14}));
  EXPECT_EQ(projected_grid({ProjectorOp::unshuffle(3)}, {32, 32}), (Grid{11, 11}));
}

TEST(Project, LeavesARemainderOutWithChannelsFirst) {
  const ProjectorOp op = ProjectorOp::unshuffle(2, Channels::channels_first);
  EXPECT_TRUE(at::equal(run(op, numbers(15, 1), {{3, 5}}), literal({{0, 1, 5, 6}, {2, 3, 7, 8}})));
  EXPECT_EQ(projected_grid({op}, {3, 5}), (Grid{1, 2}));
}

TEST(Project, TreatsEachGridByItself) {
  const at::Tensor rows = random({8 + 8 + 16, 2}, 1);
  const std::vector<Grid> grids = {{2, 4}, {2, 4}, {4, 4}};
  const ProjectorOp op = ProjectorOp::unshuffle(2);
  const at::Tensor together = run(op, rows, grids);
  EXPECT_TRUE(at::equal(
      together, at::cat({run(op, rows.narrow(0, 0, 8), {{2, 4}}), run(op, rows.narrow(0, 8, 8), {{2, 4}}),
                         run(op, rows.narrow(0, 16, 16), {{4, 4}})})));
  EXPECT_THROW(run(op, rows, {{2, 4}}), Error);
}

TEST(Project, AveragesSquaresAndReflectsAtOddBorders) {
  EXPECT_TRUE(at::equal(run(ProjectorOp::average_pool(2), numbers(8, 1), {{2, 4}}), literal({{2.5}, {4.5}})));
  // 3 x 3 becomes 4 x 4 with row 1 and column 1 repeated behind row 2 and column 2.
  EXPECT_TRUE(
      at::equal(run(ProjectorOp::average_pool(2), numbers(9, 1), {{3, 3}}), literal({{2}, {3}, {5}, {6}})));
}

TEST(Project, AddsOneToTheWeightOfGemmasNorm) {
  const at::Tensor rows = random({3, 8}, 1), weight = random({8}, 2);
  const at::Tensor expected = rows / (rows.square().mean(-1, true) + 1e-6).sqrt() * (1 + weight);
  const ProjectorSpec spec = {ProjectorOp::norm(Kind::rms_norm_1p, "n", 1e-6)};
  EXPECT_LT(largest_difference(project(spec, {{weight, {}}}, rows, {}), expected), 1e-5);
}

TEST(Project, MultipliesARawMatrixFromTheRight) {
  const at::Tensor rows = random({3, 8}, 1), matrix = random({8, 5}, 2);
  EXPECT_LT(largest_difference(project({ProjectorOp::matrix("w", 5)}, {{matrix, {}}}, rows, {}),
                               rows.matmul(matrix)),
            1e-5);
}

}  // namespace
}  // namespace visq::nn

#include "visq/nn/ops.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;

TEST(Ops, RmsNormDividesByTheRootMeanSquareAndMultipliesByTheWeight) {
  // mean(3², 4², 0², 5²) = 12.5
  const at::Tensor x = at::tensor({3.0f, 4.0f, 0.0f, 5.0f}).view({1, 4});
  const Norm norm{at::tensor({1.0f, 2.0f, 3.0f, 4.0f}), {}};
  const double root = std::sqrt(12.5);
  const at::Tensor expected = at::tensor({3 / root, 8 / root, 0.0, 20 / root}).to(at::kFloat).view({1, 4});
  EXPECT_LT(largest_difference(rms_norm(x, norm, 0.0), expected), 1e-6);
}

TEST(Ops, RmsNormRoundsToTheInputTypeBeforeTheWeight) {
  // 3 / √5 = 1.341641, in bf16 1.34375; times 1.015625 = 1.364746, in bf16 1.3671875. Rounding only once
  // would give bf16(1.341641 · 1.015625 = 1.362604) = 1.359375.
  const at::Tensor x = at::tensor({1.0f, 3.0f}).to(at::kBFloat16).view({1, 2});
  const Norm norm{at::tensor({1.015625f, 1.015625f}).to(at::kBFloat16), {}};
  EXPECT_EQ(rms_norm(x, norm, 0.0).to(at::kFloat)[0][1].item<float>(), 1.3671875f);
}

TEST(Ops, LinearQuantizesItsInputFirstWhenToldTo) {
  Linear linear{at::tensor({1.0f, 2.0f}).view({1, 2}), at::tensor({0.5f}), {}};
  const at::Tensor x = at::tensor({1.4f, 2.6f}).view({1, 2});
  EXPECT_FLOAT_EQ(apply(linear, x).item<float>(), 1.4f + 5.2f + 0.5f);
  linear.input = [](const at::Tensor& t) { return t.round(); };
  EXPECT_FLOAT_EQ(apply(linear, x).item<float>(), 1 + 6 + 0.5f);
}

TEST(Ops, LowRankPartsReadTheInputAsItIsAndAddUp) {
  Linear linear{at::zeros({1, 2}), {}, [](const at::Tensor& t) { return t.round(); }};
  linear.low_rank = {at::tensor({1.0f, 1.0f}).view({1, 2}), at::tensor({2.0f}).view({1, 1})};
  const at::Tensor x = at::tensor({1.4f, 2.6f, 0.5f, 0.25f}).view({2, 2});
  EXPECT_LT(largest_difference(apply(linear, x), at::tensor({8.0f, 1.5f}).view({2, 1})), 1e-6);
  linear.adapter = {at::tensor({1.0f, 0.0f}).view({1, 2}), at::tensor({1.0f}).view({1, 1}), 10};
  const at::Tensor adapted = at::tensor({0.0f, 1.0f}).view({2, 1});  // the second row alone
  EXPECT_LT(largest_difference(apply(linear, x, adapted), at::tensor({8.0f, 6.5f}).view({2, 1})), 1e-6);
}

TEST(Ops, ActivationsFollowTheirDefinitions) {
  const double x = 0.7;
  const at::Tensor t = at::tensor({static_cast<float>(x)});
  const auto sigmoid = [](double v) { return 1 / (1 + std::exp(-v)); };
  EXPECT_NEAR(activate(Activation::silu, t).item<float>(), x * sigmoid(x), 1e-6);
  EXPECT_NEAR(activate(Activation::quick_gelu, t).item<float>(), x * sigmoid(1.702 * x), 1e-6);
  EXPECT_NEAR(activate(Activation::gelu, t).item<float>(), x / 2 * (1 + std::erf(x / std::sqrt(2.0))), 1e-6);
  EXPECT_NEAR(activate(Activation::gelu_tanh, t).item<float>(),
              x / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))), 1e-6);
}

TEST(Ops, AnUnknownActivationIsNamed) {
  EXPECT_EQ(parse_activation("gelu_pytorch_tanh", "config.json"), Activation::gelu_tanh);
  try {
    parse_activation("relu6", "config.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("config.json: activation 'relu6'"), std::string::npos);
  }
}

TEST(Ops, RotateTurnsTheTwoHalvesOfAHead) {
  const at::Tensor x = at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({1, 1, 4});
  const at::Tensor cos = at::tensor({1.0f, 0.0f, 1.0f, 0.0f}).view({1, 4});
  const at::Tensor sin = at::tensor({0.0f, 1.0f, 0.0f, 1.0f}).view({1, 4});
  // The pair (1, 3) stays, the pair (2, 4) turns by 90 degrees.
  EXPECT_TRUE(at::equal(rotate(x, cos, sin).flatten(), at::tensor({1.0f, -4.0f, 3.0f, 2.0f})));
}

TEST(Attention, KeepsSequencesApart) {
  // Lengths 3, 1, 3, 0, 5, 1: two pairs share a length and do not lie together.
  const std::vector<int64_t> offsets = {0, 3, 4, 7, 7, 12, 13};
  const at::Tensor q = random({13, 4, 8}, 1), k = random({13, 2, 8}, 2), v = random({13, 2, 8}, 3);
  for (const bool causal : {true, false})
    EXPECT_LT(largest_difference(attention(q, k, v, offsets, causal),
                                 test::plain_attention(q, k, v, offsets, causal)),
              1e-5);
}

TEST(Attention, ReadsStridedViews) {
  const std::vector<int64_t> offsets = {0, 4, 8};
  const at::Tensor qkv = random({8, 3, 2, 8}, 4);
  const at::Tensor q = qkv.select(1, 0), k = qkv.select(1, 1), v = qkv.select(1, 2);
  EXPECT_LT(
      largest_difference(attention(q, k, v, offsets, false), test::plain_attention(q, k, v, offsets, false)),
      1e-5);
}

TEST(Attention, OfNothingIsEmpty) {
  const at::Tensor none = at::empty({0, 2, 8});
  EXPECT_EQ(attention(none, none, none, std::vector<int64_t>{0, 0}, true).sizes(), at::IntArrayRef({0, 16}));
}

}  // namespace
}  // namespace visq::nn

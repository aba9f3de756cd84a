#include "visq/quant/solver.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/quant/codec.h"

namespace visq {
namespace {

// Inputs with a few channels far larger than the rest, as language models have.
at::Tensor outlier_inputs(int64_t tokens, int64_t channels) {
  at::Tensor x = at::randn({tokens, channels});
  x.slice(1, 3, channels, 37).mul_(30);
  return x;
}

at::Tensor quantize_int4(const at::Tensor& scaled) { return dequantize(pack_int4(scaled, 128)); }

TEST(SmoothQuant, WorkedExampleOfTheSpecification) {
  const at::Tensor weight = at::tensor({1.0f, -2.0f, 0.5f, 4.0f, 0.25f, 1.0f, -1.0f, 2.0f}).view({2, 4});
  const at::Tensor x = at::tensor({1.0f, 0.0f, 2.0f, 8.0f, -3.0f, 0.0f, 1.0f, 4.0f}).view({2, 4});
  const at::Tensor input_max = x.abs().amax(0), weight_max = weight.abs().amax(0);

  const at::Tensor full = smoothquant_scale(input_max, weight_max, 1.0);
  EXPECT_TRUE(at::allclose(full.reciprocal(), at::tensor({0.3333333f, 10000.0f, 0.5f, 0.125f}), 1e-6, 0));
  const at::Tensor expected =
      at::tensor({3.0f, -0.0002f, 1.0f, 32.0f, 0.75f, 0.0001f, -2.0f, 16.0f}).view({2, 4});
  EXPECT_TRUE(at::allclose(weight * full, expected, 1e-6, 0));

  const at::Tensor half = smoothquant_scale(input_max, weight_max, 0.5);
  EXPECT_TRUE(
      at::allclose(half.reciprocal(), at::tensor({0.5773503f, 10000.0f, 0.7071068f, 0.7071068f}), 1e-6, 0));
}

TEST(GramLoss, EqualsTheLossComputedFromOutputs) {
  at::manual_seed(2);
  const at::Tensor x = outlier_inputs(300, 256), difference = at::randn({700, 256}) * 0.01;
  const double from_outputs = at::mm(x, difference.t()).square().sum(at::kDouble).item<double>();
  EXPECT_NEAR(gram_loss(difference, at::mm(x.t(), x)) / from_outputs, 1.0, 1e-4);
}

TEST(Awq, ReportsTheLossOfItsChoiceAndItIsTheSmallest) {
  at::manual_seed(3);
  const at::Tensor x = outlier_inputs(512, 256), weight = at::randn({384, 256}) * 0.05;
  const SmoothingDecision decision =
      solve_awq({weight}, x.abs().mean(0), at::mm(x.t(), x), 128, quantize_int4);
  ASSERT_EQ(decision.losses.size(), 11u);
  size_t best = 0;
  for (size_t i = 1; i < decision.losses.size(); ++i)
    if (decision.losses[i] < decision.losses[best]) best = i;
  EXPECT_EQ(decision.alpha, smoothing_alphas()[best]);
  const at::Tensor difference = quantize_int4(weight * decision.scale) / decision.scale - weight;
  const double from_outputs = at::mm(x, difference.t()).square().sum(at::kDouble).item<double>();
  EXPECT_NEAR(decision.losses[best] / from_outputs, 1.0, 1e-4);
  EXPECT_LT(decision.losses[best], decision.plain_loss);
}

TEST(Awq, JointLossOfAGroupIsTheSumOverItsLinears) {
  at::manual_seed(4);
  const at::Tensor x = outlier_inputs(256, 128), a = at::randn({64, 128}), b = at::randn({32, 128});
  const SmoothingDecision joint = solve_awq({a, b}, x.abs().mean(0), at::mm(x.t(), x), 128, quantize_int4);
  double sum = 0;
  for (const at::Tensor& weight : {a, b}) {
    const at::Tensor difference = quantize_int4(weight * joint.scale) / joint.scale - weight;
    sum += at::mm(x, difference.t()).square().sum(at::kDouble).item<double>();
  }
  const double reported = *std::min_element(joint.losses.begin(), joint.losses.end());
  EXPECT_NEAR(reported / sum, 1.0, 1e-4);
}

TEST(Awq, SharedHeadsGetOneScale) {
  at::manual_seed(5);
  const SharedHeads heads{2, 2, 64};
  const at::Tensor x = outlier_inputs(256, 256), weight = at::randn({64, 256});
  const SmoothingDecision decision =
      solve_awq({weight}, x.abs().mean(0), at::mm(x.t(), x), 128, quantize_int4, {.shared = heads});
  const at::Tensor by_head = decision.scale.view({2, 2, 64});
  EXPECT_TRUE(at::equal(by_head.select(1, 0), by_head.select(1, 1)));
  EXPECT_TRUE(at::equal(heads.one_each(decision.scale), by_head.select(1, 0).reshape(-1)));
}

TEST(NearestPowersOfTwo, AreExactAndNear) {
  const at::Tensor scales = at::tensor({1.0f, 1.4f, 1.6f, 0.3f, 100.0f, 1e-4f, 0.75f});
  const at::Tensor expected = at::tensor({1.0f, 1.0f, 2.0f, 0.25f, 128.0f, 0x1p-13f, 1.0f});
  EXPECT_TRUE(at::equal(nearest_powers_of_two(scales), expected)) << nearest_powers_of_two(scales);
}

}  // namespace
}  // namespace visq

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

TEST(Awq, CountsRoundedInputsWhenAsked) {
  at::manual_seed(6);
  const at::Tensor x = outlier_inputs(256, 128), weight = at::randn({64, 128}), gram = at::mm(x.t(), x);
  // Inputs in 4 bits lose most where one channel is far larger than the rest: smoothing has to be stronger.
  const auto error = [&](const at::Tensor& scale) {
    const at::Tensor smoothed = x / scale;
    return simulate_int8(smoothed, smoothed.abs().max().item<float>() / 7) - smoothed;
  };
  const auto loss_of = [&](const at::Tensor& scale) {
    const at::Tensor quantized = quantize_int4(weight * scale);
    return at::mm(x, (quantized / scale - weight).t()).square().sum().item<double>() +
           at::mm(error(scale), quantized.t()).square().sum().item<double>();
  };
  const auto exact = solve_awq({weight}, x.abs().mean(0), gram, 128, quantize_int4);
  const auto rounded = solve_awq({weight}, x.abs().mean(0), gram, 128, quantize_int4, {}, error);
  EXPECT_NEAR(rounded.loss / loss_of(rounded.scale), 1.0, 1e-4);
  EXPECT_NEAR(rounded.plain_loss / loss_of(at::ones({128})), 1.0, 1e-4);
  EXPECT_LT(rounded.loss, 0.9 * loss_of(exact.scale));
}

TEST(SmoothQuant, FindsTheStrengthWithTheSmallestError) {
  at::manual_seed(7);
  const at::Tensor x = outlier_inputs(200, 128), a = at::randn({64, 128}), b = at::randn({32, 128});
  const auto quantize = [](const at::Tensor& w) { return dequantize(pack_int8(w)); };
  const auto inputs = [&](const at::Tensor& scale) {
    const at::Tensor smoothed = x / scale;
    return simulate_int8(smoothed, smoothed.abs().max().item<float>() / 127);
  };
  const auto loss_of = [&](double alpha) {
    double loss = 0;
    const at::Tensor weight_max = at::maximum(a.abs().amax(0), b.abs().amax(0));
    const at::Tensor scale = smoothquant_scale(x.abs().amax(0), weight_max, alpha);
    for (const at::Tensor& w : {a, b})
      loss +=
          (at::mm(inputs(scale), quantize(w * scale).t()) - at::mm(x, w.t())).square().sum().item<double>();
    return loss;
  };
  const auto decision = solve_smoothquant({a, b}, x.abs().amax(0), x, quantize, inputs);
  ASSERT_EQ(decision.losses.size(), 11u);
  for (size_t i = 0; i < decision.losses.size(); ++i) {
    EXPECT_NEAR(decision.losses[i] / loss_of(smoothing_alphas()[i]), 1.0, 1e-3);
    EXPECT_LE(decision.loss, decision.losses[i]);
  }
  const auto fixed = solve_smoothquant({a, b}, x.abs().amax(0), x, quantize, inputs, {.alpha = 0.35});
  EXPECT_EQ(fixed.alpha, 0.35);
  EXPECT_EQ(fixed.losses.size(), 1u);
}

TEST(RelativeError, IsThatOfTheOutputs) {
  at::manual_seed(8);
  const at::Tensor x = at::randn({20, 16}), rounded = x + 0.1 * at::randn({20, 16});
  const at::Tensor weight = at::randn({8, 16}), quantized = weight + 0.1 * at::randn({8, 16});
  const at::Tensor counts = at::arange(1, 21, at::kFloat);
  const auto power = [&](const at::Tensor& y) { return (y.square().sum(1) * counts).sum().item<double>(); };
  const at::Tensor y = at::mm(x, weight.t());
  const double expected = power(at::mm(rounded, quantized.t()) - y) / power(y);
  EXPECT_NEAR(relative_error({x, counts}, {weight}, rounded, [&](size_t) { return quantized; }), expected,
              1e-5 * expected);
}

TEST(NearestPowersOfTwo, AreExactAndNear) {
  const at::Tensor scales = at::tensor({1.0f, 1.4f, 1.6f, 0.3f, 100.0f, 1e-4f, 0.75f});
  const at::Tensor expected = at::tensor({1.0f, 1.0f, 2.0f, 0.25f, 128.0f, 0x1p-13f, 1.0f});
  EXPECT_TRUE(at::equal(nearest_powers_of_two(scales), expected)) << nearest_powers_of_two(scales);
}

}  // namespace
}  // namespace visq

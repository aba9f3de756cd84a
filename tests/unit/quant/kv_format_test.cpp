#include "visq/quant/kv_format.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "visq/core/error.h"

namespace visq {
namespace {

at::Tensor states(const std::vector<float>& values, int64_t heads, int64_t channels) {
  return at::tensor(values).view({-1, heads, channels});
}

KvStatistics statistics_of(const at::Tensor& x) {
  KvStatistics statistics;
  statistics.add(x);
  return statistics;
}

const KvFormat& format(const char* name) { return kv_format(parse_kv_cache(name)); }

TEST(KvFormats, AreFoundByTheirNames) {
  for (const KvFormat& known : kv_formats()) {
    EXPECT_EQ(parse_kv_cache(known.name), known.format);
    EXPECT_EQ(kv_cache_name(known.format), known.name);
    EXPECT_EQ(needs_calibration(known.format), known.calibrated);
  }
  EXPECT_EQ(parse_kv_cache("none"), KvCacheFormat::none);
  EXPECT_FALSE(needs_calibration(KvCacheFormat::none));
  EXPECT_THROW(kv_format(KvCacheFormat::none), Error);
  try {
    parse_kv_cache("int3");
    FAIL();
  } catch (const Error& error) {
    for (const KvFormat& known : kv_formats())
      EXPECT_NE(std::string(error.what()).find(known.name), std::string::npos);
  }
}

TEST(KvStatistics, AddUp) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({7, 2, 16}, at::kBFloat16);
  KvStatistics parts = statistics_of(x.narrow(0, 0, 3));
  parts.add(x.narrow(0, 3, 0));
  parts.merge(statistics_of(x.narrow(0, 3, 4)));
  parts.merge(KvStatistics());
  const KvStatistics whole = statistics_of(x);
  EXPECT_EQ(parts.tokens, 7);
  EXPECT_TRUE(at::equal(parts.min, whole.min));
  EXPECT_TRUE(at::equal(parts.max, whole.max));
  EXPECT_TRUE(at::allclose(parts.sum, whole.sum));
}

// Two heads of two channels, two tokens.
TEST(SolveKvScale, TakesTheLargestOfTheLayerOrOfEachHead) {
  const KvStatistics seen = statistics_of(states({1, -448, 2, 3, 0, 4, -224, 1}, 2, 2));
  EXPECT_EQ(solve_kv_scale(format("fp8"), seen, at::kFloat).scale.item<float>(), 1.0f);
  EXPECT_EQ(solve_kv_scale(format("nvfp4"), seen, at::kFloat).scale.item<float>(), 1.0f);
  EXPECT_TRUE(
      at::equal(solve_kv_scale(format("fp8_attn_head"), seen, at::kFloat).scale, at::tensor({1.0f, 0.5f})));
  EXPECT_FALSE(solve_kv_scale(format("fp8"), seen, at::kFloat).bias.defined());
  EXPECT_EQ(solve_kv_scale(format("fp8_cast"), seen, at::kFloat).scale.item<float>(), 1.0f);
}

// Channel means 2 and −10; what is left of them reaches 1 and 4.
TEST(SolveKvScale, SubtractsTheMeanOfEachChannelFirst) {
  const KvStatistics seen = statistics_of(states({1, -14, 3, -6}, 1, 2));
  const KvScale solved = solve_kv_scale(format("nvfp4_affine"), seen, at::kBFloat16);
  EXPECT_TRUE(at::equal(solved.bias, at::tensor({2.0f, -10.0f}, at::kFloat).to(at::kBFloat16).view({1, 2})));
  EXPECT_EQ(solved.scale.item<float>(), 4.0f / 448);
}

TEST(SolveKvScale, CountsFromTheMeanAsItIsStored) {
  const KvStatistics seen = statistics_of(states({1.001f, 1.003f}, 1, 1));
  const KvScale solved = solve_kv_scale(format("fp8_affine"), seen, at::kBFloat16);
  EXPECT_EQ(solved.bias.item<float>(), 1.0f);  // bf16 has nothing between 1 and 1.0078
  EXPECT_EQ(solved.scale.item<float>(), (1.003f - 1.0f) / 448);
}

TEST(SolveKvScale, NothingButZerosHasScale1) {
  const KvStatistics seen = statistics_of(at::zeros({3, 2, 16}));
  for (const KvFormat& known : kv_formats())
    EXPECT_TRUE(solve_kv_scale(known, seen, at::kBFloat16).scale.eq(1).all().item<bool>()) << known.name;
}

TEST(HadamardTransform, IsSylvestersMatrixOverTheRootOfItsSize) {
  const at::Tensor h = hadamard_transform(at::eye(4)) * 2;
  EXPECT_TRUE(at::equal(
      h, at::tensor({1, 1, 1, 1, 1, -1, 1, -1, 1, 1, -1, -1, 1, -1, -1, 1}, at::kFloat).view({4, 4})));
}

TEST(HadamardTransform, TakesBlocksOfTheLargestPowerOfTwo) {
  at::manual_seed(2);
  for (const int64_t width : {1, 16, 48, 80, 96, 128}) {
    const at::Tensor x = at::randn({5, 3, width});
    const at::Tensor y = hadamard_transform(x);
    EXPECT_TRUE(at::allclose(hadamard_transform(y), x, 1e-5, 1e-6)) << width;
    const int64_t block = width & -width;
    EXPECT_TRUE(at::allclose(y.narrow(2, 0, block), hadamard_transform(x.narrow(2, 0, block)))) << width;
  }
}

// What comes back lies within half a step of the format. The step of a block or layer is at most its largest
// magnitude times: E4M3 2^-3 (then 2^-4 is half), E2M1 1/3 of it between 4 and 6, and block scales of three
// bits.
TEST(SimulatedCaches, AreNearWhatWasStored) {
  at::manual_seed(3);
  for (const KvFormat& known : kv_formats())
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
      for (const double magnitude : {1e-3, 1.0, 50.0})
        for (const int64_t width : {16, 48, 128}) {
          const at::Tensor means = at::randn({1, 2, width}) * magnitude;
          const at::Tensor x = (at::randn({40, 2, width}) * magnitude + means).to(dtype);
          KvStatistics seen = statistics_of(known.rotated ? hadamard_transform(x.to(at::kFloat)) : x);
          const KvScale scale = solve_kv_scale(known, seen, at::kFloat);
          const at::Tensor y = simulate_keys(known, x, scale);
          ASSERT_EQ(y.scalar_type(), dtype);
          ASSERT_EQ(y.sizes(), x.sizes());
          const at::Tensor wide = x.to(at::kFloat);
          const double error =
              ((y.to(at::kFloat) - wide).norm() / (wide - (known.affine ? scale.bias : at::zeros({}))).norm())
                  .item<double>();
          // Without calibration small states fall below what E4M3 resolves at scale 1.
          const bool small = !known.calibrated && magnitude < 0.1;
          EXPECT_LT(error, small         ? 1.0
                           : known.nvfp4 ? 0.12
                                         : 0.035)
              << known.name << " " << width << " " << magnitude;
          if (!known.rotated) {
            EXPECT_TRUE(at::equal(y, simulate_values(known, x, scale)));
          }
        }
}

TEST(SimulatedCaches, ExtremesSaturateOneByOne) {
  const at::Tensor x = at::tensor({1000.0f, -1000.0f, 448.0f, 0.0f, 17.0f, 1.0f / 1024, INFINITY, -INFINITY});
  const at::Tensor y = simulate_values(format("fp8_cast"), x.view({1, 1, 8}), unit_kv_scale());
  EXPECT_TRUE(
      at::equal(y.flatten(), at::tensor({448.0f, -448.0f, 448.0f, 0.0f, 16.0f, 0.0f, 448.0f, -448.0f})));
  EXPECT_TRUE(std::isnan(
      simulate_values(format("fp8_cast"), at::full({1, 1, 1}, NAN), unit_kv_scale()).item<float>()));
}

TEST(SimulatedCaches, AHeadsScaleIsItsOwn) {
  const at::Tensor x = states({100, 3, 1, 0.03f}, 2, 2);
  const KvScale each = solve_kv_scale(format("fp8_attn_head"), statistics_of(x), at::kFloat);
  const at::Tensor y = simulate_values(format("fp8_attn_head"), x, each);
  for (const int64_t head : {0, 1}) {
    const at::Tensor own = x.narrow(1, head, 1);
    const KvScale scale = solve_kv_scale(format("fp8"), statistics_of(own), at::kFloat);
    EXPECT_TRUE(at::equal(y.narrow(1, head, 1), simulate_values(format("fp8"), own, scale)));
  }
}

TEST(SimulatedCaches, RotationSpreadsAnOutlierChannel) {
  at::manual_seed(4);
  at::Tensor x = at::randn({64, 2, 64});
  x.select(2, 5) += 40;
  const auto error = [&](const char* name) {
    const KvFormat& known = format(name);
    const KvStatistics seen = statistics_of(known.rotated ? hadamard_transform(x) : x);
    const at::Tensor y = simulate_keys(known, x, solve_kv_scale(known, seen, at::kFloat));
    return (y - x).square().sum().item<double>();
  };
  EXPECT_LT(error("nvfp4_affine"), 0.2 * error("nvfp4"));
  EXPECT_LT(error("fp8_affine"), 0.5 * error("fp8"));
  EXPECT_GT(error("nvfp4_rotate"), 0);
}

TEST(SimulatedCaches, BlocksThatDoNotFitAreRefused) {
  EXPECT_THROW(simulate_keys(format("nvfp4_cast"), at::ones({1, 1, 24}), unit_kv_scale()), Error);
}

}  // namespace
}  // namespace visq

// Four bits with zero points (int4_asym), and at quantiles (nf4): how near they come, and what they do at the
// ends of their range. The bits are held against compressed-tensors and bitsandbytes by the parity tests.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "visq/core/error.h"
#include "visq/quant/codec.h"

namespace visq {
namespace {

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kBFloat16, at::kHalf};

std::vector<at::Tensor> matrices(at::ScalarType dtype) {
  at::manual_seed(11);
  const double large = dtype == at::kHalf ? 60000.0 : 3e38, small = dtype == at::kHalf ? 1e-6 : 1e-38;
  std::vector<at::Tensor> list;
  for (const int64_t rows : {1, 3, 40})
    for (const int64_t columns : {64, 128, 1088}) {
      const at::Tensor gauss = at::randn({rows, columns});
      list.push_back(gauss * 0.02);
      list.push_back(gauss.abs() + 3);
      list.push_back(-(gauss.abs() + 3));
      list.push_back(gauss / at::randn({rows, columns}).abs().clamp_min(1e-2));
      list.push_back(gauss.sign() * large);
      list.push_back(gauss * small);
      at::Tensor holes = gauss.clone();
      holes.narrow(1, 0, 64).zero_();
      list.push_back(holes);
    }
  for (at::Tensor& matrix : list) matrix = matrix.to(dtype);
  return list;
}

at::Tensor error_of(const PackedTensor& packed, const at::Tensor& weight) {
  const at::Tensor values = dequantize(packed);
  EXPECT_TRUE(at::isfinite(values).all().item<bool>());
  return (values.to(at::kDouble) - weight.to(at::kDouble)).abs().view({weight.size(0), -1, packed.block});
}

// With scales in f32: half a step, and as much again where rounding of the zero point moved an end of the
// range beyond a code.
TEST(Int4WithZeroPoints, IsAStepAwayAtMost) {
  for (const at::ScalarType dtype : kTypes)
    for (const at::Tensor& w : matrices(dtype)) {
      const PackedTensor packed = pack_int4_asym(w, 64);
      const at::Tensor step = packed.scale.to(at::kDouble).unsqueeze(-1);
      EXPECT_TRUE((error_of(packed, w) <= step * 1.0001).all().item<bool>());
      EXPECT_GT(error_of(packed, w).le(step * 0.5001).to(at::kDouble).mean().item<double>(), 0.95);
    }
}

TEST(Int4WithZeroPoints, RepresentsZeroExactly) {
  for (const at::Tensor& w : matrices(at::kFloat)) {
    at::Tensor sparse = w.clone();
    sparse.masked_fill_(at::rand_like(sparse) < 0.3, 0);
    const at::Tensor values = dequantize(pack_int4_asym(sparse, 64));
    EXPECT_TRUE(values.masked_select(sparse == 0).eq(0).all().item<bool>());
  }
}

// −1…14 in steps of 1: zero point −7, code −8 for −1.
TEST(Int4WithZeroPoints, ByHand) {
  const at::Tensor w = at::arange(-1, 15, at::kFloat).view({1, 16});
  const PackedTensor packed = pack_int4_asym(w, 16);
  EXPECT_EQ(packed.scale.item<float>(), 1.0f);
  EXPECT_EQ(packed.zero_point.item<int8_t>(), -7);
  EXPECT_TRUE(at::equal(packed.codes, at::arange(-8, 8, at::kChar).view({1, 16})));
  EXPECT_TRUE(at::equal(dequantize(packed), w));
}

TEST(Int4WithZeroPoints, ABlockOfOneSignUsesAllCodes) {
  const at::Tensor w = at::linspace(0, 30, 16).view({1, 16});
  const PackedTensor above = pack_int4_asym(w, 16), below = pack_int4_asym(-w, 16);
  EXPECT_EQ(above.zero_point.item<int8_t>(), -8);
  EXPECT_EQ(below.zero_point.item<int8_t>(), 7);
  for (const PackedTensor* packed : {&above, &below}) {
    EXPECT_EQ(packed->codes.min().item<int8_t>(), -8);
    EXPECT_EQ(packed->codes.max().item<int8_t>(), 7);
  }
}

TEST(Int4WithZeroPoints, ZerosAndRangesTooLargeForAFloat) {
  const PackedTensor zeros = pack_int4_asym(at::zeros({2, 32}), 16);
  EXPECT_TRUE(zeros.scale.eq(1).all().item<bool>());
  EXPECT_TRUE(dequantize(zeros).eq(0).all().item<bool>());
  const float most = std::numeric_limits<float>::max();
  const at::Tensor w = at::tensor({most, -most, 0.0f, most / 2}).view({1, 4});
  const PackedTensor packed = pack_int4_asym(w, 4);
  EXPECT_TRUE(at::equal(packed.codes, at::tensor({7, -7, 0, 4}, at::kChar).view({1, 4})));  // as int4 has it
  EXPECT_EQ(packed.zero_point.item<int8_t>(), 0);
  EXPECT_TRUE(at::isfinite(dequantize(packed)).all().item<bool>());
}

TEST(Int4WithZeroPoints, BeatsPlainInt4WhereBlocksAreNotCentred) {
  at::manual_seed(5);
  const at::Tensor w = at::randn({16, 256}) + 2;
  const double plain = error_of(pack_int4(w, 64), w).square().sum().item<double>();
  EXPECT_LT(error_of(pack_int4_asym(w, 64), w).square().sum().item<double>(), 0.6 * plain);
}

// The levels' largest gap is 0.30 (from −1 to −0.6962): half of it of the block's magnitude, and what coding
// the magnitude costs. What is no normal number of f32 may become 0.
TEST(Nf4, IsHalfAGapAwayAtMost) {
  for (const at::ScalarType dtype : kTypes)
    for (const at::Tensor& w : matrices(dtype)) {
      const PackedTensor packed = pack_nf4(w);
      const at::Tensor wide = w.to(at::kDouble).view({w.size(0), -1, 64}), amax = wide.abs().amax(-1, true);
      // Neighbouring scale levels are up to 0.0141 apart (0.9789 and 0.9930), of their blocks' largest
      // deviation.
      const at::Tensor deviation = (amax - amax.mean()).abs().max();
      const at::Tensor bound = 0.153 * amax + 0.0072 * deviation + 1e-38;
      EXPECT_TRUE((error_of(packed, w) <= bound * 1.001).all().item<bool>());
    }
}

TEST(Nf4, ErrorOfGaussianWeights) {
  at::manual_seed(6);
  const at::Tensor w = at::randn({64, 1024}) * 0.02;
  const double relative =
      std::sqrt(error_of(pack_nf4(w), w).square().sum().item<double>()) / w.norm().item<double>();
  EXPECT_LT(relative, 0.095);
  EXPECT_GT(relative, 0.08);
}

TEST(Nf4, TheLevelsThemselvesComeBack) {
  const at::Tensor w =
      nf4_levels().repeat({2, 8});  // every block's magnitude is 1: no deviation from the mean
  EXPECT_TRUE(at::equal(dequantize(pack_nf4(w)), w));
  const PackedTensor packed = pack_nf4(w);
  EXPECT_EQ(packed.codes[0][0].item<uint8_t>(), 0x01);  // the even column in the high nibble
  EXPECT_EQ(packed.zero_point.item<float>(), 1.0f);
}

TEST(Nf4, ZerosStayZeros) {
  const PackedTensor packed = pack_nf4(at::zeros({3, 128}, at::kBFloat16));
  EXPECT_TRUE(packed.codes.eq(0x77).all().item<bool>());
  EXPECT_TRUE(dequantize(packed).eq(0).all().item<bool>());
}

TEST(Nf4, ShapesOfItsParts) {
  const PackedTensor packed = pack_nf4(at::randn({5, 64 * 64}));  // 320 blocks: one and a quarter of 256
  EXPECT_EQ(packed.codes.sizes(), (at::IntArrayRef{5, 32 * 64}));
  EXPECT_EQ(packed.scale.sizes(), (at::IntArrayRef{5, 64}));
  EXPECT_EQ(packed.scale_2.sizes(), (at::IntArrayRef{2}));
  EXPECT_EQ(packed.zero_point.dim(), 0);
}

TEST(Nf4, DoesNotDependOnTheThreads) {
  at::manual_seed(7);
  const at::Tensor w = at::randn({300, 1024});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const PackedTensor one = pack_nf4(w);
  at::set_num_threads(3);
  const PackedTensor three = pack_nf4(w);
  at::set_num_threads(threads);
  EXPECT_TRUE(at::equal(one.codes, three.codes));
  EXPECT_TRUE(at::equal(one.scale, three.scale));
  EXPECT_TRUE(at::equal(one.scale_2, three.scale_2));
  EXPECT_TRUE(at::equal(one.zero_point, three.zero_point));
}

TEST(FourBits, RefuseWhatTheyCannotHold) {
  EXPECT_THROW(pack_nf4(at::ones({2, 96})), Error);
  EXPECT_THROW(pack_int4_asym(at::ones({2, 96}), 64), Error);
  EXPECT_THROW(pack_int4_asym(at::ones({2, 64}), 64, at::kInt), Error);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    at::Tensor w = at::ones({2, 64});
    w[1][63] = bad;
    EXPECT_THROW(pack_nf4(w), Error);
    EXPECT_THROW(pack_int4_asym(w, 64), Error);
  }
}

}  // namespace
}  // namespace visq

#include "visq/quant/scale_search.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/quant/grid.h"
#include "visq/quant/solver.h"

namespace visq {
namespace {

at::Tensor heavy_tailed(int64_t rows, int64_t columns) {
  return at::randn({rows, columns}) / at::rand({rows, columns}).add(0.05).sqrt() * 0.02;
}

double squared_error(const PackedTensor& packed, const at::Tensor& weight) {
  return (dequantize(packed) - weight).square().sum(at::kDouble).item<double>();
}

// All 126 positive E4M3 numbers for every block; the first of the best.
at::Tensor exhaustive(const at::Tensor& weight, const PackedTensor& packed) {
  const at::Tensor blocks = weight.view({weight.size(0), -1, 16});
  std::vector<at::Tensor> errors;
  for (int code = 1; code <= 126; ++code) {
    const at::Tensor number = at::full({1}, code, at::kByte).view(at::kFloat8_e4m3fn).to(at::kFloat);
    const at::Tensor rounded = Grid{Codec::nvfp4, number * packed.scale_2, {}}.nearest(blocks);
    errors.push_back((rounded - blocks).square().sum(-1));
  }
  return (at::stack(errors).argmin(0) + 1).to(at::kByte);
}

TEST(ScaleSearch, FindsTheBestOfAllBlockScales) {
  at::manual_seed(1);
  const at::Tensor w = at::cat({at::randn({60, 256}) * 0.02, heavy_tailed(60, 256), at::zeros({2, 256})});
  w.narrow(0, 10, 4).mul_(1e-5);  // blocks whose scales are E4M3's smallest
  const PackedTensor packed = pack_nvfp4(w);
  const PackedTensor found = search_scales(ScaleSearch::mse, packed, w, {}, at::kFloat);
  EXPECT_TRUE(at::equal(found.scale.view(at::kByte), exhaustive(w, packed)));
  EXPECT_EQ(found.scale.view(at::kByte)[121][0].item<int>(), 1);  // of zeros: the smallest, as ModelOpt's
  EXPECT_TRUE(at::equal(found.scale_2, packed.scale_2));
}

TEST(ScaleSearch, LowersTheErrorAsTheSpecificationMeasured) {
  at::manual_seed(2);
  const at::Tensor w = at::randn({512, 256});
  const PackedTensor packed = pack_nvfp4(w);
  const double ratio =
      squared_error(search_scales(ScaleSearch::mse, packed, w, {}, at::kFloat), w) / squared_error(packed, w);
  EXPECT_NEAR(ratio, 0.1068 / 0.1472, 0.02);  // spec/quantization.md §13.3
}

TEST(ScaleSearch, FourOverSixTakesTheNearerOfBoth) {
  at::manual_seed(3);
  const at::Tensor w = at::randn({64, 256});
  const PackedTensor packed = pack_nvfp4(w, four_over_six_amax(absolute_maximum(w)));
  EXPECT_FLOAT_EQ(packed.scale_2.item<float>(), absolute_maximum(w) / (6 * 256));
  const PackedTensor found = search_scales(ScaleSearch::four_over_six, packed, w, {}, at::kFloat);
  const at::Tensor ratio = found.scale.to(at::kFloat) / packed.scale.to(at::kFloat);
  EXPECT_TRUE(((ratio == 1) | ((ratio > 1.3) & (ratio < 1.7))).all().item<bool>());
  EXPECT_TRUE((ratio > 1).any().item<bool>());
  EXPECT_LT(squared_error(found, w), squared_error(packed, w));
}

TEST(ScaleSearch, ByOutputErrorBeatsTheSearchByWeights) {
  at::manual_seed(4);
  const at::Tensor w = heavy_tailed(128, 256);
  at::Tensor x = at::randn({500, 256});
  x.slice(1, 3, 256, 37).mul_(20);
  const at::Tensor gram = at::mm(x.t(), x);
  // What the search minimizes: the error of each block on its own.
  const auto block_loss = [&](const PackedTensor& packed) {
    const at::Tensor difference = dequantize(packed) - w;
    double loss = 0;
    const int64_t block = step_columns(packed);
    for (int64_t begin = 0; begin < 256; begin += block)
      loss += gram_loss(difference.narrow(1, begin, block).contiguous(),
                        gram.narrow(0, begin, block).narrow(1, begin, block).contiguous());
    return loss;
  };
  for (const PackedTensor& packed :
       {pack_nvfp4(w), pack_int4(w, 128), pack_int4_asym(w, 128), pack_int8(w)}) {
    const double plain = block_loss(packed),
                 by_weight = block_loss(search_scales(ScaleSearch::mse, packed, w, {}, at::kFloat)),
                 by_output =
                     block_loss(search_scales(ScaleSearch::output_error, packed, w, gram, at::kFloat));
    EXPECT_LT(by_output, by_weight) << codec_name(packed.codec);
    EXPECT_LT(by_output, 0.9 * plain) << codec_name(packed.codec);
  }
}

TEST(ScaleSearch, IntegerScalesAreStoredAsTheLayoutWants) {
  at::manual_seed(5);
  const at::Tensor w = heavy_tailed(64, 256);
  const PackedTensor found =
      search_scales(ScaleSearch::mse, pack_int4(w, 128, at::kBFloat16), w, {}, at::kBFloat16);
  EXPECT_TRUE(at::equal(found.scale, found.scale.to(at::kBFloat16).to(at::kFloat)));
}

TEST(Grid, RoundsToWhatTheCodecsRoundTo) {
  at::manual_seed(6);
  const at::Tensor w = heavy_tailed(32, 256).to(at::kBFloat16).to(at::kFloat);
  for (const PackedTensor& packed : {pack_int4(w, 128), pack_int4_asym(w, 128), pack_int8(w), pack_nvfp4(w),
                                     pack_fp8(w), pack_fp8_rows(w), pack_fp8_blocks(w)}) {
    EXPECT_TRUE(at::equal(grid_of_columns(packed).nearest(w), dequantize(packed)))
        << codec_name(packed.codec);
    const at::Tensor codes = repack(packed, w).codes;
    EXPECT_TRUE(at::equal(codes.view(at::kByte), packed.codes.view(at::kByte))) << codec_name(packed.codec);
  }
}

// The stored magnitudes of blocks are rounded themselves, so the codec's codes are not always the nearest.
TEST(Grid, FindsNf4LevelsNearerThanTheCodecs) {
  at::manual_seed(7);
  const at::Tensor w = heavy_tailed(32, 256);
  const PackedTensor packed = pack_nf4(w), again = repack(packed, w);
  EXPECT_TRUE(at::equal(grid_of_columns(packed).nearest(w), dequantize(again)));
  const at::Tensor before = (dequantize(packed) - w).abs(), after = (dequantize(again) - w).abs();
  EXPECT_TRUE((after <= before * 1.00001).all().item<bool>());
  EXPECT_TRUE((after < before).any().item<bool>());
}

TEST(Grid, EdgesOfSquareBlocksHaveTheirOwnScales) {
  at::manual_seed(8);
  const at::Tensor w = heavy_tailed(200, 150);
  const PackedTensor packed = pack_fp8_blocks(w);
  EXPECT_TRUE(at::equal(grid_of_columns(packed).nearest(w), dequantize(packed)));
  EXPECT_TRUE(at::equal(dequantize(repack(packed, w)), dequantize(packed)));
}

}  // namespace
}  // namespace visq

#include "visq/quant/gptq.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/core/error.h"
#include "visq/core/parallel.h"
#include "visq/quant/grid.h"
#include "visq/quant/solver.h"

namespace visq {
namespace {

// Inputs whose channels depend on each other: that is what GPTQ makes use of.
at::Tensor correlated_inputs(int64_t tokens, int64_t channels) {
  return at::mm(at::randn({tokens, channels / 4}), at::randn({channels / 4, channels})) +
         0.3 * at::randn({tokens, channels});
}

at::Tensor gram_of(const at::Tensor& x) { return at::mm(x.t(), x); }

double loss(const PackedTensor& packed, const at::Tensor& weight, const at::Tensor& gram) {
  return gram_loss(dequantize(packed) - weight, gram);
}

std::vector<PackedTensor> packings(const at::Tensor& w) {
  return {pack_int4(w, 128), pack_int4_asym(w, 128), pack_nf4(w),       pack_int8(w), pack_nvfp4(w),
          pack_fp8(w),       pack_fp8_rows(w),       pack_fp8_blocks(w)};
}

TEST(Gptq, LowersTheOutputErrorOfEveryCodecUnderTheSameScales) {
  at::manual_seed(1);
  const at::Tensor w = at::randn({192, 256}) * 0.05, gram = gram_of(correlated_inputs(600, 256));
  for (const PackedTensor& nearest : packings(w)) {
    const PackedTensor solved = gptq(w, gptq_factor(gram), nearest);
    EXPECT_LT(loss(solved, w, gram), 0.8 * loss(nearest, w, gram)) << codec_name(nearest.codec);
    EXPECT_TRUE(at::equal(solved.scale.to(at::kFloat), nearest.scale.to(at::kFloat)));
    EXPECT_EQ(solved.codes.scalar_type(), nearest.codes.scalar_type());
    EXPECT_EQ(solved.codes.sizes(), nearest.codes.sizes());
  }
}

// The update as published: w_rest −= (w_j − q_j) / U_jj · U_j,rest with U the upper Cholesky factor of G⁻¹.
TEST(Gptq, EqualsTheUpdateByTheInverse) {
  at::manual_seed(2);
  const int64_t n = 192;
  const at::Tensor w = at::randn({48, n}) * 0.05, gram = gram_of(correlated_inputs(400, n));
  const PackedTensor scales = pack_int4(w, 64);
  const double damping = 0.01;
  const at::Tensor damped = gram.to(at::kDouble).clone();
  damped.diagonal().add_(damping * damped.diagonal().mean());
  const at::Tensor u = at::linalg_cholesky(at::linalg_inv(damped), /*upper=*/true);
  const at::Tensor rest = w.to(at::kDouble).clone(), values = at::empty_like(rest);
  const at::Tensor step = grid_of_blocks(scales).step.repeat_interleave(64, 1).to(at::kDouble);
  for (int64_t j = 0; j < n; ++j) {
    const at::Tensor s = step.select(1, j);
    values.select(1, j).copy_((rest.select(1, j) / s).round().clamp(-8, 7) * s);
    const at::Tensor error = (rest.select(1, j) - values.select(1, j)) / u[j][j];
    if (j + 1 < n) rest.narrow(1, j + 1, n - j - 1).addr_(error, u[j].slice(0, j + 1), 1, -1);
  }
  const at::Tensor solved =
      dequantize(gptq(w, gptq_factor(gram, {.activation_order = false, .damping = damping}), scales));
  const double other = (solved - values).abs().gt(1e-6).to(at::kDouble).mean().item<double>();
  EXPECT_LT(other, 0.002);  // roundings at a tie of one or the other
}

TEST(Gptq, SurvivesASingularGramMatrix) {
  at::manual_seed(3);
  const at::Tensor w = at::randn({32, 256}), x = at::randn({3, 256});
  x.narrow(1, 100, 50).zero_();  // channels that never carried anything
  const PackedTensor nearest = pack_int4(w, 128), solved = gptq(w, gptq_factor(gram_of(x)), nearest);
  EXPECT_TRUE(dequantize(solved).isfinite().all().item<bool>());
  EXPECT_LE(loss(solved, w, gram_of(x)), loss(nearest, w, gram_of(x)));
  EXPECT_TRUE(at::equal(gptq(w, gptq_factor(at::zeros({256, 256})), nearest).codes, nearest.codes));
}

TEST(Gptq, RefusesStatisticsThatAreNotFinite) {
  const at::Tensor w = at::randn({8, 128}), gram = at::eye(128);
  gram[5][5] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(gptq(w, gptq_factor(gram), pack_int4(w, 128)), Error);
  EXPECT_THROW(gptq(w, gptq_factor(at::eye(64)), pack_int4(w, 128)), Error);
}

TEST(Gptq, GivesTheSameCodesForAnyNumberOfThreads) {
  at::manual_seed(4);
  const at::Tensor w = at::randn({520, 640}) * 0.05, gram = gram_of(correlated_inputs(900, 640));
  const PackedTensor scales = pack_nvfp4(w);
  set_threads(1);
  const at::Tensor expected = gptq(w, gptq_factor(gram), scales).codes;
  for (const int threads : {2, 3, 5}) {
    set_threads(threads);
    EXPECT_TRUE(at::equal(gptq(w, gptq_factor(gram), scales).codes, expected)) << threads;
  }
  set_threads(0);
}

}  // namespace
}  // namespace visq

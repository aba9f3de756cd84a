#include "visq/quant/low_rank.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/error_of.h"
#include "visq/core/parallel.h"
#include "visq/quant/codec.h"
#include "visq/quant/solver.h"

namespace visq {
namespace {

at::Tensor gram_of(int64_t tokens, int64_t channels) {
  at::Tensor x = at::mm(at::randn({tokens, channels / 4}), at::randn({channels / 4, channels})) +
                 0.1 * at::randn({tokens, channels});
  x.slice(1, 3, channels, 37).mul_(20);
  return at::mm(x.t(), x);
}

double loss(const at::Tensor& weight, const LowRank& factors, const at::Tensor& gram) {
  return gram_loss(weight - factors.product(), gram);
}

TEST(LowRank, WithoutInputsIsTheTruncatedSingularValueDecomposition) {
  at::manual_seed(1);
  const at::Tensor w = at::randn({96, 200}) * at::linspace(0.1, 1, 200);
  const auto [u, s, v] = at::linalg_svd(w.to(at::kDouble), /*full_matrices=*/false);
  const LowRank factors = nearest_low_rank(w, {}, 8, at::kFloat);
  const at::Tensor expected = at::mm(u.narrow(1, 0, 8) * s.narrow(0, 0, 8), v.narrow(0, 0, 8));
  EXPECT_LT((factors.product() - expected).abs().max().item<double>(), 1e-5);
  EXPECT_LT((factors.a.norm(2, {1}) - 1).abs().max().item<double>(), 1e-5);
  EXPECT_LT((factors.b.norm(2, {0}) - s.narrow(0, 0, 8)).abs().max().item<double>(), 1e-4);
}

// The optimum by another way: the decomposition of W·R with G = R·Rᵀ.
TEST(LowRank, LosesNoMoreOfTheOutputsThanTheOptimum) {
  at::manual_seed(2);
  const at::Tensor gram = gram_of(500, 128), root = at::linalg_cholesky(gram.to(at::kDouble));
  for (const int64_t rows : {160, 600}) {  // all of them at once, and a subspace
    const at::Tensor w = at::randn({rows, 128});
    const at::Tensor singular = at::linalg_svdvals(at::mm(w.to(at::kDouble), root));
    for (const int64_t rank : {1, 8, 32}) {
      const double optimum = singular.slice(0, rank).square().sum().item<double>();
      const double found = loss(w, nearest_low_rank(w, gram, rank, at::kFloat), gram);
      EXPECT_LT(found, 1.001 * optimum) << rank << " of " << rows;
      EXPECT_LT(found, 0.9 * loss(w, nearest_low_rank(w, {}, rank, at::kFloat), gram))
          << rank << " of " << rows;
    }
  }
}

TEST(LowRank, OfMoreThanTheMatrixHasIsTheMatrixAndZeros) {
  at::manual_seed(3);
  for (const at::Tensor& w : {at::randn({12, 40}), at::randn({40, 12})}) {
    const LowRank factors = nearest_low_rank(w, {}, 20, at::kFloat);
    EXPECT_EQ(factors.a.sizes(), (std::vector<int64_t>{20, w.size(1)}));
    EXPECT_EQ(factors.b.sizes(), (std::vector<int64_t>{w.size(0), 20}));
    EXPECT_LT((factors.product() - w).abs().max().item<float>(), 1e-5);
    EXPECT_EQ(factors.a.slice(0, 12).abs().max().item<float>(), 0);
    EXPECT_EQ(factors.b.slice(1, 12).abs().max().item<float>(), 0);
  }
}

TEST(LowRank, SurvivesInputsThatSayNothing) {
  at::manual_seed(4);
  const at::Tensor w = at::randn({64, 96}), x = at::randn({3, 96});
  const at::Tensor singular = at::mm(x.t(), x);  // three tokens: rank 3 is all that counts
  const LowRank factors = nearest_low_rank(w, singular, 8, at::kBFloat16);
  EXPECT_LT(loss(w, factors, singular), 1e-4 * gram_loss(w, singular));
  for (const LowRank& of : {nearest_low_rank(w, at::zeros({96, 96}), 8, at::kFloat),
                            nearest_low_rank(at::zeros({64, 96}), singular, 8, at::kFloat)})
    EXPECT_TRUE(of.product().isfinite().all().item<bool>());
}

TEST(LowRank, AMakeUpForRoundingIsNeverWorse) {
  at::manual_seed(5);
  const at::Tensor w = at::randn({128, 128}), gram = gram_of(400, 128);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const LowRank before = nearest_low_rank(w, gram, 16, dtype);
    const at::Tensor coarse = dequantize(pack_nvfp4(w - before.product()));
    const LowRank after = refit_low_rank(before, w, coarse, gram);
    EXPECT_LT(loss(w - coarse, after, gram), 0.8 * loss(w - coarse, before, gram));
    const at::Tensor exact = w - before.product();  // nothing to make up for but the rounding of the factors
    EXPECT_LE(loss(w - exact, refit_low_rank(before, w, exact, gram), gram), loss(w - exact, before, gram));
  }
}

TEST(LowRank, RefusesWhatIsNotFinite) {
  const at::Tensor gram = at::eye(32);
  gram[3][3] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(error_of([&] {
              nearest_low_rank(at::ones({16, 32}), gram, 4, at::kFloat);
            }),
            "low rank: weights or statistics hold a NaN or an infinity");
}

TEST(LowRank, DoesNotDependOnTheNumberOfThreads) {
  at::manual_seed(6);
  const at::Tensor w = at::randn({600, 520}), gram = gram_of(700, 520);
  set_threads(1);
  const LowRank expected = nearest_low_rank(w, gram, 8, at::kFloat);
  for (const int threads : {2, 5}) {
    set_threads(threads);
    const LowRank found = nearest_low_rank(w, gram, 8, at::kFloat);
    EXPECT_TRUE(at::equal(found.a, expected.a) && at::equal(found.b, expected.b)) << threads;
  }
  set_threads(0);
}

}  // namespace
}  // namespace visq

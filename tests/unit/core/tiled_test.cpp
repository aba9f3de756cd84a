#include "visq/core/tiled.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

namespace visq {
namespace {

// The result of `compute` with each of several numbers of threads.
template <typename Compute>
std::vector<at::Tensor> with_threads(Compute compute) {
  std::vector<at::Tensor> results;
  const int before = at::get_num_threads();
  for (const int threads : {1, 2, 3, 5}) {
    at::set_num_threads(threads);
    results.push_back(compute());
  }
  at::set_num_threads(before);
  return results;
}

TEST(Tiled, BitsDoNotDependOnTheNumberOfThreads) {
  at::manual_seed(1);
  for (const auto& [m, k, n] : {std::tuple{1, 700, 3000}, {7, 256, 64}, {300, 513, 257}, {900, 128, 2100}}) {
    const at::Tensor x = at::randn({m, k}), weight = at::randn({n, k}), bias = at::randn({n});
    for (const auto& results : {with_threads([&] { return tiled_linear(x, weight, bias); }),
                                with_threads([&] { return tiled_matmul(x, weight.t()); })}) {
      for (const at::Tensor& result : results) EXPECT_TRUE(at::equal(result, results.front()));
    }
  }
}

TEST(Tiled, LinearIsThatOfTheLibrary) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({3, 90, 64}), weight = at::randn({1500, 64}), bias = at::randn({1500});
  EXPECT_TRUE(at::allclose(tiled_linear(x, weight, bias), at::linear(x, weight, bias), 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(tiled_linear(x, weight), at::linear(x, weight), 1e-5, 1e-5));
  EXPECT_EQ(tiled_linear(x.slice(1, 0, 0), weight).numel(), 0);
}

TEST(Tiled, GramAccumulatesAndIsSymmetric) {
  at::manual_seed(3);
  const at::Tensor first = at::randn({40, 600}), second = at::randn({25, 600});
  const auto results = with_threads([&] {
    at::Tensor gram = at::zeros({600, 600});
    add_gram(gram, first);
    add_gram(gram, second);
    return gram;
  });
  for (const at::Tensor& gram : results) EXPECT_TRUE(at::equal(gram, results.front()));
  EXPECT_TRUE(at::equal(results.front(), results.front().t()));
  const at::Tensor expected = at::mm(first.t(), first) + at::mm(second.t(), second);
  EXPECT_TRUE(at::allclose(results.front(), expected, 1e-4, 1e-4));
}

TEST(Tiled, QuadraticFormsAreThoseOfTheWholeProduct) {
  at::manual_seed(4);
  for (const auto& [rows, k] : {std::pair{1, 64}, {300, 513}, {600, 1100}}) {
    const at::Tensor x = at::randn({rows, k}), root = at::randn({k, k});
    const at::Tensor gram = at::mm(root.t(), root);
    const auto results = with_threads([&] { return quadratic_forms(x, gram); });
    for (const at::Tensor& forms : results) EXPECT_TRUE(at::equal(forms, results.front()));
    const at::Tensor expected = (at::mm(x.to(at::kDouble), gram.to(at::kDouble)) * x).sum(1);
    EXPECT_TRUE(at::allclose(results.front().to(at::kDouble), expected, 1e-4, 1e-4));
  }
}

TEST(TiledCholesky, IsTheFactorWhateverTheNumberOfThreads) {
  at::manual_seed(8);
  for (const int64_t k : {1, 5, 256, 257, 700}) {
    const at::Tensor x = at::randn({k + 50, k}), a = at::mm(x.t(), x);
    const std::vector<at::Tensor> results = with_threads([&] { return tiled_cholesky(a); });
    for (const at::Tensor& l : results) EXPECT_TRUE(at::equal(l, results[0])) << k;
    EXPECT_TRUE(at::equal(results[0], results[0].tril()));
    const at::Tensor difference = at::mm(results[0], results[0].t()) - a;
    EXPECT_LT(difference.abs().max().item<float>(), 1e-5 * a.abs().max().item<float>()) << k;
  }
}

TEST(TiledCholesky, SaysWhenThereIsNone) {
  const at::Tensor a = at::eye(600);
  a[500][500] = -1;
  EXPECT_FALSE(tiled_cholesky(a).defined());
  a[500][500] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(tiled_cholesky(a).defined());
}

TEST(Tiled, GradientsAreThoseOfTheLibrary) {
  at::manual_seed(8);
  const at::Tensor bias = at::randn({1500}), above = at::randn({3, 90, 1500});
  const auto gradients = [&](const auto& compute) {
    const at::Tensor x = at::randn({3, 90, 64}, at::make_generator<at::CPUGeneratorImpl>(1)).requires_grad_();
    const at::Tensor weight =
        at::randn({1500, 64}, at::make_generator<at::CPUGeneratorImpl>(2)).requires_grad_();
    compute(x, weight).backward(above);
    return std::pair{x.grad(), weight.grad()};
  };
  const auto library =
      gradients([&](const auto& x, const auto& weight) { return at::linear(x, weight, bias); });
  const auto products = with_threads([&] {
    const auto [x, weight] =
        gradients([&](const auto& a, const auto& b) { return tiled_linear(a, b, bias); });
    EXPECT_TRUE(at::allclose(x, library.first, 1e-4, 1e-4));
    EXPECT_TRUE(at::allclose(weight, library.second, 1e-4, 1e-4));
    return at::cat({x.flatten(), weight.flatten()});
  });
  for (const at::Tensor& product : products) EXPECT_TRUE(at::equal(product, products.front()));
  const auto [x, weight] = gradients([](const at::Tensor& a, const at::Tensor& b) {
    return tiled_map(tiled_matmul(a.flatten(0, 1), b.t()), [](const at::Tensor& y) { return at::silu(y); })
        .view({3, 90, 1500});
  });
  const auto silu =
      gradients([](const at::Tensor& a, const at::Tensor& b) { return at::silu(at::linear(a, b)); });
  EXPECT_TRUE(at::allclose(x, silu.first, 1e-4, 1e-4));
  EXPECT_TRUE(at::allclose(weight, silu.second, 1e-4, 1e-4));
}

TEST(Tiled, GradientsPassWeightsThatInferenceModeHasMade) {
  at::Tensor weight;
  {
    const c10::InferenceMode inference;
    weight = at::ones({4, 3});
  }
  const at::Tensor x = at::ones({2, 3}).requires_grad_();
  tiled_linear(x, weight).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), at::full({2, 3}, 4.0f)));
}

}  // namespace
}  // namespace visq

#include "visq/quant/statistics.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

at::Tensor rows(std::vector<int64_t> values) { return at::tensor(values, at::kLong); }

TEST(Statistics, KeepsTextAndImageTokensApart) {
  const at::Tensor x = at::tensor({1.0f, -2.0f, 3.0f, 4.0f, -5.0f, 6.0f}).view({3, 2});
  Statistics statistics(/*with_gram=*/true);
  statistics.add(x, rows({0, 2}), rows({1}));
  EXPECT_EQ(statistics.text().tokens, 2);
  EXPECT_EQ(statistics.image().tokens, 1);
  EXPECT_TRUE(at::equal(statistics.text().abs_max, at::tensor({5.0f, 6.0f})));
  EXPECT_TRUE(at::equal(statistics.image().abs_max, at::tensor({3.0f, 4.0f})));
  // Text: [1 −2] and [−5 6]: Σxxᵀ = [[1+25, −2−30], [−2−30, 4+36]]
  EXPECT_TRUE(at::equal(statistics.text().gram, at::tensor({26.0f, -32.0f, -32.0f, 40.0f}).view({2, 2})));
}

TEST(Statistics, CombinesModalities) {
  const at::Tensor x = at::tensor({1.0f, -2.0f, 3.0f, 4.0f}).view({2, 2});
  Statistics statistics(true);
  statistics.add(x, rows({0}), rows({1}));
  EXPECT_EQ(statistics.tokens(), 2);
  EXPECT_TRUE(at::equal(statistics.abs_max(), at::tensor({3.0f, 4.0f})));
  EXPECT_TRUE(at::equal(statistics.mean_magnitude(), at::tensor({2.0f, 3.0f})));
  EXPECT_TRUE(at::equal(statistics.gram(), at::tensor({10.0f, 10.0f, 10.0f, 20.0f}).view({2, 2})));
}

TEST(Statistics, AddUpOverBatchesAndMachines) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({12, 6});
  Statistics whole(true), first(true), second(true);
  whole.add(x, at::arange(12), rows({}));
  first.add(x.slice(0, 0, 5), at::arange(5), rows({}));
  second.add(x.slice(0, 5), at::arange(7), rows({}));
  first.merge(second);
  EXPECT_EQ(first.tokens(), 12);
  EXPECT_TRUE(at::equal(first.abs_max(), whole.abs_max()));
  EXPECT_TRUE(at::allclose(first.mean_magnitude(), whole.mean_magnitude(), 1e-6, 0));
  EXPECT_TRUE(at::allclose(first.gram(), whole.gram(), 1e-5, 1e-5));
}

TEST(Statistics, WithoutTokensTheyAreRefused) { EXPECT_THROW(Statistics().abs_max(), Error); }

TEST(Statistics, GramIsKeptOnlyWhenAskedFor) {
  Statistics statistics;
  statistics.add(at::ones({2, 3}), rows({0, 1}), rows({}));
  EXPECT_FALSE(statistics.gram().defined());
}

}  // namespace
}  // namespace visq

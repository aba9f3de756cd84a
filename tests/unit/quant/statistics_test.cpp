#include "visq/quant/statistics.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

at::Tensor flags(std::vector<int64_t> values) { return at::tensor(values, at::kLong).to(at::kBool); }

// Tickets by number, none held out.
TokenRows rows_of(const at::Tensor& image) {
  return {image, at::zeros_like(image), at::arange(image.size(0), at::kLong)};
}

TEST(Statistics, KeepsTextAndImageTokensApart) {
  const at::Tensor x = at::tensor({1.0f, -2.0f, 3.0f, 4.0f, -5.0f, 6.0f}).view({3, 2});
  Statistics statistics(Detail::gram);
  statistics.add(x, rows_of(flags({0, 1, 0})));
  EXPECT_EQ(statistics.text().tokens, 2);
  EXPECT_EQ(statistics.image().tokens, 1);
  EXPECT_TRUE(at::equal(statistics.text().abs_max, at::tensor({5.0f, 6.0f})));
  EXPECT_TRUE(at::equal(statistics.image().abs_max, at::tensor({3.0f, 4.0f})));
  // Text: [1 −2] and [−5 6]: Σxxᵀ = [[1+25, −2−30], [−2−30, 4+36]]
  EXPECT_TRUE(at::equal(statistics.text().gram, at::tensor({26.0f, -32.0f, -32.0f, 40.0f}).view({2, 2})));
}

TEST(Statistics, CombinesModalitiesByTheirWeights) {
  const at::Tensor x = at::tensor({1.0f, -2.0f, 3.0f, 4.0f}).view({2, 2});
  Statistics statistics(Detail::gram);
  statistics.add(x, rows_of(flags({0, 1})));
  EXPECT_EQ(statistics.tokens(), 2);
  EXPECT_TRUE(at::equal(statistics.abs_max(), at::tensor({3.0f, 4.0f})));
  EXPECT_TRUE(at::equal(statistics.mean_magnitude(), at::tensor({2.0f, 3.0f})));
  EXPECT_TRUE(at::equal(statistics.gram(), at::tensor({10.0f, 10.0f, 10.0f, 20.0f}).view({2, 2})));
  EXPECT_TRUE(at::equal(statistics.gram({2, 3}), at::tensor({29.0f, 32.0f, 32.0f, 56.0f}).view({2, 2})));
  EXPECT_TRUE(at::equal(statistics.mean_magnitude({1, 3}), at::tensor({2.5f, 3.5f})));
}

TEST(Statistics, AddUpOverBatchesAndMachines) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({400, 6});
  const at::Tensor image = at::arange(400) % 4 == 0, held_out = at::arange(400) >= 300;
  const TokenRows all(image, held_out, at::randint(int64_t{1} << 60, {400}, at::kLong));
  Statistics whole(Detail::gram), first(Detail::gram), second(Detail::gram);
  whole.add(x, all);
  first.add(x.slice(0, 0, 130), all.of(at::arange(130)));
  second.add(x.slice(0, 130), all.of(at::arange(130, 400)));
  second.merge(first);
  EXPECT_EQ(second.tokens(), 400);
  EXPECT_EQ(second.text().held_out_tokens, 75);
  EXPECT_TRUE(at::equal(second.abs_max(), whole.abs_max()));
  EXPECT_TRUE(at::allclose(second.mean_magnitude(), whole.mean_magnitude(), 1e-6, 0));
  EXPECT_TRUE(at::allclose(second.gram(), whole.gram(), 1e-5, 1e-5));
  for (const bool drawn_held_out : {false, true}) {
    const DrawnTokens one = whole.draw(drawn_held_out), other = second.draw(drawn_held_out);
    EXPECT_TRUE(at::equal(one.rows, other.rows)) << "a sample depends on the order of the tokens";
    EXPECT_TRUE(at::equal(one.counts, other.counts));
  }
}

TEST(Statistics, HeldOutTokensAreNotFittedTo) {
  const at::Tensor x = at::tensor({1.0f, 2.0f, 3.0f, 4.0f}).view({4, 1});
  Statistics statistics(Detail::gram);
  statistics.add(x, {flags({0, 0, 0, 0}), flags({0, 1, 0, 1}), at::arange(4)});
  EXPECT_EQ(statistics.gram().item<float>(), 1 + 9);
  EXPECT_EQ(statistics.abs_max().item<float>(), 4) << "scales must cover every token";
  EXPECT_EQ(statistics.tokens(), 4);
  EXPECT_TRUE(at::equal(statistics.draw(false).rows.flatten(), at::tensor({1.0f, 3.0f})));
  EXPECT_TRUE(at::equal(statistics.draw(true).rows.flatten(), at::tensor({2.0f, 4.0f})));
}

TEST(Statistics, ASampleStandsForAllTokens) {
  const at::Tensor x = at::arange(1000, at::kFloat).unsqueeze(1);
  Statistics statistics(Detail::rows);
  statistics.add(x, {at::arange(1000) < 200, flags(std::vector<int64_t>(1000)), at::arange(1000).flip(0)});
  EXPECT_FALSE(statistics.gram().defined());
  const DrawnTokens drawn = statistics.draw(false, {1, 0.5});
  ASSERT_EQ(drawn.rows.size(0), 2 * kSampledTokens);
  EXPECT_EQ(drawn.rows[0].item<float>(), 999) << "the lowest ticket";
  EXPECT_FLOAT_EQ(drawn.counts.sum().item<float>(), 800 + 0.5f * 200);
}

TEST(Statistics, WithoutTokensTheyAreRefused) { EXPECT_THROW(Statistics().abs_max(), Error); }

TEST(Statistics, MoreThanMagnitudesIsKeptOnlyWhenAskedFor) {
  Statistics statistics;
  statistics.add(at::ones({2, 3}), TokenRows::alike(2, /*image=*/false, at::kCPU));
  EXPECT_FALSE(statistics.gram().defined());
  EXPECT_FALSE(statistics.draw(false).rows.defined());
}

}  // namespace
}  // namespace visq

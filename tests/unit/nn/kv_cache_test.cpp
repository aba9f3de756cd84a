#include "visq/nn/kv_cache.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::random;

AttentionPattern causal() {
  AttentionPattern pattern;
  pattern.causal = true;
  return pattern;
}

/// Sequences that grow, with what each should attend to kept aside.
class Growing {
 public:
  explicit Growing(size_t sequences) : keys_(sequences), values_(sequences) {}

  /// Feeds lengths[s] new tokens of each sequence to the cache.
  /// @return the largest deviation from plain attention
  double step(const std::vector<int64_t>& lengths) {
    std::vector<int64_t> offsets = {0};
    for (const int64_t length : lengths) offsets.push_back(offsets.back() + length);
    const int64_t rows = offsets.back();
    const at::Tensor q = random({rows, 4, 8}, ++seed_), k = random({rows, 2, 8}, ++seed_),
                     v = random({rows, 2, 8}, ++seed_);
    const at::Tensor out = cached_attention(q, k, v, offsets, causal(), cache, 0);
    double worst = 0;
    for (size_t s = 0; s < lengths.size(); ++s) {
      if (lengths[s] == 0) continue;
      const auto own = [&](const at::Tensor& x) { return x.narrow(0, offsets[s], lengths[s]); };
      keys_[s] = keys_[s].defined() ? at::cat({keys_[s], own(k)}) : own(k);
      values_[s] = values_[s].defined() ? at::cat({values_[s], own(v)}) : own(v);
      worst = std::max(worst, test::largest_difference(
                                  own(out), test::plain_attention(own(q), keys_[s], values_[s], true)));
    }
    return worst;
  }

  void keep(const std::vector<int64_t>& sequences) {
    cache.keep(sequences);
    std::vector<at::Tensor> keys, values;
    for (const int64_t s : sequences) {
      keys.push_back(keys_[static_cast<size_t>(s)]);
      values.push_back(values_[static_cast<size_t>(s)]);
    }
    keys_ = keys, values_ = values;
  }

  KvCache cache;

 private:
  std::vector<at::Tensor> keys_, values_;
  uint64_t seed_ = 0;
};

TEST(KvCache, ServesSequencesOfUnlikeLengths) {
  Growing sequences(4);
  EXPECT_LT(sequences.step({5, 3, 5, 1}), 1e-5);
  EXPECT_EQ(sequences.cache.layers[0].size(), 3u);  // lengths 5, 3 and 1
  for (int step = 0; step < 40; ++step) EXPECT_LT(sequences.step({1, 1, 1, 1}), 1e-5);
  EXPECT_EQ(sequences.cache.layers[0].size(), 3u);
}

TEST(KvCache, SplitsAGroupWhenItsSequencesGrowUnevenly) {
  Growing sequences(3);
  EXPECT_LT(sequences.step({4, 4, 4}), 1e-5);
  EXPECT_LT(sequences.step({1, 3, 1}), 1e-5);
  EXPECT_LT(sequences.step({2, 0, 1}), 1e-5);
  EXPECT_LT(sequences.step({1, 1, 1}), 1e-5);
}

TEST(KvCache, DropsSequencesThatHaveEnded) {
  Growing sequences(5);
  EXPECT_LT(sequences.step({4, 2, 4, 2, 6}), 1e-5);
  sequences.keep({0, 3, 4});
  EXPECT_LT(sequences.step({1, 1, 1}), 1e-5);
  sequences.keep({1});
  EXPECT_LT(sequences.step({1}), 1e-5);
}

TEST(KvCache, RefusesABatchOfAnotherSize) {
  Growing sequences(2);
  sequences.step({2, 2});
  const at::Tensor q = random({3, 4, 8}, 1), kv = random({3, 2, 8}, 2);
  EXPECT_THROW(cached_attention(q, kv, kv, std::vector<int64_t>{0, 1, 2, 3}, causal(), sequences.cache, 0),
               Error);
}

}  // namespace
}  // namespace visq::nn

#include "visq/core/parallel.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <thread>

namespace visq {
namespace {

class Parallel : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(3); }
  void TearDown() override { at::set_num_threads(before_); }

  void saw() {
    const std::lock_guard lock(mutex_);
    threads_.insert(std::this_thread::get_id());
  }
  std::set<std::thread::id> threads_;

 private:
  int before_ = at::get_num_threads();
  std::mutex mutex_;
};

TEST_F(Parallel, EveryThreadGetsARange) {
  std::vector<int> visits(100, 0);
  std::atomic<int> nested_loops_alone = 0;
  parallel_for(100, 1, [&](int64_t begin, int64_t end) {
    saw();
    nested_loops_alone += at::in_parallel_region() ? 1 : 0;
    for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
  });
  EXPECT_EQ(visits, std::vector<int>(100, 1));
  EXPECT_EQ(threads_.size(), 3u);
  EXPECT_EQ(nested_loops_alone, 3);
}

TEST_F(Parallel, AJobIsDoneOnceAndAThreadThatIsFreeTakesTheNext) {
  std::vector<int> visits(50, 0);
  std::atomic<int> waiting = 0;
  parallel_jobs(50, [&](int64_t i) {
    saw();
    ++visits[static_cast<size_t>(i)];
    if (i > 2) return;
    // The first three are in different hands, or this never ends.
    ++waiting;
    while (waiting < 3) std::this_thread::yield();
  });
  EXPECT_EQ(visits, std::vector<int>(50, 1));
  EXPECT_EQ(threads_.size(), 3u);
}

TEST_F(Parallel, AnExceptionReachesTheCaller) {
  const auto fail_at_7 = [](int64_t i) {
    if (i == 7) throw std::runtime_error("seven");
  };
  EXPECT_THROW(parallel_jobs(10, fail_at_7), std::runtime_error);
}

}  // namespace
}  // namespace visq

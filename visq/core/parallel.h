// Loops over independent pieces of work. The pieces do not depend on the number of threads, so results do not
// either.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace visq {

/// How many threads to use. 0: one a core.
void set_threads(int threads);

/// Calls `body(begin, end)` for ranges that cover [0, n); exceptions reach the caller.
/// @param grain  smallest range worth a thread
template <typename Body>
void parallel_for(int64_t n, int64_t grain, Body&& body) {
  at::parallel_for(0, n, grain, std::forward<Body>(body));
}

/// Calls `job(i)` once for every i in [0, n), each thread taking the next when it is done with one: for jobs
/// of unlike size. Loops inside a job run on its thread alone. Exceptions reach the caller.
template <typename Job>
void parallel_jobs(int64_t n, Job&& job) {
  std::atomic<int64_t> next{0};
  at::parallel_for(0, std::min<int64_t>(n, at::get_num_threads()), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < n; i = next++) job(i);
  });
}

}  // namespace visq

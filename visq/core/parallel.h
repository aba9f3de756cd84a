// Loops over independent pieces of work. The pieces do not depend on the number of threads, so results do not
// either.
#pragma once
#include <cstdint>
#include <functional>

namespace visq {

/// How many threads to use. 0: one a core.
void set_threads(int threads);

/// Calls `body(begin, end)` for ranges that cover [0, n); exceptions reach the caller.
/// @param grain  smallest range worth a thread
void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t begin, int64_t end)>& body);

/// Calls `job(i)` once for every i in [0, n), each thread taking the next when it is done with one: for jobs
/// of unlike size. Loops inside a job run on its thread alone. Exceptions reach the caller.
void parallel_jobs(int64_t n, const std::function<void(int64_t i)>& job);

}  // namespace visq

// Loops over independent pieces of work. The pieces do not depend on the number of threads, so results do not
// either.
#pragma once
#include <ATen/Parallel.h>

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

}  // namespace visq

// Parts of packed linears: what one GPU of several multiplies with, and parts put together again
// (spec/export.md §4.3).
#pragma once
#include <string>
#include <vector>

#include "visq/export/layout.h"

namespace visq::trt {

/// Output rows [begin, begin + count). Scales and codes of rows go along; one scale of all stays.
PackedLinear rows_of(const PackedLinear& linear, int64_t begin, int64_t count);
/// Input columns, likewise; factors of the inputs go along. @param begin, count  in whole blocks
PackedLinear columns_of(const PackedLinear& linear, int64_t begin, int64_t count);

/// What linears that lie in one, row behind row, have to share and do not; "": nothing, so they can be
/// joined.
const char* unshared(const PackedLinear& a, const PackedLinear& b);
/// The same of linears whose columns lie behind one another.
const char* unshared_columns(const PackedLinear& a, const PackedLinear& b);
/// @param parts  at least one; what has to be shared is, and is taken from the first
PackedLinear join_rows(const std::vector<PackedLinear>& parts);
PackedLinear join_columns(const std::vector<PackedLinear>& parts);

}  // namespace visq::trt

// Whether a linear came out of a conversion as it went in.
#pragma once
#include "visq/export/layout.h"

namespace visq {

/// Whether factors of the input change nothing; undefined: there are none.
bool is_one(const at::Tensor& factors);

/// What differs between a linear and what was made of it; "": nothing. Single scales may differ by a rounding
/// of their reciprocals, which is what some layouts store; factors of one may be there or not.
const char* difference(const PackedLinear& before, const PackedLinear& after);
/// Likewise of the scales of a KV cache.
const char* difference(const KvScales& before, const KvScales& after);

}  // namespace visq

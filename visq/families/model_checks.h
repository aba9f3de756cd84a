// What a checkpoint must hold, as config.json says.
#pragma once
#include "visq/families/expectations.h"
#include "visq/families/names.h"

namespace visq {

/// Tensors of tower, projector, embedding, norms and decoder.
/// @param with_linears  with the decoder's linears
std::vector<ExpectedTensor> expected_tensors(const ModelSpec& spec, bool with_linears);

/// @throws Error for an expected tensor that is absent, has another shape or holds no plain floating-point
///         values, and for a decoder linear with a bias that config.json does not announce
void check_tensors(const ModelSpec& spec, const NameMap& names, const Checkpoint& checkpoint,
                   bool with_linears);

}  // namespace visq

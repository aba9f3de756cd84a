// Projectors that VILA and the original LLaVA name alike.
#pragma once
#include <optional>
#include <string>

#include "visq/nn/projector.h"

namespace visq {

/// The chain of a `mlpNx_gelu` projector: N linears of `hidden` channels with an activation between them, the
/// modules of a torch Sequential (prefix + "0", "2", …). Empty: `type` is of another form, or N is beyond
/// 1 … 16.
std::optional<nn::ProjectorSpec> mlp_gelu_projector(const std::string& type, const std::string& prefix,
                                                    int64_t hidden);

}  // namespace visq

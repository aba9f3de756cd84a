// What a conversion between layouts will write, worked out from the quantized checkpoint alone.
#pragma once
#include "visq/export/quantized_checkpoint.h"
#include "visq/pipeline/convert.h"
#include "visq/pipeline/plan.h"

namespace visq {

struct Conversion {
  Plan plan;  ///< recipe.name: as the files have it, "" where they do not
  std::vector<QuantizedKvCache> caches;
  std::vector<std::string> copied;  ///< tensors that stay as they are
};

/// The first scale that a type does not hold exactly; empty: it holds all of them.
std::optional<float> first_unheld(const PackedLinear& linear, at::ScalarType dtype);
/// Whether scales have the type of the weights, unless that does not hold them
/// (QuantizedLinear::wide_scales).
bool follows_weights(const Layout& layout);

/// Reads every quantized linear once, several side by side, so that nothing is written of what the target
/// cannot hold.
/// @throws Error naming the tensor, or the option, and the way out
Conversion plan_conversion(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                           const ConvertOptions& options);

}  // namespace visq

// Which modality a model's answers depend on, without gradients.
#pragma once
#include <optional>

#include "visq/pipeline/calibrate.h"
#include "visq/quant/statistics.h"

namespace visq {

/// Runs some samples three times: as they are, and with noise on what each layer adds to their text tokens,
/// or to their image tokens. The divergence of the answers grows with the noise's power.
/// @return empty: no sample that has an image and an answer is short enough
std::optional<ModalitySensitivity> modality_sensitivity(const Model& model,
                                                        const CalibrationOptions& options);

}  // namespace visq

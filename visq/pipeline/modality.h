// Which modality a model's answers depend on, without gradients.
#pragma once
#include "visq/pipeline/calibrate.h"
#include "visq/quant/statistics.h"

namespace visq {

/// Runs some samples three times: as they are, and with noise on what each layer adds to their text tokens,
/// or to their image tokens. The divergence of the answers grows with the noise's power.
/// @throws Error when no sample has an answer, or none an image
ModalitySensitivity modality_sensitivity(const Model& model, const CalibrationOptions& options);

/// Whether a sample has an image and an answer.
bool has_answers_to_images(const CalibrationOptions& options);

}  // namespace visq

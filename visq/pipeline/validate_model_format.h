// visq check of checkpoints that are no Hugging Face directories.
#pragma once
#include <filesystem>
#include <vector>

#include "visq/export/model_format.h"
#include "visq/export/validate.h"

namespace visq {

/// What can be judged of a checkpoint in a model format: whether its files are sound and of the source's
/// model (A9), and what its numbers are (rules C, D, E), beside those of the source.
/// @param source   the original
/// @param engines  as for validate()
Validation validate_model_format(const ModelFormat& format, const std::filesystem::path& checkpoint,
                                 const Checkpoint& source, const std::vector<const EngineModel*>& engines);

}  // namespace visq

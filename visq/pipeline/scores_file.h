// Scores on disk: from them, formats are chosen for any other budget without running the model.
#pragma once
#include <filesystem>

#include "visq/pipeline/sensitivity.h"

namespace visq {

/// @throws Error when the file cannot be written
void save_scores(const std::filesystem::path& file, const Model& model, const SearchSpace& space,
                 const Scores& scores);

/// The scores of this search space. They may be of more formats and units than it has.
/// @throws Error naming the file, when it is damaged, of another model or layout, or lacks a format or a unit
Scores load_scores(const std::filesystem::path& file, const Model& model, const SearchSpace& space);

}  // namespace visq

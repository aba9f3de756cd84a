#pragma once
#include "visq/export/tensorrt_llm_form.h"

namespace visq::trt {

/// Opens all ranks and checks that they have exactly the tensors that config.json and the model ask for.
/// @param source  outlives the result
std::unique_ptr<StoredModel> open_ranks(const std::filesystem::path& directory, const Model& source);

}  // namespace visq::trt

#pragma once
#include <array>

namespace visq {

/// The files of visq/export/engines/, which the build puts into the program.
extern const std::array<const char*, 3> kEngineTexts;

}  // namespace visq

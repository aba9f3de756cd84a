#pragma once

namespace visq {

/// presets.yaml, which the build puts into the program.
extern const char* const kPresetsText;

}  // namespace visq

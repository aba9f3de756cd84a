// Quantized linears on their way to a GGUF file: in safetensors, with the scales that GGUF has.
#pragma once
#include "visq/export/layout.h"

namespace visq {

/// What `visq quantize --layout gguf` quantizes to before it writes the GGUF file: scales are rounded to F16
/// before codes are computed from them. No engine reads it.
const Layout& gguf_layout();

}  // namespace visq

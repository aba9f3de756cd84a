// Phi-4-multimodal.
#pragma once
#include "visq/families/family.h"

namespace visq {

Family phi4_multimodal_family();

}  // namespace visq

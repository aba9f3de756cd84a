// Phi-3-vision and Phi-3.5-vision.
#pragma once
#include "visq/families/family.h"

namespace visq {

Family phi3_v_family();

}  // namespace visq

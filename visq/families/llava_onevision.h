// LLaVA-OneVision.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family llava_onevision_family();
}  // namespace visq

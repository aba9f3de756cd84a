// Qwen2.5-VL.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family qwen2_5_vl_family();
}  // namespace visq

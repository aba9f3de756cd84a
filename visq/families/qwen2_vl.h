// Qwen2-VL.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family qwen2_vl_family();
}  // namespace visq

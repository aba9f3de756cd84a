// PaliGemma and PaliGemma 2.
#pragma once
#include "visq/families/family.h"

namespace visq {

Family paligemma_family();

}  // namespace visq

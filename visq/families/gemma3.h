// Gemma 3.
#pragma once
#include "visq/families/family.h"

namespace visq {

Family gemma3_family();

}  // namespace visq

// Mistral Small 3.1 and later.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family mistral3_family();
}  // namespace visq

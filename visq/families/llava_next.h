// LLaVA-NeXT (LLaVA 1.6).
#pragma once
#include "visq/families/family.h"

namespace visq {
Family llava_next_family();
}  // namespace visq

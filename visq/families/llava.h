// LLaVA 1.5 and other checkpoints of LlavaForConditionalGeneration.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family llava_family();
}  // namespace visq

// InternVL3 in Hugging Face's format.
#pragma once
#include "visq/families/family.h"

namespace visq {
Family internvl_family();
}  // namespace visq

// With the operators of libtorch, which alone cost more than ten seconds a file otherwise.
#include <ATen/ATen.h>

#include "cmake/precompiled_plain.h"

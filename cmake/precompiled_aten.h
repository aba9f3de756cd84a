// With the operators of libtorch, which alone cost more than ten seconds a file otherwise.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "cmake/precompiled.h"

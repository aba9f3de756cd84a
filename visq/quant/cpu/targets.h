// Which vector widths the kernels are compiled for. Before the first header of Highway.
#pragma once

// AVX-512, AVX2 and the portable fallback (x86), NEON (Arm): what lies between costs compile time and serves
// no machine that runs these models.
#define HWY_DISABLED_TARGETS \
  (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)

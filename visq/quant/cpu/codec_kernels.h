// The codecs on runs of numbers, with the widest vectors that the CPU has. `dtype` is f32, bf16 or f16 and
// says what the void pointer points to; pointers need no alignment. Any length, except where a block size is
// named.
#pragma once
#include <c10/core/ScalarType.h>

#include <cstdint>

#include "visq/quant/formats.h"

namespace visq::kernels {

/// Largest |x|; a NaN or an infinity when there is one among them; 0 for n = 0.
float absolute_maximum(const void* x, at::ScalarType dtype, int64_t n);

void encode_fp8(const void* x, at::ScalarType dtype, int64_t n, float scale, uint8_t* codes);
/// @return the absolute maximum of the row, which tells whether it is finite
float encode_int_row(const void* x, at::ScalarType dtype, int64_t columns, int64_t block, int code_max,
                     at::ScalarType scale_dtype, float* scales, int8_t* codes);
/// @return the absolute maximum of the row, which tells whether it is finite
float encode_int4_asym_row(const void* x, at::ScalarType dtype, int64_t columns, int64_t block,
                           at::ScalarType scale_dtype, float* scales, int8_t* zeros, int8_t* codes);
/// @param block  16 or 32;  @param n  multiple of it: writes n/2 bytes of codes and n/block scales
void encode_nvfp4(const void* x, at::ScalarType dtype, int64_t n, int64_t block, float scale_2,
                  uint8_t* codes, uint8_t* scales);
/// @param codec  of the MX formats;  @param n  multiple of 32: writes n/32 scales and, without gaps, n codes
/// @return the absolute maximum, which tells whether all are finite
float encode_mx(const void* x, at::ScalarType dtype, int64_t n, Codec codec, uint8_t* codes, uint8_t* scales);

void decode_fp8(const uint8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x);
void decode_int(const int8_t* codes, int64_t n, float scale, at::ScalarType dtype, void* x);
/// @param n  values, a multiple of `block`
void decode_nvfp4(const uint8_t* codes, const uint8_t* scales, int64_t n, int64_t block, float scale_2,
                  at::ScalarType dtype, void* x);
/// @param n  values, a multiple of 32
void decode_mx(const uint8_t* codes, const uint8_t* scales, int64_t n, Codec codec, at::ScalarType dtype,
               void* x);

void simulate_fp8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y);
void simulate_int8(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y);
/// @param n  multiple of 16
void simulate_nvfp4(const void* x, at::ScalarType dtype, int64_t n, float scale, void* y);
/// @param n  multiple of 32
void simulate_mx(const void* x, at::ScalarType dtype, int64_t n, Codec codec, void* y);

}  // namespace visq::kernels

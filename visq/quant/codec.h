// Number formats and their codecs: floating point → codes and scales, and back.
// On the CPU the kernels of quant/cpu/ run; on other devices ATen expressions that give the same bytes.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "visq/quant/formats.h"

namespace visq {

/// A quantized matrix. real = code · scale (int4_asym: (code − zero_point) · scale; nvfp4: code · scale ·
/// scale_2; MX: code · 2^(scale − 127); nf4: level[code] · (scale_level[scale] · scale_2 + zero_point)).
struct PackedTensor {
  Codec codec = Codec::fp8_e4m3;
  int64_t rows = 0, columns = 0;
  int64_t block = 0;  ///< columns that share a scale; fp8_blocks: rows and columns; 0: one a row or matrix
  at::Tensor codes;   ///< fp8: float8_e4m3fn [rows, columns]; int8: int8 [rows, columns];
                      ///< int4, int4_asym: int8 [rows, columns], −8…7;
                      ///< nf4: uint8 [rows, columns/2], even column in the high nibble;
                      ///< nvfp4, mxfp4: uint8 [rows, columns/2], even column in the low nibble;
                      ///< mxfp6: uint8 [rows, columns/4 · 3], four columns in 24 bits, little-endian, the
                      ///< first in the lowest; mxfp8: as fp8; mxint8: as int8
  at::Tensor scale;   ///< fp8_e4m3: f32 []; fp8_rows, int8: f32 [rows]; int8 with a block, int4,
                      ///< int4_asym: f32 [rows, columns/block], without one [rows, 1]; fp8_blocks: f32
  ///< [⌈rows/128⌉, ⌈columns/128⌉]; nvfp4: float8_e4m3fn [rows, columns/block]; MX: uint8
  ///< [rows, columns/32], the exponent of two plus 127 (E8M0), 255 for NaN; nf4: uint8
  ///< [rows, columns/64], codes of nf4_scale_levels()
  at::Tensor scale_2;  ///< nvfp4: f32 []; nf4: f32 [⌈rows · columns/64 / 256⌉], of scales in their order
  at::Tensor zero_point;  ///< int4_asym: int8 [rows, columns/block], −8…7; nf4: f32 [], the scales' mean
};

// Weights are f32, bf16 or f16 matrices [rows, columns]; everything is computed in f32. All functions here
// throw Error on another type or shape, and the packing ones on a NaN or an infinity. An amax below the
// smallest normal number, 2^-126, counts as that number, so that scales never underflow (spec/quantization.md
// §5.7).

/// Largest |w| of a tensor of any shape. @throws Error when `weight` holds a NaN or an infinity
float absolute_maximum(const at::Tensor& weight);

/// E4M3 with one scale amax/448; codes = nearest(w / scale) in one rounding (spec/quantization.md §5.1 names
/// the double rounding that we do not repeat). A tensor of zeros gets scale 1.
/// @param amax  largest |w| to represent, larger ones saturate; from `weight` when absent
/// @param scale_dtype  as for pack_int8; codes saturate where the scale was rounded down
PackedTensor pack_fp8(const at::Tensor& weight, std::optional<float> amax = std::nullopt,
                      at::ScalarType scale_dtype = at::kFloat);

/// E4M3 with one scale amax/448 per row, codes in one rounding (spec/quantization.md §5.2). Zero rows:
/// scale 1.
/// @param scale_dtype  as for pack_int8; codes of a row whose scale was rounded down saturate
PackedTensor pack_fp8_rows(const at::Tensor& weight, at::ScalarType scale_dtype = at::kFloat);

/// E4M3 with one scale amax/448 per block of 128 × 128, those at the lower and right edge smaller; codes in
/// one rounding (spec/quantization.md §5.3). Zero blocks: scale 1.
/// @param scale_dtype  as for pack_fp8
PackedTensor pack_fp8_blocks(const at::Tensor& weight, at::ScalarType scale_dtype = at::kFloat);

/// One scale amax/127 per row, or per block of one, round half to even, clamped to [−128, 127]
/// (spec/quantization.md §5.4). Zero rows and blocks: scale 1.
/// @param scale_dtype  scales are rounded to this dtype (and kept in its positive range) before the codes are
/// computed,
///                     so that a layout may store it
/// @param block  columns of a block; 0: one scale a row
/// @throws Error when `block` does not divide the columns
PackedTensor pack_int8(const at::Tensor& weight, at::ScalarType scale_dtype = at::kFloat, int64_t block = 0);

/// One scale amax/7 per block of a row, round half to even, clamped to [−8, 7] (spec/quantization.md §5.8).
/// Zero blocks: scale 1.
/// @throws Error when `block` does not divide the columns
PackedTensor pack_int4(const at::Tensor& weight, int64_t block = 128,
                       at::ScalarType scale_dtype = at::kFloat);

/// int4 with a zero point: blocks, and zero with them, lie between −8 and 7 (spec/export.md §5.2, as
/// compressed-tensors computes it). Scale (largest − smallest)/15, zero point −8 − smallest/scale, code
/// w/scale + zero point, each rounded half to even. Zero blocks: scale 1.
PackedTensor pack_int4_asym(const at::Tensor& weight, int64_t block = 128,
                            at::ScalarType scale_dtype = at::kFloat);

/// NF4 with double quantization (QLoRA), as bitsandbytes computes it: blocks of 64 columns by their largest
/// magnitudes, the nearest of 16 levels; the magnitudes, less their mean, in blocks of 256 by theirs, the
/// nearest of 256 levels; in the middle always the lower one.
/// @throws Error when 64 does not divide the columns
PackedTensor pack_nf4(const at::Tensor& weight);
/// f32 [16] and f32 [256], ascending, on the CPU.
const at::Tensor& nf4_levels();
const at::Tensor& nf4_scale_levels();

/// E2M1 in blocks along the columns, an E4M3 scale per block, one fp32 scale amax/range
/// (spec/quantization.md §4.2, §5.5). Zero blocks: block scale 1. A tensor of zeros is packed as if amax
/// were 1.
/// @param amax   largest |w| to represent, larger ones saturate; from `weight` when absent
/// @param block  16 or 32
/// @param range  what code · scale reaches at amax: 2688 uses all of the block scales' range; 448 keeps the
///               product within E4M3 and block scales up to 72, for kernels that go on in FP8
/// @throws Error when `block` does not divide the columns
PackedTensor pack_nvfp4(const at::Tensor& weight, std::optional<float> amax = std::nullopt,
                        int64_t block = kNvfp4Block, float range = kNvfp4Max);

/// An MX format: blocks of 32 along the columns share 2^E, E = ⌈log2(amax / mx_max)⌉, at least −127
/// (spec/quantization.md §5.6; exact, where ModelOpt's logarithm can be one off just above a power of two).
/// Elements are nearest, halves to even; those of mxfp4 are ModelOpt's, whose ties go to the smaller
/// magnitude and whose zeros have the sign bit. Integers of mxint8 stand for themselves (OCP counts 2^-6 into
/// the element, here it is in the scale), −127…127.
/// @throws Error when 32 does not divide the columns
PackedTensor pack_mx(const at::Tensor& weight, Codec codec);

/// The real values. @param dtype  f32, bf16 or f16 (computed in f32, rounded once)
at::Tensor dequantize(const PackedTensor& packed, at::ScalarType dtype = at::kFloat);

/// int4 codes [rows, columns] → two output rows a byte, even row in the low nibble: uint8 [rows/2, columns]
/// (ModelOpt), and back.
at::Tensor int4_to_row_pairs(const at::Tensor& codes);
at::Tensor int4_from_row_pairs(const at::Tensor& bytes);
/// int4 codes → eight columns a little-endian word, offset by 8: int32 [rows, columns/8]
/// (compressed-tensors), and back.
at::Tensor int4_to_words(const at::Tensor& codes);
at::Tensor int4_from_words(const at::Tensor& words);
/// Such words in AutoAWQ's order, element i in nibble {0, 4, 1, 5, 2, 6, 3, 7}[i] (spec/export.md §6.1), and
/// back. int32 of any shape.
at::Tensor words_to_awq_order(const at::Tensor& words);
at::Tensor words_from_awq_order(const at::Tensor& words);
/// int8 codes → four columns a little-endian word, offset by 128: int32 [rows, columns/4]
/// (compressed-tensors), and back.
at::Tensor int8_to_words(const at::Tensor& codes);
at::Tensor int8_from_words(const at::Tensor& words);

/// What an engine does to a linear's input: quantize and dequantize, same shape and dtype out. NaN stays NaN
/// (nvfp4: the whole block), infinities saturate. Without ModelOpt's floor of 1e-5 under nvfp4 block scales,
/// which engines do not have (spec/quantization.md §12, Q5).
/// @param x      [..., columns]
/// @param scale  real = code · scale; fp8: amax/448, int8: amax/127, nvfp4: amax/2688 (block scales are
/// computed per call)
/// @throws Error when `scale` is not positive, or 16 does not divide the columns (nvfp4)
at::Tensor simulate_fp8(const at::Tensor& x, float scale);
at::Tensor simulate_int8(const at::Tensor& x, float scale);
at::Tensor simulate_nvfp4(const at::Tensor& x, float scale);
/// An MX format, elements to nearest, halves to even (spec/quantization.md §3.5). A NaN makes its block NaN;
/// a block with an infinity gets scale 1. @throws Error when 32 does not divide the columns
at::Tensor simulate_mx(const at::Tensor& x, Codec codec);
/// fp8 and int8 with a scale of its own for every token: amax/448, amax/127 of its columns. A NaN makes the
/// whole token NaN.
at::Tensor simulate_fp8_tokens(const at::Tensor& x);
at::Tensor simulate_int8_tokens(const at::Tensor& x);

}  // namespace visq

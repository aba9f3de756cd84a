// Packed tensors as the blocks of GGUF's element types, and back: the same numbers, or none.
// Source: gguf/quants.py of the Python package `gguf`, which says what each type's bytes stand for.
#pragma once
#include <optional>
#include <span>
#include <string>

#include "visq/export/gguf_format.h"
#include "visq/quant/scheme.h"

namespace visq {

/// Weights in a block of integers or MXFP4: elements that share a scale.
inline constexpr int64_t kGgmlBlock = 32;

/// The element type that has a place for the codes and scales of `scheme`; empty: there is none. Whether the
/// scales fit is not known before they are seen.
///   int8, one scale a row or a block of 32 · k  → Q8_0: F16 scale, 32 codes
///   int4 in blocks of 32 · k                    → Q4_0: F16 scale, codes + 8
///   int4_asym in blocks of 32 · k               → Q4_1: F16 scale and offset −scale · (zero point + 8)
///   mxfp4                                       → MXFP4: the exponent, 32 codes
///   nvfp4 in blocks of 16, inputs too or as is  → NVFP4: four E4M3 scales, 64 codes; beside it, in tensors
///                                                 of their own, scale_2 and the scale of inputs
std::optional<GgmlType> ggml_type_of(const Scheme& scheme);
/// Which those are, for errors.
std::string ggml_types_text();

/// uint8 [rows, bytes of a row].
/// @param name  of the linear, for errors
/// @throws Error when a scale or an offset is no F16 number, or a scale of mxfp4 or nvfp4 is NaN
at::Tensor to_ggml_blocks(const PackedTensor& packed, const std::string& name);

/// Without scale_2 of nvfp4, which is not in the blocks.
/// @param type   one that ggml_type_of() gives
/// @param bytes  of `rows` rows; must outlive the call only
/// @throws Error when a scale is not finite, or an offset of Q4_1 no multiple of its scale
PackedTensor from_ggml_blocks(GgmlType type, std::span<const std::byte> bytes, int64_t rows, int64_t columns,
                              const std::string& name);

/// Columns that share a scale (and a zero point) whatever the row: the first of `candidates` (0: all of a
/// row) that fits, or 32. @param packed  in blocks of 32
int64_t shared_columns(const PackedTensor& packed, const std::vector<int64_t>& candidates);
/// The tensor with one scale for `block` columns each; a multiple of its own, 0: one a row.
PackedTensor with_block(const PackedTensor& packed, int64_t block);

/// f32, f16 or bf16.
std::optional<GgmlType> ggml_type_of(at::ScalarType dtype);
std::optional<at::ScalarType> dtype_of(uint32_t ggml_type);

}  // namespace visq

// Element types of GGUF whose blocks no format of visq's has: llama.cpp's K-quants, with scales of 4, 6 or 8
// bits of their own in blocks of 256 columns, and what it falls back to beside them. They are read as real
// numbers.
// Source: gguf/quants.py of the Python package `gguf`, which says what each type's bytes stand for.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <span>
#include <string>

#include "visq/export/gguf_format.h"

namespace visq {

/// Q2_K … Q6_K, Q5_0, Q5_1, IQ4_NL, IQ4_XS.
bool is_dequantized(uint32_t ggml_type);
/// Their names, for errors.
std::string dequantized_types_text();

/// The real values, f32 [rows, columns]. @param type  that is_dequantized() knows
/// @param bytes  of `rows` rows of whole blocks; must outlive the call only
at::Tensor dequantize_ggml(GgmlType type, std::span<const std::byte> bytes, int64_t rows, int64_t columns);

}  // namespace visq

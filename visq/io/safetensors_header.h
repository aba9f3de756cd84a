// What readers and writers of .safetensors headers share.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "visq/io/safetensors.h"

namespace visq {

/// The format's own limit on the header, which its reference reader enforces too.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

/// Bytes of a contiguous tensor. Nothing when a dimension is negative or the sizes multiply to more than 2^63
/// - 1; zeros count as ones there, since the strides of an empty tensor are such products too.
std::optional<uint64_t> tensor_bytes(std::span<const int64_t> shape, at::ScalarType dtype);

/// Reads the header, which starts behind the eight bytes of its length, and checks all that can be checked
/// without the size of the file. Tensors come in file order, without gap or overlap.
/// @param origin      names the file in errors
/// @param data_start  where the header ends; the ranges of the result count from the start of the file
std::vector<TensorInfo> parse_header(std::string_view header, uint64_t data_start, const std::string& origin);

/// Lays `tensors` (name, dtype, shape given) out behind one another: wider element types first, otherwise in
/// the order given, so that each lies at a multiple of its element size; PyTorch cannot view one that does
/// not. Reorders `tensors`, sets their ranges.
/// @returns the head of the file: length, JSON, spaces up to a multiple of 8
std::string lay_out(std::vector<TensorInfo>& tensors);

}  // namespace visq

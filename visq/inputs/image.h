// Image bytes → RGB pixels, equal to Pillow's decoding followed by EXIF transposition and the reference's RGB
// conversion.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace visq {

/// Limits that hold before anything is decoded (spec/inputs.md §9).
inline constexpr int64_t kMaxImagePixels = 50'000'000;
inline constexpr size_t kMaxImageFileBytes = 64u << 20;

/// JPEG, PNG (8/16 bit, palette, grey, alpha), WebP (lossy, lossless, alpha); EXIF orientation applied; alpha
/// composited over white. Source: spec/inputs.md §6.2, §6.3.
/// @param origin  file name for errors
/// @return uint8 [3, height, width], contiguous
/// @throws Error when the bytes are no such image, are truncated, or exceed the limits
at::Tensor decode_image(std::span<const std::byte> bytes, const std::string& origin);
at::Tensor read_image(const std::filesystem::path& path);

}  // namespace visq

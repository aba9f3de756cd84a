// Pictures in a terminal.
#pragma once
#include <ATen/core/Tensor.h>

#include <string>

namespace visq {

/// The image as lines of half blocks in 24-bit colour, at most 32 columns wide; as shades of grey in plain
/// characters when stdout is no terminal. @param image  uint8 [3, height, width]
std::string image_as_text(const at::Tensor& image);

}  // namespace visq

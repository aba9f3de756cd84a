// Builds small image files byte by byte, so that tests control every chunk.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace visq::test {

std::string big_endian(uint32_t value, int bytes);

struct PngSpec {
  uint32_t width = 1, height = 1;
  int bit_depth = 8;
  int color_type = 2;  ///< 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
  std::vector<std::string> rows = {};
  std::string chunks = "";  ///< before IDAT: png_chunk("PLTE", …) + …
};
std::string png_chunk(const std::string& type, const std::string& data);
std::string make_png(const PngSpec& spec);

/// @param pixels  height × width × components
std::string make_jpeg(int width, int height, int components, const std::vector<uint8_t>& pixels,
                      bool progressive = false);
/// Puts an application segment behind the start of a JPEG.
std::string with_jpeg_segment(const std::string& jpeg, int marker, const std::string& data);
/// "Exif\0\0" and a TIFF structure that holds the orientation alone.
std::string exif_block(int orientation, bool little_endian);

/// @param rgba  height × width × 4
std::string make_lossless_webp(int width, int height, const std::vector<uint8_t>& rgba);

std::span<const std::byte> as_bytes(const std::string& text);

}  // namespace visq::test

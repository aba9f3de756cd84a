// Internal to visq/inputs: one decoder per file format, all to interleaved 8-bit pixels.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace visq {

/// Interleaved rows, top first. Four channels: RGBA with straight alpha.
struct DecodedImage {
  int64_t width = 0;
  int64_t height = 0;
  int64_t channels = 3;
  std::vector<uint8_t> pixels;  ///< height × width × channels
  int orientation = 1;          ///< EXIF code 1..8
};

using Bytes = std::span<const std::byte>;

/// All three throw Error, naming `origin`, for bytes that are truncated, malformed or beyond the limits.
DecodedImage decode_jpeg(Bytes bytes, const std::string& origin);
DecodedImage decode_png(Bytes bytes, const std::string& origin);
DecodedImage decode_webp(Bytes bytes, const std::string& origin);

/// @throws Error when a picture of this size must not be decoded
void check_image_size(int64_t width, int64_t height, const std::string& origin);

/// Orientation code of an EXIF block (with or without its "Exif\0\0" prefix); where that has none, of an XMP
/// packet. 1 when neither says, or the block is malformed: as Pillow, a broken tag is no reason to refuse the
/// picture.
int read_orientation(Bytes exif, Bytes xmp);

}  // namespace visq

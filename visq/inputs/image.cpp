#include "visq/inputs/image.h"

#include <ATen/ATen.h>

#include <string_view>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/inputs/image_codecs.h"

namespace visq {
namespace {

constexpr int64_t kMaxSide = 65'500;

/// RGBA over opaque white, rounded as Pillow's alpha_composite.
std::vector<uint8_t> composite_over_white(const std::vector<uint8_t>& rgba) {
  std::vector<uint8_t> rgb(rgba.size() / 4 * 3);
  for (size_t i = 0; i < rgba.size() / 4; ++i) {
    const int alpha = rgba[4 * i + 3];
    for (size_t c = 0; c < 3; ++c) {
      const int t = rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 128;
      rgb[3 * i + c] = static_cast<uint8_t>((t + (t >> 8)) >> 8);
    }
  }
  return rgb;
}

/// @param image  [3, height, width]
at::Tensor upright(const at::Tensor& image, int orientation) {
  switch (orientation) {
    case 2:
      return image.flip({2});
    case 3:
      return image.flip({1, 2});
    case 4:
      return image.flip({1});
    case 5:
      return image.transpose(1, 2);
    case 6:  // a quarter turn clockwise
      return image.transpose(1, 2).flip({2});
    case 7:
      return image.transpose(1, 2).flip({1, 2});
    case 8:
      return image.transpose(1, 2).flip({1});
    default:
      return image;
  }
}

DecodedImage decode(Bytes bytes, const std::string& origin) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()),
                              std::min<size_t>(bytes.size(), 12));
  if (head.starts_with("\xFF\xD8")) return decode_jpeg(bytes, origin);
  if (head.starts_with("\x89PNG\r\n\x1A\n")) return decode_png(bytes, origin);
  if (head.starts_with("RIFF") && head.ends_with("WEBP")) return decode_webp(bytes, origin);
  fail("{}: not a JPEG, PNG or WebP image", origin);
}

}  // namespace

void check_image_size(int64_t width, int64_t height, const std::string& origin) {
  if (width < 1 || height < 1) fail("{}: an image of {}x{} pixels", origin, width, height);
  if (width > kMaxSide || height > kMaxSide || width * height > kMaxImagePixels)
    fail("{}: {}x{} pixels, more than the {} million allowed: make the image smaller", origin, width, height,
         kMaxImagePixels / 1'000'000);
}

at::Tensor decode_image(std::span<const std::byte> bytes, const std::string& origin) {
  if (bytes.size() > kMaxImageFileBytes)
    fail("{}: {} bytes, more than the {} MiB allowed", origin, bytes.size(), kMaxImageFileBytes >> 20);
  DecodedImage image = decode(bytes, origin);
  if (image.channels == 4) image.pixels = composite_over_white(image.pixels);
  const auto rows = at::from_blob(image.pixels.data(), {image.height, image.width, 3}, at::kByte);
  return upright(rows.permute({2, 0, 1}), image.orientation).clone(at::MemoryFormat::Contiguous);
}

at::Tensor read_image(const std::filesystem::path& path) {
  const std::string text = read_text(path, kMaxImageFileBytes);
  return decode_image(std::as_bytes(std::span(text)), path.string());
}

}  // namespace visq

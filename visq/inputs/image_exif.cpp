#include <array>
#include <optional>
#include <string_view>

#include "visq/inputs/image_codecs.h"

namespace visq {
namespace {

constexpr uint16_t kOrientationTag = 0x0112;
constexpr int kShort = 3, kLong = 4;  // TIFF field types

/// A TIFF structure in either byte order; reads outside it give nothing.
class Tiff {
 public:
  explicit Tiff(Bytes bytes) : bytes_(bytes), little_(!bytes.empty() && bytes[0] == std::byte{'I'}) {}

  std::optional<uint32_t> read(size_t offset, size_t size) const {
    if (offset > bytes_.size() || bytes_.size() - offset < size) return std::nullopt;
    uint32_t value = 0;
    for (size_t i = 0; i < size; ++i)
      value = value << 8 | static_cast<uint32_t>(bytes_[offset + (little_ ? size - 1 - i : i)]);
    return value;
  }

 private:
  Bytes bytes_;
  bool little_;
};

std::optional<int> orientation_of_exif(Bytes exif) {
  constexpr std::array<std::byte, 6> prefix{std::byte{'E'}, std::byte{'x'}, std::byte{'i'}, std::byte{'f'}};
  if (exif.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), exif.begin()))
    exif = exif.subspan(prefix.size());
  if (exif.size() < 8 || exif[0] != exif[1] || (exif[0] != std::byte{'I'} && exif[0] != std::byte{'M'}))
    return std::nullopt;
  const Tiff tiff(exif);
  if (tiff.read(2, 2) != 42u) return std::nullopt;
  const size_t directory = *tiff.read(4, 4);
  const uint32_t entries = tiff.read(directory, 2).value_or(0);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * size_t{i};
    const auto tag = tiff.read(entry, 2), type = tiff.read(entry + 2, 2), count = tiff.read(entry + 4, 4);
    if (!count) return std::nullopt;
    if (tag != kOrientationTag) continue;
    if (count != 1u || (type != kShort && type != kLong)) return std::nullopt;
    const auto value = tiff.read(entry + 8, type == kShort ? 2 : 4);
    return value ? std::optional<int>(static_cast<int>(*value)) : std::nullopt;
  }
  return std::nullopt;
}

/// The attribute and the element spelling: tiff:Orientation="6" and <tiff:Orientation>6<.
std::optional<int> orientation_of_xmp(Bytes xmp) {
  const std::string_view text(reinterpret_cast<const char*>(xmp.data()), xmp.size());
  constexpr std::string_view key = "tiff:Orientation";
  for (size_t at = text.find(key); at != std::string_view::npos; at = text.find(key, at + 1)) {
    std::string_view rest = text.substr(at + key.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with('>')) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

}  // namespace

int read_orientation(Bytes exif, Bytes xmp) {
  std::optional<int> code = orientation_of_exif(exif);
  if (!code) code = orientation_of_xmp(xmp);
  return code && *code >= 1 && *code <= 8 ? *code : 1;
}

}  // namespace visq

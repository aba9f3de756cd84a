#include "image_files.h"

#include <cstdio>

// jpeglib.h needs FILE and size_t declared before it.
#include <jpeglib.h>
#include <webp/encode.h>

#include <cstdlib>

#include "support.h"

namespace visq::test {
namespace {

std::string little_endian(uint32_t value, int bytes) {
  std::string text = big_endian(value, bytes);
  return {text.rbegin(), text.rend()};
}

/// A zlib stream of stored blocks.
std::string stored_zlib(const std::string& data) {
  std::string out = "\x78\x01";
  for (size_t begin = 0; begin < data.size() || begin == 0; begin += 0xFFFF) {
    const std::string block = data.substr(begin, 0xFFFF);
    out += begin + block.size() == data.size() ? '\1' : '\0';
    out += little_endian(static_cast<uint32_t>(block.size()), 2);
    out += little_endian(~static_cast<uint32_t>(block.size()), 2) + block;
  }
  uint32_t a = 1, b = 0;
  for (const char c : data) {
    a = (a + static_cast<uint8_t>(c)) % 65521;
    b = (b + a) % 65521;
  }
  return out + big_endian(b << 16 | a, 4);
}

}  // namespace

std::string big_endian(uint32_t value, int bytes) {
  std::string out;
  for (int i = bytes - 1; i >= 0; --i) out.push_back(static_cast<char>(value >> (8 * i)));
  return out;
}

std::string png_chunk(const std::string& type, const std::string& data) {
  const std::string body = type + data;
  return big_endian(static_cast<uint32_t>(data.size()), 4) + body +
         big_endian(crc32(body.data(), body.size()), 4);
}

std::string make_png(const PngSpec& spec) {
  std::string header = big_endian(spec.width, 4) + big_endian(spec.height, 4);
  header +=
      std::string{static_cast<char>(spec.bit_depth), static_cast<char>(spec.color_type), '\0', '\0', '\0'};
  std::string raw;
  for (const std::string& row : spec.rows) raw += '\0' + row;
  return "\x89PNG\r\n\x1A\n" + png_chunk("IHDR", header) + spec.chunks + png_chunk("IDAT", stored_zlib(raw)) +
         png_chunk("IEND", "");
}

std::string make_jpeg(int width, int height, int components, const std::vector<uint8_t>& pixels,
                      bool progressive) {
  jpeg_compress_struct cinfo;
  jpeg_error_mgr errors;
  cinfo.err = jpeg_std_error(&errors);
  jpeg_create_compress(&cinfo);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&cinfo, &buffer, &size);
  cinfo.image_width = width;
  cinfo.image_height = height;
  cinfo.input_components = components;
  cinfo.in_color_space = components == 1 ? JCS_GRAYSCALE : components == 3 ? JCS_RGB : JCS_CMYK;
  jpeg_set_defaults(&cinfo);
  jpeg_set_quality(&cinfo, 100, TRUE);
  if (progressive) jpeg_simple_progression(&cinfo);
  jpeg_start_compress(&cinfo, TRUE);
  while (cinfo.next_scanline < cinfo.image_height) {
    auto* row = const_cast<uint8_t*>(&pixels[cinfo.next_scanline * width * components]);
    jpeg_write_scanlines(&cinfo, &row, 1);
  }
  jpeg_finish_compress(&cinfo);
  jpeg_destroy_compress(&cinfo);
  const std::string out(reinterpret_cast<char*>(buffer), size);
  std::free(buffer);
  return out;
}

std::string with_jpeg_segment(const std::string& jpeg, int marker, const std::string& data) {
  return jpeg.substr(0, 2) + '\xFF' + static_cast<char>(marker) +
         big_endian(static_cast<uint32_t>(data.size() + 2), 2) + data + jpeg.substr(2);
}

std::string exif_block(int orientation, bool little) {
  const auto number = [&](uint32_t value, int bytes) {
    return little ? little_endian(value, bytes) : big_endian(value, bytes);
  };
  const std::string entry =
      number(0x0112, 2) + number(3, 2) + number(1, 4) + number(orientation, 2) + number(0, 2);
  return std::string("Exif\0\0", 6) + (little ? "II" : "MM") + number(42, 2) + number(8, 4) + number(1, 2) +
         entry + number(0, 4);
}

std::string make_lossless_webp(int width, int height, const std::vector<uint8_t>& rgba) {
  uint8_t* buffer = nullptr;
  const size_t size = WebPEncodeLosslessRGBA(rgba.data(), width, height, 4 * width, &buffer);
  const std::string out(reinterpret_cast<char*>(buffer), size);
  WebPFree(buffer);
  return out;
}

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace visq::test

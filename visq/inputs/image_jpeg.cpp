#include <csetjmp>
#include <cstdio>

// jpeglib.h needs FILE and size_t declared before it.
#include <jerror.h>
#include <jpeglib.h>

#include <cstring>

#include "visq/core/error.h"
#include "visq/inputs/image.h"
#include "visq/inputs/image_codecs.h"

namespace visq {
namespace {

constexpr int kMaxScans = 500;  // a few kilobytes of progressive scans can cost hours
constexpr long kMaxDecoderBytes = 1L << 30;

/// libjpeg's state with what the callbacks need. Plain data: longjmp passes over it.
struct Decoder {
  jpeg_decompress_struct cinfo;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void give_up(Decoder* decoder, const char* message) {
  std::snprintf(decoder->message, sizeof decoder->message, "%s", message);
  std::longjmp(decoder->escape, 1);
}

void on_error(j_common_ptr cinfo) {
  auto* decoder = static_cast<Decoder*>(cinfo->client_data);
  (*cinfo->err->format_message)(cinfo, decoder->message);
  std::longjmp(decoder->escape, 1);
}

/// libjpeg fills missing data with grey and only warns; a calibration sample must not be half a picture.
void on_message(j_common_ptr cinfo, int level) {
  if (level >= 0) return;
  const int code = cinfo->err->msg_code;
  if (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER)
    give_up(static_cast<Decoder*>(cinfo->client_data), "the image data is truncated or corrupt");
}

void on_progress(j_common_ptr cinfo) {
  auto* decoder = static_cast<Decoder*>(cinfo->client_data);
  if (decoder->cinfo.input_scan_number > kMaxScans) give_up(decoder, "too many scans");
}

void start(Decoder* decoder, Bytes bytes) {
  decoder->cinfo.err = jpeg_std_error(&decoder->errors);
  decoder->errors.error_exit = on_error;
  decoder->errors.emit_message = on_message;
  decoder->cinfo.client_data = decoder;
  jpeg_create_decompress(&decoder->cinfo);
  decoder->cinfo.client_data = decoder;
  decoder->progress.progress_monitor = on_progress;
  decoder->cinfo.progress = &decoder->progress;
  decoder->cinfo.mem->max_memory_to_use = kMaxDecoderBytes;
  jpeg_mem_src(&decoder->cinfo, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size());
  jpeg_save_markers(&decoder->cinfo, JPEG_APP0 + 1, 0xFFFF);
}

// The two functions below own no C++ object, so that longjmp may leave them.

bool read_header(Decoder* decoder, Bytes bytes) {
  if (setjmp(decoder->escape)) return false;
  start(decoder, bytes);
  jpeg_read_header(&decoder->cinfo, TRUE);
  return true;
}

bool read_pixels(Decoder* decoder, uint8_t* pixels, size_t row_bytes) {
  if (setjmp(decoder->escape)) return false;
  jpeg_start_decompress(&decoder->cinfo);
  while (decoder->cinfo.output_scanline < decoder->cinfo.output_height) {
    JSAMPROW row = pixels + decoder->cinfo.output_scanline * row_bytes;
    jpeg_read_scanlines(&decoder->cinfo, &row, 1);
  }
  return true;
}

Bytes find_marker(const jpeg_decompress_struct& cinfo, std::string_view prefix) {
  for (auto marker = cinfo.marker_list; marker; marker = marker->next)
    if (marker->data_length >= prefix.size() && std::memcmp(marker->data, prefix.data(), prefix.size()) == 0)
      return {reinterpret_cast<const std::byte*>(marker->data), marker->data_length};
  return {};
}

/// Pillow reads every four-channel JPEG with Adobe's inverted polarity: 255 is no ink.
std::vector<uint8_t> inverted_cmyk_to_rgb(const std::vector<uint8_t>& cmyk) {
  std::vector<uint8_t> rgb(cmyk.size() / 4 * 3);
  for (size_t i = 0; i < cmyk.size() / 4; ++i) {
    const int white = cmyk[4 * i + 3];  // 255 - K
    for (size_t c = 0; c < 3; ++c) {
      const int t = (255 - cmyk[4 * i + c]) * white + 128;
      rgb[3 * i + c] = static_cast<uint8_t>(std::clamp(white - (((t >> 8) + t) >> 8), 0, 255));
    }
  }
  return rgb;
}

std::vector<uint8_t> grey_to_rgb(const std::vector<uint8_t>& grey) {
  std::vector<uint8_t> rgb(grey.size() * 3);
  for (size_t i = 0; i < grey.size(); ++i) rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = grey[i];
  return rgb;
}

struct DecoderGuard {
  Decoder& decoder;
  ~DecoderGuard() { jpeg_destroy_decompress(&decoder.cinfo); }
};

}  // namespace

DecodedImage decode_jpeg(Bytes bytes, const std::string& origin) {
  Decoder decoder{};
  const DecoderGuard guard{decoder};
  if (!read_header(&decoder, bytes)) fail("{}: JPEG cannot be read: {}", origin, decoder.message);
  auto& cinfo = decoder.cinfo;
  check_image_size(cinfo.image_width, cinfo.image_height, origin);
  if (cinfo.num_components != 1 && cinfo.num_components != 3 && cinfo.num_components != 4)
    fail("{}: JPEG with {} components is not supported", origin, cinfo.num_components);
  cinfo.out_color_space = cinfo.num_components == 1   ? JCS_GRAYSCALE
                          : cinfo.num_components == 3 ? JCS_RGB
                                                      : JCS_CMYK;

  DecodedImage image;
  image.width = cinfo.image_width;
  image.height = cinfo.image_height;
  const Bytes xmp = find_marker(cinfo, std::string_view("http://ns.adobe.com/xap/1.0/\0", 29));
  image.orientation = read_orientation(find_marker(cinfo, std::string_view("Exif\0\0", 6)), xmp);
  const size_t row_bytes = static_cast<size_t>(image.width) * cinfo.num_components;
  image.pixels.resize(row_bytes * image.height);
  if (!read_pixels(&decoder, image.pixels.data(), row_bytes))
    fail("{}: JPEG cannot be decoded: {}", origin, decoder.message);
  if (cinfo.num_components == 1) image.pixels = grey_to_rgb(image.pixels);
  if (cinfo.num_components == 4) image.pixels = inverted_cmyk_to_rgb(image.pixels);
  return image;
}

}  // namespace visq

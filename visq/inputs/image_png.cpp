#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/inputs/image.h"
#include "visq/inputs/image_codecs.h"

namespace visq {
namespace {

constexpr png_uint_32 kMaxSide = 65'500;
constexpr png_alloc_size_t kMaxChunkBytes = 8u << 20;
constexpr png_uint_32 kMaxCachedChunks = 64;

/// libpng's state with what the callbacks need. Plain data: longjmp passes over it.
struct Decoder {
  png_structp png;
  png_infop info;
  const uint8_t* data;
  size_t size, position;
  std::jmp_buf escape;
  char message[256];
};

void on_error(png_structp png, png_const_charp text) {
  auto* decoder = static_cast<Decoder*>(png_get_error_ptr(png));
  std::snprintf(decoder->message, sizeof decoder->message, "%s", text);
  std::longjmp(decoder->escape, 1);
}

void on_warning(png_structp, png_const_charp) {}  // Pillow is silent about the same flaws

void on_read(png_structp png, png_bytep out, size_t size) {
  auto* decoder = static_cast<Decoder*>(png_get_io_ptr(png));
  if (decoder->size - decoder->position < size) png_error(png, "the file is truncated");
  std::memcpy(out, decoder->data + decoder->position, size);
  decoder->position += size;
}

// The three functions below own no C++ object, so that longjmp may leave them.

bool read_header(Decoder* decoder) {
  if (setjmp(decoder->escape)) return false;
  decoder->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, decoder, on_error, on_warning);
  if (decoder->png == nullptr) return false;
  decoder->info = png_create_info_struct(decoder->png);
  if (decoder->info == nullptr) return false;
  png_set_read_fn(decoder->png, decoder, on_read);
  png_set_user_limits(decoder->png, kMaxSide, kMaxSide);
  png_set_chunk_malloc_max(decoder->png, kMaxChunkBytes);
  png_set_chunk_cache_max(decoder->png, kMaxCachedChunks);
  // Colour profiles and texts are not wanted, and are the compressed chunks that can expand without bound.
  png_set_keep_unknown_chunks(decoder->png, PNG_HANDLE_CHUNK_NEVER,
                              reinterpret_cast<png_const_bytep>("iCCP\0zTXt\0iTXt\0tEXt\0"), 4);
  png_read_info(decoder->png, decoder->info);
  return true;
}

/// Rows of one byte a sample; sub-byte samples unpacked but not scaled, 16-bit samples kept.
bool start_rows(Decoder* decoder) {
  if (setjmp(decoder->escape)) return false;
  png_set_packing(decoder->png);
  png_set_interlace_handling(decoder->png);
  png_read_update_info(decoder->png, decoder->info);
  return true;
}

bool read_rows(Decoder* decoder, png_bytepp rows) {
  if (setjmp(decoder->escape)) return false;
  png_read_image(decoder->png, rows);
  png_read_end(decoder->png, decoder->info);  // an eXIf chunk may follow the pixels
  return true;
}

struct DecoderGuard {
  Decoder& decoder;
  ~DecoderGuard() { png_destroy_read_struct(&decoder.png, &decoder.info, nullptr); }
};

/// What tRNS says: the alpha of palette entries, or the one colour that is transparent.
struct Transparency {
  bool present = false;
  std::vector<uint8_t> palette_alpha;
  uint16_t grey = 0, red = 0, green = 0, blue = 0;
};

Transparency read_transparency(Decoder& decoder) {
  png_bytep alpha = nullptr;
  int count = 0;
  png_color_16p colour = nullptr;
  Transparency out;
  if (!png_get_tRNS(decoder.png, decoder.info, &alpha, &count, &colour)) return out;
  out.present = true;
  if (alpha != nullptr) out.palette_alpha.assign(alpha, alpha + count);
  if (colour != nullptr) {
    out.grey = colour->gray;
    out.red = colour->red;
    out.green = colour->green;
    out.blue = colour->blue;
  }
  return out;
}

/// The samples of a picture as 8-bit values, the way Pillow reduces them.
struct Samples {
  const std::vector<uint8_t>& raw;
  int depth;
  size_t count() const { return raw.size() / (depth == 16 ? 2 : 1); }
  uint8_t operator[](size_t i) const { return depth == 16 ? raw[2 * i] : raw[i]; }
  bool exceeds_byte(size_t i) const { return depth == 16 && raw[2 * i] != 0; }
  uint8_t low_byte(size_t i) const { return raw[2 * i + 1]; }
};

void expand_palette(Decoder& decoder, const Samples& in, const Transparency& transparency,
                    DecodedImage& image) {
  png_colorp palette = nullptr;
  int entries = 0;
  png_get_PLTE(decoder.png, decoder.info, &palette, &entries);
  image.channels = transparency.present ? 4 : 3;
  image.pixels.resize(in.count() * image.channels);
  for (size_t i = 0; i < in.count(); ++i) {
    const int index = in[i];
    uint8_t* out = &image.pixels[i * image.channels];
    const png_color colour =
        index < entries ? palette[index] : png_color{0, 0, 0};  // beyond the palette: black
    out[0] = colour.red;
    out[1] = colour.green;
    out[2] = colour.blue;
    const auto& alpha = transparency.palette_alpha;
    if (image.channels == 4) out[3] = static_cast<size_t>(index) < alpha.size() ? alpha[index] : 255;
  }
}

/// Pillow opens 16-bit grey as I;16 and its conversion to RGB clips at 255 instead of taking the high byte.
void expand_grey16(const Samples& in, const std::string& origin, DecodedImage& image) {
  bool clipped = false;
  image.channels = 3;
  image.pixels.resize(in.count() * 3);
  for (size_t i = 0; i < in.count(); ++i) {
    clipped |= in.exceeds_byte(i);
    const uint8_t value = in.exceeds_byte(i) ? 255 : in.low_byte(i);
    std::fill_n(&image.pixels[3 * i], 3, value);
  }
  if (clipped)
    log_warning(
        visq::format("{}: 16-bit grey values are clipped at 255, as Pillow does; convert to 8 bit", origin));
}

void expand_grey(const Samples& in, const Transparency& transparency, DecodedImage& image) {
  const int scale = 255 / ((1 << std::min(in.depth, 8)) - 1);
  // Pillow compares the scaled value with the unscaled tRNS entry, except for one bit.
  const int clear = in.depth == 1 ? (transparency.grey != 0 ? 255 : 0) : transparency.grey & 0xFF;
  image.channels = transparency.present ? 4 : 3;
  image.pixels.resize(in.count() * image.channels);
  for (size_t i = 0; i < in.count(); ++i) {
    uint8_t* out = &image.pixels[i * image.channels];
    const int value = in[i] * scale;
    std::fill_n(out, 3, static_cast<uint8_t>(value));
    if (image.channels == 4) out[3] = value == clear ? 0 : 255;
  }
}

void expand_rgb(const Samples& in, const Transparency& transparency, DecodedImage& image) {
  // Pillow keeps the low byte of each tRNS value, for 16-bit pictures too.
  const uint8_t clear[3] = {static_cast<uint8_t>(transparency.red), static_cast<uint8_t>(transparency.green),
                            static_cast<uint8_t>(transparency.blue)};
  image.channels = transparency.present ? 4 : 3;
  const size_t pixels = in.count() / 3;
  image.pixels.resize(pixels * image.channels);
  for (size_t i = 0; i < pixels; ++i) {
    uint8_t* out = &image.pixels[i * image.channels];
    for (size_t c = 0; c < 3; ++c) out[c] = in[3 * i + c];
    if (image.channels == 4) out[3] = std::equal(clear, clear + 3, out) ? 0 : 255;
  }
}

void expand_alpha(const Samples& in, int colour_channels, DecodedImage& image) {
  const size_t stride = colour_channels + 1, pixels = in.count() / stride;
  image.channels = 4;
  image.pixels.resize(pixels * 4);
  for (size_t i = 0; i < pixels; ++i) {
    for (size_t c = 0; c < 3; ++c) image.pixels[4 * i + c] = in[stride * i + (colour_channels == 3 ? c : 0)];
    image.pixels[4 * i + 3] = in[stride * i + colour_channels];
  }
}

Bytes read_exif(Decoder& decoder) {
  png_bytep data = nullptr;
  png_uint_32 size = 0;
  if (!png_get_eXIf_1(decoder.png, decoder.info, &size, &data)) return {};
  return {reinterpret_cast<const std::byte*>(data), size};
}

}  // namespace

DecodedImage decode_png(Bytes bytes, const std::string& origin) {
  Decoder decoder{};
  decoder.data = reinterpret_cast<const uint8_t*>(bytes.data());
  decoder.size = bytes.size();
  const DecoderGuard guard{decoder};
  if (!read_header(&decoder)) fail("{}: PNG cannot be read: {}", origin, decoder.message);

  DecodedImage image;
  image.width = png_get_image_width(decoder.png, decoder.info);
  image.height = png_get_image_height(decoder.png, decoder.info);
  check_image_size(image.width, image.height, origin);
  const int colour = png_get_color_type(decoder.png, decoder.info);
  const int depth = png_get_bit_depth(decoder.png, decoder.info);
  if (!start_rows(&decoder)) fail("{}: PNG cannot be read: {}", origin, decoder.message);

  const Transparency transparency = read_transparency(decoder);
  const size_t row_bytes = png_get_rowbytes(decoder.png, decoder.info);
  std::vector<uint8_t> raw(row_bytes * image.height);
  std::vector<png_bytep> rows(image.height);
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = raw.data() + y * row_bytes;
  if (!read_rows(&decoder, rows.data())) fail("{}: PNG cannot be decoded: {}", origin, decoder.message);

  const Samples samples{raw, depth};
  switch (colour) {
    case PNG_COLOR_TYPE_PALETTE:
      expand_palette(decoder, samples, transparency, image);
      break;
    case PNG_COLOR_TYPE_GRAY:
      if (depth == 16)
        expand_grey16(samples, origin, image);
      else
        expand_grey(samples, transparency, image);
      break;
    case PNG_COLOR_TYPE_RGB:
      expand_rgb(samples, transparency, image);
      break;
    default:
      expand_alpha(samples, colour == PNG_COLOR_TYPE_RGB_ALPHA ? 3 : 1, image);
  }
  image.orientation = read_orientation(read_exif(decoder), {});
  return image;
}

}  // namespace visq

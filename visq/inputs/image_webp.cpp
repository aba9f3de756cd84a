#include <webp/decode.h>
#include <webp/demux.h>

#include <memory>

#include "visq/core/error.h"
#include "visq/inputs/image.h"
#include "visq/inputs/image_codecs.h"

namespace visq {
namespace {

template <typename T, void (*destroy)(T*)>
struct Destroyer {
  void operator()(T* pointer) const { destroy(pointer); }
};
using AnimationDecoder = std::unique_ptr<WebPAnimDecoder, Destroyer<WebPAnimDecoder, WebPAnimDecoderDelete>>;

Bytes find_chunk(const WebPDemuxer* demuxer, const char* fourcc) {
  WebPChunkIterator chunk;
  if (!WebPDemuxGetChunk(demuxer, fourcc, 1, &chunk)) return {};
  const Bytes bytes(reinterpret_cast<const std::byte*>(chunk.chunk.bytes), chunk.chunk.size);
  WebPDemuxReleaseChunkIterator(&chunk);  // frees the iterator; the bytes belong to the file
  return bytes;
}

std::vector<uint8_t> drop_alpha(const uint8_t* rgba, size_t pixels) {
  std::vector<uint8_t> rgb(pixels * 3);
  for (size_t i = 0; i < pixels; ++i)
    for (size_t c = 0; c < 3; ++c) rgb[3 * i + c] = rgba[4 * i + c];
  return rgb;
}

}  // namespace

DecodedImage decode_webp(Bytes bytes, const std::string& origin) {
  const WebPData data{reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()};
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(data.bytes, data.size, &features) != VP8_STATUS_OK)
    fail("{}: WebP cannot be read: its header is truncated or malformed", origin);
  check_image_size(features.width, features.height, origin);

  // As Pillow: the animation decoder for stills too; of an animation the first frame on its canvas.
  const AnimationDecoder decoder(WebPAnimDecoderNew(&data, nullptr));
  uint8_t* rgba = nullptr;
  int timestamp = 0;
  if (!decoder || !WebPAnimDecoderGetNext(decoder.get(), &rgba, &timestamp))
    fail("{}: WebP cannot be decoded: the file is truncated or corrupt", origin);

  const WebPDemuxer* demuxer = WebPAnimDecoderGetDemuxer(decoder.get());
  const bool alpha = (WebPDemuxGetI(demuxer, WEBP_FF_FORMAT_FLAGS) & ALPHA_FLAG) != 0;
  DecodedImage image;
  image.width = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_WIDTH);
  image.height = WebPDemuxGetI(demuxer, WEBP_FF_CANVAS_HEIGHT);
  image.channels = alpha ? 4 : 3;
  const size_t pixels = static_cast<size_t>(image.width) * image.height;
  image.pixels = alpha ? std::vector<uint8_t>(rgba, rgba + 4 * pixels) : drop_alpha(rgba, pixels);
  image.orientation = read_orientation(find_chunk(demuxer, "EXIF"), find_chunk(demuxer, "XMP "));
  return image;
}

}  // namespace visq

#include "visq/inputs/image.h"

#include <ATen/ATen.h>

#include "image_files.h"
#include "support.h"

namespace visq {
namespace {

using namespace test;

/// Rows of "#rrggbb"-like triples: pixel (x, y) as {r, g, b}.
std::vector<int> pixel(const at::Tensor& image, int64_t x, int64_t y) {
  std::vector<int> out;
  for (int64_t c = 0; c < 3; ++c) out.push_back(image[c][y][x].item<int>());
  return out;
}

at::Tensor decode(const std::string& file) { return decode_image(as_bytes(file), "test.img"); }
std::string decode_error(const std::string& file) {
  return error_of([&] { decode(file); });
}

using Rgb = std::vector<int>;
const std::string kTwoByteTransparency = std::string("\0\x07", 2);

TEST(Image, AnRgbPngGivesChannelsFirst) {
  const auto image = decode(make_png({.width = 2, .height = 1, .rows = {"\x01\x02\x03\x04\x05\x06"}}));
  EXPECT_EQ(image.sizes(), (std::vector<int64_t>{3, 1, 2}));
  EXPECT_TRUE(image.is_contiguous());
  EXPECT_EQ(image.scalar_type(), at::kByte);
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{1, 2, 3}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{4, 5, 6}));
}

TEST(Image, TransparencyIsCompositedOverWhite) {
  // alpha 128: 40·128 + 255·127 + 128 = 37633 → (37633 + 147) >> 8 = 147
  const auto image = decode(make_png({.color_type = 6, .rows = {"\x28\x32\x3C\x80"}}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{147, 152, 157}));
}

TEST(Image, AFourBitGreyPngIsScaledToBytes) {
  const auto image = decode(make_png({.width = 2, .bit_depth = 4, .color_type = 0, .rows = {"\x5A"}}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{85, 85, 85}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{170, 170, 170}));
}

TEST(Image, TheTransparentGreyLevelBecomesWhite) {
  const auto image = decode(make_png({.width = 2,
                                      .color_type = 0,
                                      .rows = {"\x07\x08"},
                                      .chunks = png_chunk("tRNS", kTwoByteTransparency)}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{255, 255, 255}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{8, 8, 8}));
}

TEST(Image, APaletteIndexBeyondThePaletteIsBlack) {
  const auto image = decode(make_png({.width = 2,
                                      .color_type = 3,
                                      .rows = {std::string("\0\x09", 2)},
                                      .chunks = png_chunk("PLTE", "\x0A\x14\x1E")}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{10, 20, 30}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{0, 0, 0}));
}

TEST(Image, APaletteWithTransparencyIsCompositedOverWhite) {
  const auto image = decode(
      make_png({.width = 2,
                .bit_depth = 1,
                .color_type = 3,
                .rows = {"\x40"},
                .chunks = png_chunk("PLTE", "\x0A\x14\x1E\x28\x32\x3C") + png_chunk("tRNS", "\x80\x28")}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{132, 137, 142}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{221, 223, 224}));
}

TEST(Image, SixteenBitColoursKeepTheHighByte) {
  const auto image = decode(make_png({.bit_depth = 16, .rows = {"\x12\xFF\x34\xFF\x56\xFF"}}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{0x12, 0x34, 0x56}));
}

TEST(Image, SixteenBitGreyIsClippedAsPillowDoes) {
  const std::string row("\x00\x7F\x01\x00\x80\x00", 6);
  const auto image = decode(make_png({.width = 3, .bit_depth = 16, .color_type = 0, .rows = {row}}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{127, 127, 127}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{255, 255, 255}));
  EXPECT_EQ(pixel(image, 2, 0), (Rgb{255, 255, 255}));
}

TEST(Image, AGreyJpegIsReplicatedToThreeChannels) {
  const auto image = decode(make_jpeg(3, 2, 1, std::vector<uint8_t>(6, 128)));
  EXPECT_EQ(image.sizes(), (std::vector<int64_t>{3, 2, 3}));
  EXPECT_TRUE(image.eq(128).all().item<bool>());
}

TEST(Image, ACmykJpegIsReadWithInvertedPolarity) {
  // Stored 255 is no ink. K = 255 - 155 = 100, C = 255 - 55 = 200, no M and Y:
  // R = 155 - mul255(200, 155) = 155 - 122 = 33, G = B = 155.
  const auto image = decode(make_jpeg(1, 1, 4, {55, 255, 255, 155}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{33, 155, 155}));
}

TEST(Image, ALosslessWebpKeepsItsPixels) {
  const auto image = decode(make_lossless_webp(2, 1, {1, 2, 3, 255, 4, 5, 6, 255}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{1, 2, 3}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{4, 5, 6}));
}

TEST(Image, ATransparentWebpIsCompositedOverWhite) {
  const auto image = decode(make_lossless_webp(2, 1, {40, 50, 60, 128, 4, 5, 6, 0}));
  EXPECT_EQ(pixel(image, 0, 0), (Rgb{147, 152, 157}));
  EXPECT_EQ(pixel(image, 1, 0), (Rgb{255, 255, 255}));
}

/// 2 × 3 pixels numbered 1..6 by rows: what each EXIF code makes of them.
TEST(Image, EveryExifOrientationIsApplied) {
  const std::vector<std::vector<std::vector<int>>> expected{
      {{1, 2}, {3, 4}, {5, 6}},  // 1 as it is
      {{2, 1}, {4, 3}, {6, 5}},  // 2 mirrored left-right
      {{6, 5}, {4, 3}, {2, 1}},  // 3 half a turn
      {{5, 6}, {3, 4}, {1, 2}},  // 4 mirrored top-bottom
      {{1, 3, 5}, {2, 4, 6}},    // 5 transposed
      {{5, 3, 1}, {6, 4, 2}},    // 6 a quarter turn clockwise
      {{6, 4, 2}, {5, 3, 1}},    // 7 transposed along the other diagonal
      {{2, 4, 6}, {1, 3, 5}},    // 8 a quarter turn counter-clockwise
  };
  for (int code = 1; code <= 8; ++code) {
    for (const bool little : {false, true}) {
      const auto image = decode(make_png({.width = 2,
                                          .height = 3,
                                          .color_type = 0,
                                          .rows = {"\x01\x02", "\x03\x04", "\x05\x06"},
                                          .chunks = png_chunk("eXIf", exif_block(code, little).substr(6))}));
      const auto& rows = expected[code - 1];
      ASSERT_EQ(image.size(1), static_cast<int64_t>(rows.size())) << code;
      for (size_t y = 0; y < rows.size(); ++y)
        for (size_t x = 0; x < rows[y].size(); ++x) EXPECT_EQ(pixel(image, x, y)[0], rows[y][x]) << code;
    }
  }
}

TEST(Image, TheOrientationOfAJpegIsReadFromExifOrElseXmp) {
  const std::string jpeg = make_jpeg(2, 1, 1, {128, 128});
  std::string xmp("http://ns.adobe.com/xap/1.0/\0", 29);
  xmp += "<x tiff:Orientation=\"6\"/>";
  const auto height = [](const std::string& file) { return decode(file).size(1); };
  EXPECT_EQ(height(with_jpeg_segment(jpeg, 0xE1, exif_block(8, false))), 2);
  EXPECT_EQ(height(with_jpeg_segment(jpeg, 0xE1, xmp)), 2);
  const std::string both = with_jpeg_segment(jpeg, 0xE1, xmp);
  EXPECT_EQ(height(with_jpeg_segment(both, 0xE1, exif_block(1, true))), 1);
}

TEST(Image, AMalformedExifBlockIsIgnored) {
  const std::string jpeg = make_jpeg(2, 1, 1, {128, 128});
  const std::string exif = exif_block(6, true);
  for (size_t size = 0; size < exif.size() - 10; ++size)
    EXPECT_EQ(decode(with_jpeg_segment(jpeg, 0xE1, exif.substr(0, size))).size(1), 1) << size;
  EXPECT_EQ(decode(with_jpeg_segment(jpeg, 0xE1, exif_block(9, true))).size(1), 1);
}

TEST(Image, EveryTruncationIsAnErrorThatNamesTheFile) {
  std::vector<uint8_t> noise(40 * 40 * 3);
  for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<uint8_t>(i * 7919 >> 3);
  std::vector<std::string> rows;
  for (int y = 0; y < 40; ++y) rows.emplace_back(reinterpret_cast<const char*>(&noise[y * 120]), 120);
  std::vector<uint8_t> rgba(40 * 40 * 4);
  for (size_t i = 0; i < rgba.size(); ++i) rgba[i] = static_cast<uint8_t>(i * 104729 >> 4);
  for (const std::string& file :
       {make_jpeg(40, 40, 3, noise), make_jpeg(40, 40, 3, noise, /*progressive=*/true),
        make_png({.width = 40, .height = 40, .rows = rows}), make_lossless_webp(40, 40, rgba)}) {
    ASSERT_NO_THROW(decode(file));
    for (size_t size = 0; size + 16 < file.size(); size += 13)
      EXPECT_TRUE(mentions(decode_error(file.substr(0, size)), {"test.img"})) << size;
  }
}

TEST(Image, AHugeSizeInTheHeaderIsRefusedBeforeDecoding) {
  std::string jpeg = make_jpeg(8, 8, 1, std::vector<uint8_t>(64, 1));
  const size_t frame = jpeg.find("\xFF\xC0");
  jpeg.replace(frame + 5, 4, "\xFF\x00\xFF\x00", 4);
  EXPECT_TRUE(mentions(decode_error(jpeg), {"test.img", "65280x65280", "50 million"}));
  EXPECT_TRUE(
      mentions(decode_error(make_png({.width = 60000, .height = 60000})), {"test.img", "60000x60000"}));
  EXPECT_TRUE(mentions(decode_error(make_png({.width = 0x7FFFFFFF, .height = 1})), {"test.img", "PNG"}));
  // VP8X: canvas of 16384 × 16384, stored minus one in 24 bits.
  const std::string webp("RIFF\x16\0\0\0WEBPVP8X\x0A\0\0\0\0\0\0\0\xFF\x3F\0\xFF\x3F\0", 30);
  EXPECT_TRUE(mentions(decode_error(webp), {"test.img"}));
}

TEST(Image, AChecksumThatDoesNotMatchIsAnError) {
  std::string png = make_png({.width = 2, .rows = {"\x01\x02\x03\x04\x05\x06"}});
  png[png.find("IDAT") + 12] ^= 1;
  EXPECT_TRUE(mentions(decode_error(png), {"test.img", "PNG"}));
}

TEST(Image, OtherFormatsAreNamedAsUnsupported) {
  EXPECT_EQ(decode_error("GIF89a......"), "test.img: not a JPEG, PNG or WebP image");
  EXPECT_EQ(decode_error(""), "test.img: not a JPEG, PNG or WebP image");
}

TEST(Image, AMissingFileIsNamed) {
  EXPECT_TRUE(
      mentions(error_of([] { read_image("/nowhere/cat.png"); }), {"/nowhere/cat.png", "no such file"}));
}

TEST(Image, AFileIsReadFromDisk) {
  const TempDir dir;
  const auto path = dir.write("one.png", make_png({.rows = {"\x01\x02\x03"}}));
  EXPECT_EQ(pixel(read_image(path), 0, 0), (Rgb{1, 2, 3}));
}

}  // namespace
}  // namespace visq

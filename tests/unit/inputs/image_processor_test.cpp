#include "visq/inputs/image_processor.h"

#include <ATen/ATen.h>

#include "image_support.h"

namespace visq {
namespace {

using namespace test;

ImageProcessor load(const std::string& json) {
  const TempDir dir;
  dir.write("preprocessor_config.json", json);
  return ImageProcessor::load(dir.path());
}

std::string load_error(const std::string& json) {
  return error_of([&] { load(json); });
}

at::Tensor filled(int64_t height, int64_t width, int value) {
  return at::full({3, height, width}, value, at::kByte);
}

const std::string kClip336 = R"({"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336},
                                 "crop_size": {"height": 336, "width": 336}})";
const std::string kQwen = R"({"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136,
                              "max_pixels": 12845056})";

TEST(ImageProcessor, TheTestPictureIsTheOneOfTheSpec) {
  EXPECT_EQ(crc_of(test_picture(640, 480).permute({1, 2, 0})), 0xdca347acu);
  EXPECT_EQ(crc_of(test_picture(500, 375).permute({1, 2, 0})), 0xce28b214u);
}

TEST(ImageProcessor, Clip336MatchesTheReferenceBits) {
  const auto processor = load(kClip336);
  const auto out = processor.process(test_picture(640, 480));
  EXPECT_EQ(out.pixels.sizes(), (std::vector<int64_t>{3, 336, 336}));
  EXPECT_EQ(out.grid_h, 0);
  EXPECT_EQ(crc_of(out.pixels), 0x6c7675f2u);
  EXPECT_EQ(crc_of(processor.process(test_picture(500, 375)).pixels), 0x597ed408u);
}

TEST(ImageProcessor, LlavaPadSquareMatchesTheReferenceBits) {
  const auto processor = load(R"({"image_processor_type": "LlavaImageProcessorFast", "do_pad": true,
                                  "size": {"shortest_edge": 336}, "crop_size": 336})");
  EXPECT_EQ(crc_of(processor.process(test_picture(640, 480)).pixels), 0x681a37d9u);
}

TEST(ImageProcessor, Siglip384MatchesTheReferenceBits) {
  const auto processor = load(R"({"image_processor_type": "SiglipImageProcessor",
                                  "size": {"height": 384, "width": 384}})");
  EXPECT_EQ(crc_of(processor.process(test_picture(640, 480)).pixels), 0x797eec69u);
}

TEST(ImageProcessor, Qwen2VlMatchesTheReferenceBits) {
  const auto processor = load(kQwen);
  const auto large = processor.process(test_picture(640, 480));
  EXPECT_EQ(large.pixels.sizes(), (std::vector<int64_t>{1564, 1176}));
  EXPECT_EQ(large.grid_h, 34);
  EXPECT_EQ(large.grid_w, 46);
  EXPECT_EQ(crc_of(large.pixels), 0x3436dd73u);
  const auto small = processor.process(test_picture(500, 375));
  EXPECT_EQ(small.pixels.sizes(), (std::vector<int64_t>{936, 1176}));
  EXPECT_EQ(crc_of(small.pixels), 0x2e057a1eu);
}

TEST(ImageProcessor, QwenGridsFollowTheAreaBounds) {
  const auto published = load(kQwen),
             defaults = load(R"({"image_processor_type": "Qwen2VLImageProcessorFast"})");
  struct Case {
    int64_t width, height, grid_h, grid_w;
  };
  for (const Case& c : {Case{100, 1000, 72, 8}, Case{224, 224, 16, 16}, Case{32, 32, 4, 4}, Case{1, 1, 4, 4},
                        Case{1920, 1080, 52, 94}, Case{3000, 2000, 58, 86}}) {
    const auto out = defaults.process(filled(c.height, c.width, 9));
    EXPECT_EQ(out.grid_h, c.grid_h) << c.width << "x" << c.height;
    EXPECT_EQ(out.grid_w, c.grid_w) << c.width << "x" << c.height;
  }
  const auto wide = published.process(filled(1080, 1920, 9));
  EXPECT_EQ(wide.grid_h * wide.grid_w / 4, 2691);
}

TEST(ImageProcessor, QwenPatchRowsAreGroupedByMergedTokens) {
  auto processor = load(R"({"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 1, "merge_size": 2,
                            "temporal_patch_size": 2, "do_resize": false, "do_rescale": false,
                            "do_normalize": false})");
  // Two rows of four pixels: the first merged token holds 0 1 / 4 5, the second 2 3 / 6 7.
  const auto plane = at::arange(8, at::kByte).view({1, 2, 4});
  const auto out = processor.process(at::cat({plane, plane + 10, plane + 20}));
  const auto expected = at::tensor({0, 1, 4, 5, 2, 3, 6, 7}, at::kFloat);
  EXPECT_EQ(out.pixels.sizes(), (std::vector<int64_t>{8, 6}));
  for (int64_t channel = 0; channel < 3; ++channel)
    for (int64_t frame = 0; frame < 2; ++frame)
      EXPECT_TRUE(out.pixels.select(1, 2 * channel + frame).equal(expected + 10 * channel));
}

TEST(ImageProcessor, AnImageSmallerThanTheCropGetsItsOddRowAtTheEnd) {
  const auto processor = load(R"({"image_processor_type": "CLIPImageProcessor", "do_resize": false,
                                  "do_normalize": false, "do_rescale": false, "crop_size": 4})");
  const auto out = processor.process(filled(1, 4, 7)).pixels;  // 3 rows of padding: 1 above, 2 below
  EXPECT_TRUE(out[0].select(1, 0).equal(at::tensor({0, 7, 0, 0}, at::kFloat)));
}

TEST(ImageProcessor, PaddingToASquareUsesTheTruncatedMean) {
  const auto processor =
      load(R"({"image_processor_type": "LlavaImageProcessor", "do_pad": true, "do_resize": false,
                                  "do_center_crop": false, "do_normalize": false, "do_rescale": false})");
  const auto out = processor.process(filled(1, 4, 7)).pixels;
  EXPECT_EQ(out.sizes(), (std::vector<int64_t>{3, 4, 4}));
  // CLIP mean · 255 = 122.77, 116.75, 104.09
  for (const auto& [channel, fill] : {std::pair{0, 122}, {1, 116}, {2, 104}})
    EXPECT_TRUE(out[channel].select(1, 0).equal(at::tensor({fill, 7, fill, fill}, at::kFloat)));
}

TEST(ImageProcessor, NormalizingScalesMeanAndStdInsteadOfThePixels) {
  const auto processor =
      load(R"({"image_processor_type": "SiglipImageProcessor", "size": {"height": 1, "width": 1}})");
  // (x - 127.5) / 127.5
  EXPECT_EQ(processor.process(filled(1, 1, 255)).pixels[0].item<float>(), 1.0f);
  EXPECT_EQ(processor.process(filled(1, 1, 0)).pixels[0].item<float>(), -1.0f);
}

TEST(ImageProcessor, TheLongSideIsTruncatedToWholePixels) {
  const auto processor =
      load(R"({"image_processor_type": "CLIPImageProcessor", "size": 10, "do_center_crop": false})");
  EXPECT_EQ(processor.process(filled(7, 3, 1)).pixels.sizes(),
            (std::vector<int64_t>{3, 23, 10}));  // 10·7/3 = 23.3
  EXPECT_EQ(processor.process(filled(3, 7, 1)).pixels.sizes(), (std::vector<int64_t>{3, 10, 23}));
}

TEST(ImageProcessor, SettingsNestedInTheProcessorConfigWin) {
  const TempDir dir;
  dir.write("preprocessor_config.json", kClip336);
  dir.write("processor_config.json",
            R"({"image_processor": {"image_processor_type": "SiglipImageProcessor"}})");
  EXPECT_EQ(ImageProcessor::load(dir.path()).kind, ImageProcessor::Kind::siglip);
  dir.write("processor_config.json", R"({"patch_size": 14})");
  EXPECT_EQ(ImageProcessor::load(dir.path()).kind, ImageProcessor::Kind::clip);
}

TEST(ImageProcessor, MissingKeysTakeTheClassDefaults) {
  const auto clip = load(R"({"image_processor_type": "CLIPImageProcessor"})");
  EXPECT_EQ(clip.resize_shortest, 224);
  EXPECT_EQ(clip.crop_height, 224);
  EXPECT_EQ(clip.steps.mean[0], 0.48145466);
  const auto siglip = load(R"({"image_processor_type": "SiglipImageProcessorFast", "do_convert_rgb": null})");
  EXPECT_EQ(siglip.resize_width, 224);
  EXPECT_EQ(siglip.steps.mean, (std::vector<double>{0.5, 0.5, 0.5}));
  EXPECT_FALSE(siglip.crop);
  const auto qwen = load(R"({"image_processor_type": "Qwen2VLImageProcessor"})");
  EXPECT_EQ(qwen.min_pixels, 3136);
  EXPECT_EQ(qwen.max_pixels, 1003520);
}

TEST(ImageProcessor, MinAndMaxPixelsOverrideTheSize) {
  const auto qwen = load(R"({"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 5000,
                             "size": {"shortest_edge": 100, "longest_edge": 7000}})");
  EXPECT_EQ(qwen.min_pixels, 100);
  EXPECT_EQ(qwen.max_pixels, 5000);
}

TEST(ImageProcessor, ImagesOfExtremeShapeAreErrors) {
  EXPECT_TRUE(mentions(error_of([&] { load(kQwen).process(filled(1, 201, 1)); }), {"201x1", "aspect ratio"}));
  EXPECT_TRUE(
      mentions(error_of([&] { load(kClip336).process(filled(1, 2000, 1)); }), {"2000x1", "too extreme"}));
}

TEST(ImageProcessor, MalformedConfigsAreErrorsThatNameTheKey) {
  EXPECT_TRUE(mentions(load_error("{"), {"preprocessor_config.json", "not valid JSON"}));
  EXPECT_TRUE(mentions(load_error("[]"), {"preprocessor_config.json", "not a JSON object"}));
  EXPECT_TRUE(mentions(load_error("{}"), {"preprocessor_config.json", "'image_processor_type' is missing"}));
  EXPECT_TRUE(mentions(load_error(R"({"image_processor_type": "ViTImageProcessor"})"),
                       {"preprocessor_config.json", "'ViTImageProcessor' is not supported"}));
  const auto clip = [](const std::string& rest) {
    return load_error(R"({"image_processor_type": "CLIPImageProcessor", )" + rest + "}");
  };
  EXPECT_TRUE(mentions(clip(R"("size": {"longest_edge": 5})"), {"size", "longest_edge"}));
  EXPECT_TRUE(mentions(clip(R"("size": {"shortest_edge": 0})"), {"size", "'shortest_edge' is 0"}));
  EXPECT_TRUE(mentions(clip(R"("size": {"height": 100000, "width": 1})"), {"'height' is 100000"}));
  EXPECT_TRUE(mentions(clip(R"("crop_size": {"height": 5})"), {"crop_size"}));
  EXPECT_TRUE(mentions(clip(R"("resample": 0)"), {"'resample' is 0"}));
  EXPECT_TRUE(mentions(clip(R"("image_mean": [0.5])"), {"'image_mean' has 1 values"}));
  EXPECT_TRUE(mentions(clip(R"("image_std": [0.5, 0, 0.5])"), {"'image_std'"}));
  EXPECT_TRUE(mentions(clip(R"("rescale_factor": 0)"), {"'rescale_factor'"}));
  EXPECT_TRUE(mentions(clip(R"("do_resize": "yes")"), {"'do_resize'", "unexpected type"}));
  EXPECT_TRUE(mentions(clip(R"("do_pad": true)"), {"'do_pad'"}));
  EXPECT_TRUE(mentions(load_error(R"({"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 0})"),
                       {"'patch_size' is 0"}));
  const TempDir empty;
  EXPECT_TRUE(mentions(error_of([&] { ImageProcessor::load(empty.path()); }), {"preprocessor_config.json"}));
}

}  // namespace
}  // namespace visq

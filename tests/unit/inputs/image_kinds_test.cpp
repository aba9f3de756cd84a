// The kinds that cut, pad or mask, and both profiles of all; checksums are those of spec/inputs.md §8.
#include "visq/inputs/image_kinds.h"

#include <ATen/ATen.h>

#include "image_support.h"

namespace visq {
namespace {

using namespace test;

using Sizes = std::vector<int64_t>;

ImageProcessor load(const std::string& json, ImageProfile profile = ImageProfile::tv) {
  const TempDir dir;
  dir.write("preprocessor_config.json", json);
  return ImageProcessor::load(dir.path(), profile);
}

std::string load_error(const std::string& json) {
  return error_of([&] { load(json); });
}

at::Tensor filled(int64_t height, int64_t width, int value) {
  return at::full({3, height, width}, value, at::kByte);
}

ImageProcessor load_vila(const std::string& root) {
  const TempDir dir;
  dir.write("config.json", root);
  dir.write("vision_tower/preprocessor_config.json",
            R"({"image_processor_type": "SiglipImageProcessor", "size": {"height": 448, "width": 448}})");
  return ImageProcessor::load(dir.path());
}

struct Golden {
  const char* json;
  uint32_t tv, pil;              // of the 640x480 picture
  uint32_t small_tv, small_pil;  // of the 500x375 picture; 0: not listed
};

const char* const kInternVl =
    R"({"image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": true,
    "size": {"height": 448, "width": 448}, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]})";
const char* const kNext =
    R"({"image_processor_type": "LlavaNextImageProcessor", "size": {"shortest_edge": 336},
                              "crop_size": 336})";
const char* const kMllama = R"({"image_processor_type": "MllamaImageProcessor", "size": 560})";

const Golden kGoldens[] = {
    {R"({"image_processor_type": "CLIPImageProcessor", "size": 336, "crop_size": 336})", 0x6c7675f2,
     0xe59907ab, 0x597ed408, 0x4594bb07},
    {R"({"image_processor_type": "LlavaImageProcessor", "do_pad": true, "size": 336, "crop_size": 336})",
     0x681a37d9, 0xd759a631, 0, 0},
    {R"({"image_processor_type": "SiglipImageProcessor", "size": {"height": 384, "width": 384}})", 0x797eec69,
     0xa8159c31, 0, 0},
    {kNext, 0x5d2764ab, 0xa86eb265, 0x2ff1e098, 0xf982d8c5},
    {R"({"image_processor_type": "LlavaOnevisionImageProcessor"})", 0x734fd414, 0x1590d840, 0x38c2e55d,
     0x7cdf0429},
    {R"({"image_processor_type": "Qwen2VLImageProcessor"})", 0x3436dd73, 0x37cb28cb, 0x2e057a1e, 0x6ddf2ba8},
    {R"({"image_processor_type": "Qwen2VLImageProcessor", "patch_size": 16, "image_mean": [0.5, 0.5, 0.5],
         "image_std": [0.5, 0.5, 0.5], "size": {"shortest_edge": 65536, "longest_edge": 16777216}})",
     0x227740d3, 0xa41af1a7, 0, 0},
    {R"({"image_processor_type": "Gemma3ImageProcessor", "size": 896})", 0x4367cbaf, 0x3b2571bc, 0x6ad819c4,
     0x949d1a35},
    {R"({"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 2048},
         "max_image_size": {"longest_edge": 512}})",
     0x35a2b36b, 0x6a9c0152, 0x2f1c215c, 0x3d23bcf0},
    {R"({"image_processor_type": "SmolVLMImageProcessor", "size": {"longest_edge": 1536},
         "max_image_size": {"longest_edge": 384}})",
     0x4443607d, 0x612ea4a4, 0, 0},
    {R"({"image_processor_type": "PixtralImageProcessor"})", 0x5b68533c, 0xd2d1302f, 0x2616c14d, 0xa3aa037b},
    {R"({"image_processor_type": "PixtralImageProcessor", "size": {"longest_edge": 1540}, "patch_size": 28})",
     0xb059f9ad, 0xe547a8ef, 0, 0},
    {kInternVl, 0x5f036ea9, 0x52a0a2d5, 0xb47b525d, 0xa0f953ca},
};

TEST(ImageKinds, BothProfilesMatchTheReferenceBits) {
  for (const Golden& golden : kGoldens) {
    SCOPED_TRACE(golden.json);
    const auto tv = load(golden.json), pil = load(golden.json, ImageProfile::pil);
    EXPECT_EQ(crc_of(tv.process(test_picture(640, 480)).pixels), golden.tv);
    EXPECT_EQ(crc_of(pil.process(test_picture(640, 480)).pixels), golden.pil);
    if (golden.small_tv == 0) continue;
    EXPECT_EQ(crc_of(tv.process(test_picture(500, 375)).pixels), golden.small_tv);
    EXPECT_EQ(crc_of(pil.process(test_picture(500, 375)).pixels), golden.small_pil);
  }
}

TEST(ImageKinds, MllamaMatchesTheReferenceBitsOncePaddedToFourTiles) {
  const auto crc = [](ImageProfile profile, const at::Tensor& picture) {
    const at::Tensor tiles = load(kMllama, profile).process(picture).pixels;
    return crc_of(at::cat({tiles, at::zeros({4 - tiles.size(0), 3, 560, 560})}));
  };
  EXPECT_EQ(crc(ImageProfile::tv, test_picture(640, 480)), 0x24d033c6u);
  EXPECT_EQ(crc(ImageProfile::pil, test_picture(640, 480)), 0x1ab81093u);
  EXPECT_EQ(crc(ImageProfile::tv, test_picture(500, 375)), 0x102ecfa2u);
  EXPECT_EQ(crc(ImageProfile::pil, test_picture(500, 375)), 0xb15af639u);
}

TEST(ImageKinds, KindsOfOneProfileUseItWhateverIsAskedFor) {
  const auto phi3 = load(R"({"image_processor_type": "Phi3VImageProcessor", "num_crops": 16})");
  EXPECT_EQ(phi3.profile, ImageProfile::pil);
  EXPECT_EQ(crc_of(phi3.process(test_picture(640, 480)).pixels), 0xb4dd0dedu);
  const auto phi4 = load(R"({"image_processor_type": "Phi4MultimodalImageProcessor"})", ImageProfile::pil);
  EXPECT_EQ(phi4.profile, ImageProfile::tv);
  EXPECT_EQ(crc_of(phi4.process(test_picture(640, 480)).pixels), 0x72d68d50u);
  EXPECT_EQ(crc_of(phi4.process(test_picture(500, 375)).pixels), 0x1f50155fu);
  EXPECT_EQ(crc_of(load_vila(R"({"image_aspect_ratio": "dynamic"})").process(test_picture(640, 480)).pixels),
            0x2d24b1dcu);
}

TEST(ImageKinds, EveryKindTellsTheSizeOfTheOriginal) {
  for (const Golden& golden : kGoldens) {
    const auto out = load(golden.json).process(test_picture(90, 70));
    EXPECT_EQ(out.height, 70);
    EXPECT_EQ(out.width, 90);
  }
}

TEST(ImageKinds, TheGlobalViewComesFirstOrLastAsInTheReference) {
  // White above, black below: the first and the last tile of a portrait image differ, the global view has
  // both.
  const at::Tensor image = at::cat({filled(896, 448, 255), filled(896, 448, 0)}, 1);
  const auto mixed = [](const at::Tensor& tile) {
    const at::Tensor red = tile[0];
    return red.max().item<float>() > red.min().item<float>();
  };
  const auto next = load(kNext).process(image), internvl = load(kInternVl).process(image);
  EXPECT_TRUE(mixed(next.pixels[0]));
  EXPECT_FALSE(mixed(internvl.pixels[0]));
  EXPECT_TRUE(mixed(internvl.pixels[-1]));
  EXPECT_EQ(internvl.pixels.size(0), internvl.rows * internvl.columns + 1);
  EXPECT_EQ(next.pixels.size(0), next.rows * next.columns + 1);
}

TEST(ImageKinds, OneVisionCutsOnlyTheSingleImageOfASample) {
  const auto processor = load(R"({"image_processor_type": "LlavaOnevisionImageProcessor"})");
  const auto alone = processor.process(test_picture(640, 480)),
             among = processor.process(test_picture(640, 480), 2);
  EXPECT_EQ(alone.pixels.sizes(), (Sizes{5, 3, 384, 384}));
  EXPECT_EQ(alone.rows, 2);
  EXPECT_EQ(among.pixels.sizes(), (Sizes{1, 3, 384, 384}));
  EXPECT_EQ(among.rows, 0);
}

TEST(ImageKinds, Gemma3AddsSlicesWhenItsConfigSaysSo) {
  const auto processor = load(R"({"image_processor_type": "Gemma3ImageProcessor", "do_pan_and_scan": true,
                                  "pan_and_scan_min_crop_size": null})");
  const auto wide = processor.process(test_picture(900, 300)),
             plain = processor.process(test_picture(300, 300));
  EXPECT_EQ(wide.pixels.sizes(), (Sizes{4, 3, 224, 224}));
  EXPECT_EQ(wide.columns, 3);
  EXPECT_EQ(plain.pixels.sizes(), (Sizes{1, 3, 224, 224}));
  EXPECT_EQ(plain.columns, 0);
}

TEST(ImageKinds, Phi4MasksThePatchesThatOnlyShowPadding) {
  const auto processor = load(R"({"image_processor_type": "Phi4MMImageProcessor"})");
  const auto out = processor.process(test_picture(640, 480));  // 896x672 on 896x896: 224 rows of padding
  EXPECT_EQ(out.pixels.sizes(), (Sizes{5, 3, 448, 448}));
  EXPECT_EQ(out.patch_mask.sizes(), (Sizes{5, 32, 32}));
  EXPECT_TRUE(out.patch_mask.narrow(0, 0, 3).all().item<bool>());
  EXPECT_TRUE(out.patch_mask.narrow(0, 3, 2).narrow(1, 0, 16).all().item<bool>());
  EXPECT_FALSE(out.patch_mask.narrow(0, 3, 2).narrow(1, 16, 16).any().item<bool>());
  EXPECT_TRUE(mentions(error_of([&] { processor.process(filled(1, 60, 1)); }), {"60x1", "too extreme"}));
}

TEST(ImageKinds, InternVlsOwnProcessorAlwaysCuts) {
  const std::string config = R"({"image_processor_type": "GotOcr2ImageProcessor", "crop_to_patches": false)";
  EXPECT_FALSE(load(config + "}").split);
  EXPECT_TRUE(load(config + R"(, "processor_class": "InternVLProcessor"})").split);
}

TEST(ImageKinds, Llama4RoundsToBfloat16) {
  const auto llama4 = load(R"({"image_processor_type": "Llama4ImageProcessorFast"})");
  EXPECT_EQ(llama4.process(filled(337, 336, 3)).rows, 2);
  const auto out = llama4.process(filled(336, 336, 3));
  EXPECT_EQ(out.pixels.sizes(), (Sizes{1, 3, 336, 336}));
  EXPECT_EQ(out.rows, 0);
  // 3/255 = 0.011765 → 0.01177979 in bfloat16; minus 0.5 → -0.488281; doubled.
  EXPECT_EQ(out.pixels[0][0][0][0].item<float>(), -0.9765625f);
  EXPECT_TRUE(out.pixels.equal(out.pixels.to(at::kBFloat16).to(at::kFloat)));
}

TEST(ImageKinds, VilaTilesOnlyTheSingleImageOfASample) {
  const auto dynamic = load_vila(R"({"image_aspect_ratio": "dynamic", "max_tiles": 6})");
  EXPECT_EQ(dynamic.process(test_picture(900, 300)).pixels.sizes(), (Sizes{4, 3, 448, 448}));
  EXPECT_EQ(dynamic.process(test_picture(900, 300), 2).pixels.sizes(), (Sizes{3, 448, 448}));
  const auto s2 = load_vila(R"({"image_aspect_ratio": "dynamic_s2", "s2_scales": "896,448,1344"})");
  const auto out = s2.process(test_picture(640, 480));
  EXPECT_EQ(out.pixels.size(0), 1 + 4 + 12);
  EXPECT_EQ(out.rows, 3);
  EXPECT_EQ(out.columns, 4);
}

TEST(ImageKinds, VilaCutsTheImagesOfAllScales) {
  const auto s2 = load_vila(R"({"s2": true, "s2_scales": "896,448,1344", "s2_max_split_size": 448})");
  for (const int64_t images : {1, 2}) {
    const auto out = s2.process(test_picture(640, 480), images);
    EXPECT_EQ(out.pixels.sizes(), (Sizes{1 + 4 + 9, 3, 448, 448}));
    EXPECT_EQ(out.rows, 3);
    EXPECT_EQ(out.columns, 3);
  }
  const at::Tensor grey = s2.process(filled(20, 30, 51)).pixels;  // (0.2 − 0.5) / 0.5
  EXPECT_TRUE(at::allclose(grey, at::full_like(grey, -0.6)));
}

TEST(ImageKinds, VilasInternVitHasAProcessorOfItsOwn) {
  const TempDir dir;
  dir.write("config.json", R"({"image_aspect_ratio": "resize"})");
  dir.write("vision_tower/config.json", R"({"model_type": "intern_vit_6b"})");
  const at::Tensor pixels = ImageProcessor::load(dir.path()).process(filled(20, 30, 255)).pixels;
  EXPECT_EQ(pixels.sizes(), (Sizes{3, 448, 448}));
  EXPECT_FLOAT_EQ(pixels[0][0][0].item<float>(), (1 - 0.485f) / 0.229f);
  EXPECT_FLOAT_EQ(pixels[2][447][447].item<float>(), (1 - 0.406f) / 0.225f);
}

TEST(ImageKinds, SettingsThatAskForTooMuchAreErrors) {
  EXPECT_TRUE(
      mentions(load_error(R"({"image_processor_type": "MllamaImageProcessor", "max_image_tiles": 1000})"),
               {"preprocessor_config.json", "'max_image_tiles' is 1000"}));
  EXPECT_TRUE(mentions(load_error(R"({"image_processor_type": "Llama4ImageProcessor",
                                      "size": {"height": 5, "width": 6}})"),
                       {"'size'", "equal values"}));
  EXPECT_TRUE(mentions(load_error(R"({"image_processor_type": "LlavaNextImageProcessor",
                                      "image_grid_pinpoints": [[5]]})"),
                       {"'image_grid_pinpoints'"}));
  const auto idefics = load(R"({"image_processor_type": "Idefics3ImageProcessor",
                                "max_image_size": {"longest_edge": 2}})");
  EXPECT_TRUE(mentions(error_of([&] { idefics.process(filled(4, 4, 1)); }), {"4x4", "tiles of 2x2"}));
  const auto pixtral = load(R"({"image_processor_type": "PixtralImageProcessor", "do_resize": false})");
  EXPECT_TRUE(mentions(error_of([&] { pixtral.process(filled(4, 16, 1)); }), {"16x4", "no multiple of 16"}));
  EXPECT_TRUE(mentions(error_of([] { load_vila(R"({"image_aspect_ratio": "dynamic_s2"})"); }),
                       {"config.json", "'s2_scales' is missing"}));
  EXPECT_TRUE(
      mentions(error_of([] { load_vila(R"({"image_aspect_ratio": "dynamic_s2", "s2_scales": "448,,9"})"); }),
               {"config.json", "'s2_scales' is '448,,9'"}));
}

}  // namespace
}  // namespace visq

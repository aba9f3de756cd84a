#include "visq/inputs/video_processor.h"

#include <ATen/ATen.h>

#include "image_files.h"
#include "image_support.h"

namespace visq {
namespace {

using namespace test;

/// A grey picture, `value` everywhere.
std::string grey(uint32_t width, uint32_t height, int value) {
  return make_png({.width = width,
                   .height = height,
                   .color_type = 0,
                   .rows = std::vector<std::string>(height, std::string(width, static_cast<char>(value)))});
}

const std::string kQwen2 = R"({"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136,
                               "max_pixels": 12544, "do_normalize": false, "do_rescale": false})";
const std::string kQwen3 = R"({"video_processor_type": "Qwen3VLVideoProcessor", "do_normalize": false,
                               "size": {"shortest_edge": 4096, "longest_edge": 16384}, "do_rescale": false})";

class VideoProcessorTest : public testing::Test {
 protected:
  VideoProcessor load(const std::string& otherwise = "Qwen2VLVideoProcessor") {
    return VideoProcessor::load(dir_.path(), otherwise);
  }
  /// A video of pictures of 64 × 64 pixels with these values.
  Video video(const std::vector<int>& values) {
    Video out;
    for (size_t i = 0; i < values.size(); ++i)
      out.frames.push_back(dir_.write(std::to_string(i) + ".png", grey(64, 64, values[i])));
    return out;
  }
  TempDir dir_;
};

TEST_F(VideoProcessorTest, RepeatsTheLastFrameUntilTheStepIsFull) {
  dir_.write("preprocessor_config.json", kQwen2);
  Video three = video({10, 20, 30});
  three.fps = 2;
  const ProcessedImage out = load().process(three);
  EXPECT_EQ(out.grid_t, 2);
  EXPECT_EQ(out.grid_h, 4);  // 64 rounds to 56 pixels
  EXPECT_EQ(out.grid_w, 4);
  EXPECT_EQ(out.frames, 3);
  EXPECT_EQ(out.fps, 2);
  ASSERT_EQ(out.pixels.sizes(), (std::vector<int64_t>{32, 3 * 2 * 14 * 14}));
  // Rows: channel, frame, row, column.
  const at::Tensor parts = out.pixels.view({2, 16, 3, 2, 14 * 14});
  EXPECT_TRUE(parts[0].select(2, 0).eq(10).all().item<bool>());
  EXPECT_TRUE(parts[0].select(2, 1).eq(20).all().item<bool>());
  EXPECT_TRUE(parts[1].eq(30).all().item<bool>());
}

TEST_F(VideoProcessorTest, CountsTheLimitsPerFrameOrForAllFrames) {
  dir_.write("preprocessor_config.json", kQwen2);
  EXPECT_EQ(load().process(video({1, 2, 3, 4, 5, 6})).grid_h, 4);
  dir_.write("video_preprocessor_config.json", kQwen3);  // wins over the other file
  EXPECT_EQ(load().process(video({1, 2, 3, 4})).grid_h, 4);
  EXPECT_EQ(load().process(video({1, 2, 3, 4, 5, 6})).grid_h, 2);
  dir_.write("processor_config.json", R"({"video_processor": )" + kQwen2 + "}");  // wins over both
  EXPECT_EQ(load().process(video({1, 2, 3, 4, 5, 6})).grid_h, 4);
}

TEST_F(VideoProcessorTest, TakesTheClassThatIsNamedThenTheTwinThenTheModels) {
  dir_.write("preprocessor_config.json", R"({"image_processor_type": "Qwen2VLImageProcessor"})");
  EXPECT_FALSE(load("Qwen3VLVideoProcessor").all_frames);
  EXPECT_EQ(load().frame.min_pixels, 128 * 28 * 28);
  dir_.write("preprocessor_config.json", R"({"image_processor_type": "Qwen2VLImageProcessorFast"})");
  EXPECT_TRUE(load("Qwen3VLVideoProcessor").all_frames);
  EXPECT_EQ(load("Qwen3VLVideoProcessor").frame.patch, 16);
  EXPECT_EQ(load("Qwen3VLVideoProcessor").frame.max_pixels, 768 * 32 * 32);
  dir_.write("video_preprocessor_config.json", R"({"video_processor_type": "LlavaOnevisionVideoProcessor"})");
  EXPECT_TRUE(mentions(error_of([&] { load(); }), {"video_preprocessor_config.json", "LlavaOnevision"}));
  dir_.write("video_preprocessor_config.json", R"({"cap_pixels_per_frame": true})");
  EXPECT_TRUE(
      mentions(error_of([&] { load(); }), {"video_preprocessor_config.json", "cap_pixels_per_frame"}));
}

TEST_F(VideoProcessorTest, RefusesFramesOfUnlikeSizesAndVideosThatAreTooLarge) {
  dir_.write("preprocessor_config.json", kQwen2);
  Video unlike = video({1, 2});
  dir_.write("1.png", grey(64, 32, 2));
  EXPECT_TRUE(mentions(error_of([&] { load().process(unlike); }), {"1.png", "64x32", "64x64"}));
  dir_.write(
      "preprocessor_config.json",
      R"({"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 40000000, "max_pixels": 50000000})");
  EXPECT_TRUE(mentions(error_of([&] { load().process(video({1, 2})); }), {"2 frames", "fewer"}));
  dir_.write("preprocessor_config.json", kQwen3);
  EXPECT_TRUE(mentions(error_of([&] { load().process(video({1})); }), {"1 frames"}));
}

}  // namespace
}  // namespace visq

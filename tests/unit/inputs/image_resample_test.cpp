#include "visq/inputs/image_resample.h"

#include <ATen/ATen.h>

#include "image_support.h"

namespace visq {
namespace {

using namespace test;

struct Case {
  Resampling filter;
  ImageSize size;
  uint32_t pil, tv;
};

// spec/inputs.md §8, "Resize only".
const Case kCases[] = {
    {Resampling::bicubic, {476, 644}, 0x51fbbe9b, 0xdf97d380},
    {Resampling::bicubic, {336, 448}, 0x403390bd, 0x85ee5e63},
    {Resampling::bicubic, {896, 896}, 0xd82a3d0d, 0xddccda16},
    {Resampling::bilinear, {896, 896}, 0x20aa2bd8, 0x7bc5fc9d},
    {Resampling::bilinear, {476, 644}, 0xfa4dfb6d, 0x8494b59e},
    {Resampling::lanczos, {1536, 2048}, 0x17ede8cf, 0x71b5d49b},
    {Resampling::lanczos, {336, 336}, 0x28149122, 0x7d226567},
};

TEST(ImageResample, BothProfilesMatchTheReferenceBits) {
  const at::Tensor picture = test_picture(640, 480);
  for (const auto& [filter, size, pil, tv] : kCases) {
    SCOPED_TRACE(testing::Message() << static_cast<int>(filter) << " " << size.width << "x" << size.height);
    const auto crc = [&](ImageProfile profile) {
      return crc_of(resize_image(picture, size, filter, profile).permute({1, 2, 0}));
    };
    EXPECT_EQ(crc(ImageProfile::pil), pil);
    EXPECT_EQ(crc(ImageProfile::tv), tv);
  }
}

TEST(ImageResample, AnImageOfTheWantedSizeStaysAsItIs) {
  const at::Tensor picture = test_picture(7, 5);
  for (const auto profile : {ImageProfile::tv, ImageProfile::pil})
    EXPECT_TRUE(resize_image(picture, {5, 7}, Resampling::lanczos, profile).is_same(picture));
}

TEST(ImageResample, AFlatImageStaysFlat) {
  const at::Tensor flat = at::full({3, 9, 1}, 201, at::kByte);
  for (const auto filter : {Resampling::bilinear, Resampling::bicubic, Resampling::lanczos})
    EXPECT_TRUE(resize_as_pillow(flat, {4, 11}, filter).equal(at::full({3, 4, 11}, 201, at::kByte)));
}

TEST(ImageResample, HalvingWithBilinearWeighsFourNeighbours) {
  const at::Tensor row = at::tensor({0, 80, 160, 240}, at::kByte).view({1, 1, 4}).repeat({3, 1, 1});
  // Around 1: weights 3, 3, 1 of 7 (nothing lies left of the first pixel).
  const at::Tensor out = resize_as_pillow(row, {1, 2}, Resampling::bilinear);
  EXPECT_TRUE(out[0][0].equal(at::tensor({57, 183}, at::kByte)));  // 400/7 = 57.1, 1280/7 = 182.9
}

TEST(ImageResample, SizesBeyondReasonAreErrors) {
  const at::Tensor picture = test_picture(8, 4);
  for (const ImageSize size : {ImageSize{0, 5}, ImageSize{5, 0}, ImageSize{60'000, 60'000}}) {
    for (const auto profile : {ImageProfile::tv, ImageProfile::pil})
      EXPECT_TRUE(mentions(error_of([&] { resize_image(picture, size, Resampling::bicubic, profile); }),
                           {"8x4", "too extreme"}));
  }
}

}  // namespace
}  // namespace visq

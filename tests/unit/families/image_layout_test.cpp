#include "visq/families/image_layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

using Kind = ImageLayout::Kind;

/// A tower of square tiles without class token, one channel a patch.
ModelSpec tile_spec(int64_t image_size, int64_t patch, Kind kind) {
  ModelSpec spec;
  spec.vision.image_size = image_size;
  spec.vision.patch = patch;
  spec.image_token = "<i>";
  spec.layout.kind = kind;
  return spec;
}

ProcessedImage tiles(int64_t count, int64_t side, int64_t rows, int64_t columns, int64_t height = 0,
                     int64_t width = 0) {
  ProcessedImage image;
  image.pixels = at::empty({count, 3, side, side}, at::kByte);
  image.rows = rows, image.columns = columns, image.height = height, image.width = width;
  return image;
}

int64_t anyres_tokens(const ModelSpec& spec, int64_t height, int64_t width, int64_t rows, int64_t columns) {
  const ProcessedImage image =
      tiles(1 + rows * columns, spec.vision.image_size, rows, columns, height, width);
  return image_tokens(spec, image);
}

TEST(ImageTokens, OfLlavaNextCutThePaddingAway) {
  const ModelSpec spec = tile_spec(336, 14, Kind::anyres);
  EXPECT_EQ(anyres_tokens(spec, 899, 1024, 2, 2), 2634);
  EXPECT_EQ(anyres_tokens(spec, 480, 640, 2, 2), 2340);
  EXPECT_EQ(anyres_tokens(spec, 336, 336, 1, 2), 1176);
  EXPECT_EQ(anyres_tokens(spec, 100, 1000, 1, 3), 1160);
}

TEST(ImageTokens, OfLlavaOneVisionShrinkLargeMosaics) {
  ModelSpec spec = tile_spec(384, 14, Kind::anyres);
  spec.layout.max_tiles = 9;
  EXPECT_EQ(anyres_tokens(spec, 899, 1024, 3, 3), 6551);
  EXPECT_EQ(anyres_tokens(spec, 480, 640, 2, 2), 2929);
  EXPECT_EQ(anyres_tokens(spec, 384, 384, 1, 1), 1485);
  EXPECT_EQ(anyres_tokens(spec, 2304, 2304, 6, 6), 7371);
  EXPECT_EQ(image_tokens(spec, tiles(1, 384, 0, 0, 480, 640)), 730);  // one of several images: not cut
}

TEST(ImageTokens, OfMllamaAreNoneThoughTheImageHasRowsForAllTiles) {
  ModelSpec spec = tile_spec(560, 14, Kind::cross);
  spec.vision.class_token = true;
  spec.vision.joined_tiles = 4;
  const ProcessedImage image = tiles(2, 560, 1, 2);
  EXPECT_EQ(image_tokens(spec, image), 0);
  EXPECT_EQ(feature_rows(spec, image), 4 * 1601);
  EXPECT_EQ(image_text(spec, image), "<i>");
}

TEST(ImageTokens, OfPhi3CountEndsOfLinesAndTheSeparator) {
  ModelSpec spec = tile_spec(336, 14, Kind::hd);
  spec.projector = {nn::ProjectorOp::unshuffle(2)};
  EXPECT_EQ(image_tokens(spec, tiles(13, 336, 3, 4)), 1921);  // 640 × 480 with up to 16 crops
  EXPECT_EQ(image_tokens(spec, tiles(5, 336, 2, 2)), 757);
}

TEST(ImageTokens, OfPhi4LeaveTheMaskedCellsOut) {
  ModelSpec spec = tile_spec(448, 14, Kind::hd);
  spec.projector = {nn::ProjectorOp::average_pool(2)};
  ProcessedImage image = tiles(3, 448, 1, 2);
  EXPECT_EQ(image_tokens(spec, image), 16 * 32 + 16 + 1 + 272);
  image.patch_mask = at::ones({3, 32, 32}, at::kBool);
  image.patch_mask.narrow(1, 20, 12).fill_(false);     // rows 20 … of all tiles: 10 cells stay
  image.patch_mask[2].narrow(1, 11, 21).fill_(false);  // columns 11 … of the last: 6 cells stay
  EXPECT_EQ(image_tokens(spec, image), 10 * 22 + 10 + 1 + 272);
}

TEST(ImageTokens, OfVila) {
  ModelSpec spec = tile_spec(384, 14, Kind::flat);
  spec.projector = {nn::ProjectorOp::unshuffle(2)};
  EXPECT_EQ(image_tokens(spec, tiles(1, 384, 0, 0)), 196);
  spec = tile_spec(448, 14, Kind::scales);
  spec.projector = {nn::ProjectorOp::unshuffle(2)};
  spec.layout.scales = {1, 2};
  spec.layout.end_id = 198;
  EXPECT_EQ(image_tokens(spec, tiles(1 + 4 + 12, 448, 3, 4)), 12 * 256 + 1);
  EXPECT_EQ(image_tokens(spec, tiles(1, 448, 0, 0)), 256 + 1);
  spec.layout.reference_scale = 0;
  EXPECT_EQ(image_tokens(spec, tiles(1 + 4 + 12, 448, 3, 4)), 256 + 1);
}

TEST(ImageTokens, OfAKeptClassToken) {
  ModelSpec spec = tile_spec(336, 14, Kind::flat);
  spec.vision.class_token = true;
  EXPECT_EQ(image_tokens(spec, tiles(1, 336, 0, 0)), 577);
  spec.vision.drop_class_token = true;
  EXPECT_EQ(image_tokens(spec, tiles(1, 336, 0, 0)), 576);
}

TEST(ImageText, BreaksTheLinesOfPixtral) {
  ModelSpec spec = tile_spec(1024, 16, Kind::row_breaks);
  spec.vision.input = nn::VisionInput::images;
  spec.image_token = "[I]", spec.layout.row_break = "[B]", spec.layout.last_break = "[E]";
  ProcessedImage image;
  image.pixels = at::empty({3, 32, 48}, at::kByte);
  EXPECT_EQ(image_text(spec, image), "[I][I][I][B][I][I][I][E]");
  EXPECT_EQ(image_tokens(spec, image), 6);
  spec.projector = {nn::ProjectorOp::unshuffle(2, nn::ProjectorOp::Channels::channels_first)};
  image.pixels = at::empty({3, 64, 32}, at::kByte);
  EXPECT_EQ(image_text(spec, image), "[I][B][I][E]");
}

TEST(ImageText, TagsTheTilesOfIdefics3) {
  ModelSpec spec = tile_spec(28, 14, Kind::tagged);
  spec.projector = {nn::ProjectorOp::unshuffle(2)};
  spec.layout.tile_tag = "<f><row_{row}_col_{column}>", spec.layout.global_tag = "<f><global-img>";
  spec.layout.line_end = spec.layout.tiles_end = "\n", spec.layout.after = "<f>";
  EXPECT_EQ(image_text(spec, tiles(5, 28, 2, 2)),
            "<f><row_1_col_1><i><f><row_1_col_2><i>\n<f><row_2_col_1><i><f><row_2_col_2><i>\n"
            "\n<f><global-img><i><f>");
  EXPECT_EQ(image_text(spec, tiles(1, 28, 0, 0)), "<f><global-img><i><f>");
}

TEST(ImageText, SeparatesTheTilesOfLlama4) {
  ModelSpec spec = tile_spec(56, 14, Kind::tagged);
  spec.projector = {nn::ProjectorOp::unshuffle(2)};
  spec.image_token = "<p>", spec.image_placeholder = "<image>";
  spec.layout.before = "<start>", spec.layout.after = "<end>", spec.layout.global_tag = "<image>";
  spec.layout.tile_gap = "<x>", spec.layout.line_end = "<y>";
  const std::vector<ProcessedImage> images = {tiles(5, 56, 2, 2), tiles(1, 56, 0, 0), tiles(4, 28, 1, 3)};
  const std::string tile = "<p><p><p><p>", line = tile + "<x>" + tile + "<y>";
  EXPECT_EQ(expand_images(spec, "<image>?<image><image>", images),
            "<start>" + line + line + "<image>" + tile + "<end>?<start><image>" + tile +
                "<end><start><p><x><p><x><p><y><image><p><end>");
  EXPECT_EQ(image_tokens(spec, images[0]), 20);
  EXPECT_THROW(expand_images(spec, "<image><image><image><p>", images), Error);
}

TEST(ImageText, StandsBetweenItsFrame) {
  ModelSpec spec = tile_spec(28, 14, Kind::flat);
  spec.projector = {nn::ProjectorOp::average_pool(2)};
  spec.layout.before = "\n\n<start>", spec.layout.after = "<end>\n\n";
  EXPECT_EQ(image_text(spec, tiles(2, 28, 1, 1)), "\n\n<start><i><i><end>\n\n");
  spec.layout = {};
  spec.layout.end_id = 7, spec.layout.tile_end = "\n";
  EXPECT_EQ(image_text(spec, tiles(2, 28, 2, 1)), "<i><i>\n<i><i>\n");
  ProcessedImage one = tiles(1, 28, 0, 0);  // of several images: not cut
  one.pixels = one.pixels[0];
  EXPECT_EQ(image_text(spec, one), "<i><i>");
}

TEST(ExpandImages, ReplacesPlaceholdersInTheirOrder) {
  ModelSpec spec = tile_spec(28, 14, Kind::flat);
  const std::vector<ProcessedImage> images = {tiles(1, 14, 0, 0), tiles(1, 28, 0, 0)};
  EXPECT_EQ(expand_images(spec, "a<i>b<i>c", images), "a<i>b<i><i><i><i>c");
  EXPECT_THROW(expand_images(spec, "a<i>b", images), Error);
  spec.image_placeholder = "<image_{n}>";
  EXPECT_EQ(expand_images(spec, "<image_1> and <image_2>", images), "<i> and <i><i><i><i>");
  EXPECT_THROW(expand_images(spec, "<image_2> and <image_1>", images), Error);
  EXPECT_THROW(expand_images(spec, "<image_1> and <image_2>, <i>", images), Error);
  spec.image_placeholder = "<i>\n";  // a token without its line break is none
  EXPECT_EQ(expand_images(spec, "<i>\n<i>\nb", images), "<i><i><i><i><i>b");
  EXPECT_THROW(expand_images(spec, "<i>\n<i>\nb <i>", images), Error);
  EXPECT_THROW(expand_images(spec, "<i> b <i>\n<i>\n", images), Error);
}

/// `steps` steps of 2 × 2 patches, one cell each.
ProcessedImage video(int64_t steps, int64_t frames, double fps) {
  ProcessedImage out{at::zeros({steps * 4, 1}), 2, 2};
  out.grid_t = steps, out.frames = frames, out.fps = fps;
  return out;
}

ModelSpec video_spec() {
  ModelSpec spec;
  spec.vision.input = nn::VisionInput::patches;
  spec.vision.temporal_patch = 2;
  spec.projector = {nn::ProjectorOp::concat(2)};
  spec.image_token = "<i>", spec.video.token = "<v>";
  spec.video.token_id = 8;
  return spec;
}

TEST(VideoText, IsARunOfTokens) {
  const ModelSpec spec = video_spec();
  EXPECT_EQ(image_grids(spec.vision, video(3, 5, 2)), (std::vector<nn::Grid>{{2, 2}, {2, 2}, {2, 2}}));
  EXPECT_EQ(feature_rows(spec, video(3, 5, 2)), 3);
  EXPECT_EQ(image_text(spec, video(3, 5, 2)), "<v><v><v>");
}

TEST(VideoText, SaysWhenEachStepIsShown) {
  ModelSpec spec = video_spec();
  spec.video.step_before = "<{seconds} s>[", spec.video.step_after = "]";
  // Five frames, two a second: 0 and 0.5, 1 and 1.5, 2 alone.
  EXPECT_EQ(image_text(spec, video(3, 5, 2)), "<0.2 s>[<v>]<1.2 s>[<v>]<2.0 s>[<v>]");
  EXPECT_EQ(image_text(spec, video(1, 2, 0.5)), "<1.0 s>[<v>]");
}

TEST(ExpandImages, KeepsVideosAndImagesApart) {
  const ModelSpec spec = video_spec();
  const std::vector<ProcessedImage> mixed = {video(2, 4, 1), {at::zeros({4, 1}), 2, 2}, video(1, 2, 1)};
  EXPECT_EQ(expand_images(spec, "a<v>b<i>c<v>", mixed), "a<v><v>b<i>c<v>");
  EXPECT_THROW(expand_images(spec, "a<i>b<v>c<v>", mixed), Error);  // in another order
  EXPECT_THROW(expand_images(spec, "a<v>b<i>c", mixed), Error);
  EXPECT_THROW(expand_images(spec, "a<v>", {}), Error);
}

at::Tensor column(const std::vector<float>& values) {
  return at::tensor(values).view({static_cast<int64_t>(values.size()), 1});
}

TEST(PackImage, LaysTheMosaicBehindTheWholeImageWithLineEnds) {
  // Tiles of 2 × 2: the whole image 1–4, then two tiles side by side, 10–13 and 20–23.
  const ModelSpec spec = tile_spec(28, 14, Kind::anyres);
  LearnedRows learned;
  learned.row_end = column({-1})[0];
  const at::Tensor rows = column({1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23});
  const at::Tensor all = pack_image(spec, learned, rows, tiles(3, 28, 1, 2, 28, 56));
  EXPECT_TRUE(at::equal(all, column({1, 2, 3, 4, 10, 11, 20, 21, -1, 12, 13, 22, 23, -1})));
  // An image as high as wide stands in the middle half.
  const at::Tensor square = pack_image(spec, learned, rows, tiles(3, 28, 1, 2, 50, 50));
  EXPECT_TRUE(at::equal(square, column({1, 2, 3, 4, 11, 20, -1, 13, 22, -1})));
  const at::Tensor alone = pack_image(spec, learned, rows.narrow(0, 0, 4), tiles(1, 28, 0, 0, 50, 50));
  EXPECT_TRUE(at::equal(alone, column({1, 2, 3, 4, -1})));
}

TEST(PackImage, ShrinksToAboutTheRowsOfTheLimit) {
  ModelSpec spec = tile_spec(28, 14, Kind::anyres);
  spec.layout.max_tiles = 1;
  LearnedRows learned;
  learned.row_end = column({-1})[0];
  // Four tiles of ones: 4 × 4 rows shrink to 2 × 2, and the mean of ones is one.
  const at::Tensor rows = at::cat({column({5, 6, 7, 8}), at::ones({16, 1})});
  EXPECT_TRUE(at::equal(pack_image(spec, learned, rows, tiles(5, 28, 2, 2, 50, 50)),
                        column({5, 6, 7, 8, 1, 1, -1, 1, 1, -1})));
}

TEST(PackImage, PutsPhisWholeImageBehindTheSeparator) {
  const ModelSpec spec = tile_spec(28, 14, Kind::hd);
  LearnedRows learned;
  learned.row_end = column({-1})[0], learned.separator = column({-2})[0];
  const at::Tensor rows = column({1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23});
  ProcessedImage image = tiles(3, 28, 1, 2);
  EXPECT_TRUE(at::equal(pack_image(spec, learned, rows, image),
                        column({10, 11, 20, 21, -1, 12, 13, 22, 23, -1, -2, 1, 2, -1, 3, 4, -1})));
  image.patch_mask = at::ones({3, 2, 2}, at::kBool);
  image.patch_mask[2].select(1, 1).fill_(false);  // the last column shows nothing
  EXPECT_TRUE(at::equal(pack_image(spec, learned, rows, image),
                        column({10, 11, 20, -1, 12, 13, 22, -1, -2, 1, 2, -1, 3, 4, -1})));
}

TEST(PackImage, EndsEachTileOfVila) {
  ModelSpec spec = tile_spec(14, 14, Kind::flat);
  spec.layout.end_id = 1;
  LearnedRows learned;
  learned.end = column({-1})[0];
  EXPECT_TRUE(
      at::equal(pack_image(spec, learned, column({1, 2}), tiles(2, 14, 1, 2)), column({1, -1, 2, -1})));
}

TEST(StackScales, BringsAllMapsToTheGridOfTheLastAndCutsItAgain) {
  // Scales of 1 × 1 and of 1 × 2 tiles, each tile 2 × 2 patches.
  ModelSpec spec = tile_spec(28, 14, Kind::scales);
  spec.layout.scales = {1};
  const at::Tensor rows = column({1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23});
  const at::Tensor stacked = stack_scales(spec, rows, tiles(3, 28, 1, 2));
  EXPECT_TRUE(at::equal(stacked.select(1, 0), column({1, 1, 3, 3, 2, 2, 4, 4}).flatten()));
  EXPECT_TRUE(at::equal(stacked.select(1, 1), column({10, 11, 12, 13, 20, 21, 22, 23}).flatten()));
  LearnedRows learned;
  learned.end = at::full({2}, -1.0);
  spec.layout.end_id = 1;
  const at::Tensor packed = pack_image(spec, learned, stacked, tiles(3, 28, 1, 2));
  EXPECT_TRUE(at::equal(packed.select(1, 1), column({10, 11, 20, 21, 12, 13, 22, 23, -1}).flatten()));
  // A single tile stands for every scale.
  EXPECT_TRUE(at::equal(stack_scales(spec, rows.narrow(0, 0, 4), tiles(1, 28, 0, 0)),
                        column({1, 2, 3, 4}).repeat({1, 2})));
}

TEST(StackScales, CanShrinkToTheFirst) {
  ModelSpec spec = tile_spec(28, 14, Kind::scales);
  spec.layout.scales = {1};
  spec.layout.reference_scale = 0;
  const at::Tensor rows = column({1, 2, 3, 4, 10, 11, 12, 13, 20, 21, 22, 23});
  const at::Tensor stacked = stack_scales(spec, rows, tiles(3, 28, 1, 2));
  EXPECT_TRUE(at::equal(stacked.select(1, 0), column({1, 2, 3, 4}).flatten()));
  EXPECT_TRUE(at::equal(stacked.select(1, 1), column({10.5, 20.5, 12.5, 22.5}).flatten()));
}

}  // namespace
}  // namespace visq

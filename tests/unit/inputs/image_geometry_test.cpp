#include "visq/inputs/image_geometry.h"

#include "support.h"

namespace visq {

void PrintTo(ImageSize size, std::ostream* out) { *out << size.width << "x" << size.height; }
void PrintTo(TileGrid grid, std::ostream* out) {
  *out << grid.rows << " rows, " << grid.columns << " columns";
}

namespace {

using namespace test;

std::vector<ImageSize> next_pinpoints() {
  return {{336, 672}, {672, 336}, {672, 672}, {1008, 336}, {336, 1008}};
}

std::vector<ImageSize> onevision_pinpoints() {
  std::vector<ImageSize> sizes;
  for (int64_t k = 1; k <= 6; ++k)
    for (int64_t l = 1; l <= 6; ++l) sizes.push_back({384 * k, 384 * l});
  return sizes;
}

/// A row of the table in spec/inputs.md §8.
struct Row {
  ImageSize image, next, onevision;
  TileGrid qwen;  // patches of 14 within 1003520 pixels
  int64_t phi4_tiles;
  TileGrid smolvlm, mllama;
  ImageSize mllama_size, pixtral;
  TileGrid internvl;
};

// Sizes are {height, width}; pixtral from its tokens: rows · (columns + 1).
const Row kTable[] = {
    {{480, 640}, {672, 672}, {768, 768}, {34, 46}, 4, {3, 4}, {1, 2}, {480, 640}, {480, 640}, {3, 4}},
    {{640, 480}, {672, 672}, {768, 768}, {46, 34}, 4, {4, 3}, {2, 1}, {640, 480}, {640, 480}, {4, 3}},
    {{375, 500}, {672, 672}, {384, 768}, {26, 36}, 2, {3, 4}, {1, 1}, {420, 560}, {384, 512}, {3, 4}},
    {{768, 1024}, {672, 672}, {768, 1152}, {54, 74}, 6, {3, 4}, {2, 2}, {768, 1024}, {768, 1024}, {3, 4}},
    {{1080, 1920}, {672, 672}, {1152, 1920}, {52, 94}, 15, {3, 4}, {2, 2}, {630, 1120}, {576, 1024}, {2, 4}},
    {{224, 224}, {336, 672}, {384, 384}, {16, 16}, 1, {4, 4}, {1, 1}, {560, 560}, {224, 224}, {1, 1}},
    {{1000, 100}, {1008, 336}, {1152, 384}, {72, 8}, 3, {4, 1}, {2, 1}, {1000, 100}, {1008, 112}, {10, 1}},
    {{2000, 3000}, {672, 672}, {1536, 2304}, {58, 86}, 35, {3, 4}, {2, 2}, {746, 1120}, {688, 1024}, {2, 3}},
    {{32, 32}, {336, 672}, {384, 384}, {4, 4}, 1, {4, 4}, {1, 1}, {560, 560}, {32, 32}, {1, 1}},
};

TEST(ImageGeometry, TheGridsAreThoseOfTheSpec) {
  for (const Row& row : kTable) {
    SCOPED_TRACE(testing::PrintToString(row.image));
    EXPECT_EQ(best_resolution(row.image, next_pinpoints()), row.next);
    EXPECT_EQ(best_resolution(row.image, onevision_pinpoints()), row.onevision);
    EXPECT_EQ(smart_size(row.image, 28, 3136, 1003520), row.qwen.size({14, 14}));
    EXPECT_EQ(covering_grid(row.image, 448, 36).count(), row.phi4_tiles);
    const ImageSize smolvlm = tile_multiple_size(longest_edge_size(row.image, 2048), 512);
    EXPECT_EQ(smolvlm, row.smolvlm.size({512, 512}));
    EXPECT_EQ(mllama_grid(row.image, 560, 4), row.mllama);
    EXPECT_EQ(mllama_fit(row.image, row.mllama.size({560, 560}), 560), row.mllama_size);
    EXPECT_EQ(patch_multiple_size(row.image, {1024, 1024}, 16), row.pixtral);
    EXPECT_EQ(closest_grid(row.image, {448, 448}, 1, 12), row.internvl);
  }
}

TEST(ImageGeometry, TheShortSideIsGivenAndTheLongOneTruncated) {
  EXPECT_EQ(shortest_edge_size({7, 3}, 10), (ImageSize{23, 10}));  // 10·7/3 = 23.3
  EXPECT_EQ(shortest_edge_size({3, 7}, 10), (ImageSize{10, 23}));
}

TEST(ImageGeometry, SmartSizeRoundsHalvesToEvenAndRefusesStrips) {
  EXPECT_EQ(smart_size({42, 70}, 28, 1, 1 << 20), (ImageSize{56, 56}));  // 1.5 → 2, 2.5 → 2
  EXPECT_TRUE(mentions(error_of([] { smart_size({201, 1}, 28, 1, 1 << 20); }), {"1x201", "aspect ratio"}));
}

TEST(ImageGeometry, TheLimitsOfAVideoHoldForAllFramesTogether) {
  // 8 · 480 · 640 is 3.125 times the limit: sides over 1.77, then down to multiples of 32.
  EXPECT_EQ(smart_video_size({480, 640}, 8, 2, 32, 131072, 786432), (ImageSize{256, 352}));
  EXPECT_EQ(smart_video_size({480, 640}, 2, 2, 32, 131072, 786432), (ImageSize{480, 640}));
  EXPECT_EQ(smart_video_size({32, 64}, 4, 2, 32, 32768, 786432), (ImageSize{64, 128}));  // sides times 2
  EXPECT_EQ(smart_video_size({64, 64}, 5, 2, 32, 1, 16384), (ImageSize{64, 64}));  // 2.5 steps count as 2
  EXPECT_EQ(smart_video_size({64, 64}, 6, 2, 32, 1, 16384), (ImageSize{32, 32}));
  EXPECT_EQ(smart_video_size({16, 64}, 2, 2, 32, 1, 16384), (ImageSize{32, 128}));  // enlarged first
  EXPECT_TRUE(mentions(error_of([] { smart_video_size({64, 64}, 1, 2, 32, 1, 16384); }), {"1 frames"}));
}

TEST(ImageGeometry, AFreeSideIsRoundedUpByLlavaNextAndTruncatedByPhi4) {
  EXPECT_EQ(fit_rounding_up({375, 500}, {672, 672}), (ImageSize{505, 672}));  // 375 · 1.344 > 504 in double
  EXPECT_EQ(fit_rounding_up({3, 7}, {10, 10}), (ImageSize{5, 10}));           // 30/7 = 4.3
  EXPECT_EQ(fit_truncating({3, 7}, {10, 10}), (ImageSize{4, 10}));
  EXPECT_EQ(fit_truncating({7, 3}, {10, 10}), (ImageSize{10, 4}));
}

TEST(ImageGeometry, PanAndScanSlicesOnlyElongatedImages) {
  EXPECT_EQ(pan_and_scan_grid({1000, 1100}, 256, 4, 1.2), (TileGrid{0, 0}));
  EXPECT_EQ(pan_and_scan_grid({1000, 1200}, 256, 4, 1.2), (TileGrid{1, 2}));  // 1.2 rounds to 1, at least 2
  EXPECT_EQ(pan_and_scan_grid({1000, 2500}, 256, 4, 1.2), (TileGrid{1, 3}));  // halves up
  EXPECT_EQ(pan_and_scan_grid({9000, 1000}, 256, 4, 1.2), (TileGrid{4, 1}));
  EXPECT_EQ(pan_and_scan_grid({200, 1000}, 256, 4, 1.2), (TileGrid{0, 0}));  // slices of 200 pixels
}

TEST(ImageGeometry, OfEquallyCloseGridsTheLargerWinsWhileTheImageFillsHalfOfIt) {
  EXPECT_EQ(closest_grid({500, 500}, {448, 448}, 1, 4), (TileGrid{1, 1}));
  EXPECT_EQ(closest_grid({700, 700}, {448, 448}, 1, 4), (TileGrid{2, 2}));
  EXPECT_EQ(closest_grid({224, 224}, {384, 384}, 9, 12), (TileGrid{3, 3}));  // VILA's last scale
  EXPECT_EQ(closest_grid({480, 640}, {384, 384}, 9, 12), (TileGrid{3, 4}));
}

TEST(ImageGeometry, NemotronTakesTheGridThatKeepsMostPixelsInTheirShape) {
  EXPECT_EQ(fullest_grid({512, 512}, 512, 12), (TileGrid{1, 1}));    // 0.6 of the pixels are enough
  EXPECT_EQ(fullest_grid({1000, 1000}, 512, 12), (TileGrid{2, 2}));  // one tile holds 0.26 of them
  EXPECT_EQ(fullest_grid({960, 1280}, 512, 12), (TileGrid{3, 4}));
  EXPECT_EQ(fullest_grid({100, 5000}, 512, 12), (TileGrid{1, 12}));
  EXPECT_EQ(fullest_grid({5000, 100}, 512, 5), (TileGrid{5, 1}));
}

TEST(ImageGeometry, Idefics3KeepsSidesEvenAndBelow4096) {
  EXPECT_EQ(longest_edge_size({375, 500}, 1456), (ImageSize{1092, 1456}));
  EXPECT_EQ(longest_edge_size({3, 7}, 100), (ImageSize{42, 100}));
  EXPECT_EQ(longest_edge_size({1, 5000}, 364), (ImageSize{1, 364}));
  EXPECT_EQ(longest_edge_size({1000, 2000}, 6000), (ImageSize{2048, 4096}));
}

TEST(ImageGeometry, Phi3FillsItsBudgetOfTiles) {
  EXPECT_EQ(phi3_size({480, 640}, 336, 16), (ImageSize{1008, 1344}));
  EXPECT_EQ(phi3_size({480, 640}, 336, 4), (ImageSize{504, 672}));
  EXPECT_EQ(phi3_size({336, 336}, 336, 16), (ImageSize{1344, 1344}));
}

TEST(ImageGeometry, Llama4EnlargesOnlyToOneTileUnlessAskedTo) {
  EXPECT_EQ(llama4_grid({100, 100}, 336, 16, false), (TileGrid{1, 1}));
  EXPECT_EQ(llama4_fit({100, 100}, {336, 336}, 336, false), (ImageSize{336, 336}));
  EXPECT_EQ(llama4_grid({480, 640}, 336, 16, false), (TileGrid{2, 2}));
  EXPECT_EQ(llama4_fit({480, 640}, {672, 672}, 336, false), (ImageSize{480, 640}));
  EXPECT_EQ(llama4_grid({100, 100}, 336, 16, true), (TileGrid{4, 4}));
  EXPECT_EQ(llama4_fit({100, 100}, {1344, 1344}, 336, true), (ImageSize{1344, 1344}));
}

}  // namespace
}  // namespace visq

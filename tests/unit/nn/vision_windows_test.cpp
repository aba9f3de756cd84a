#include "visq/nn/vision_windows.h"

#include <gtest/gtest.h>

namespace visq::nn {
namespace {

using Grids = std::vector<std::pair<int64_t, int64_t>>;

std::vector<int64_t> window_lengths(const WindowOrder& order) {
  std::vector<int64_t> lengths;
  for (size_t i = 0; i + 1 < order.window_offsets.size(); ++i)
    lengths.push_back(order.window_offsets[i + 1] - order.window_offsets[i]);
  return lengths;
}

// Window side 4 cells: 112 pixels / merge 2 / patch 14 (the checks of spec/models-llava-vila-qwen.md §8).

TEST(WindowOrder, CutsAGridThatDividesIntoEqualWindows) {
  EXPECT_EQ(window_lengths(window_order({{16, 16}}, 2, 4)), (std::vector<int64_t>{64, 64, 64, 64}));
}

TEST(WindowOrder, LeavesSmallerWindowsAtTheRightAndBottom) {
  const WindowOrder order = window_order({{10, 14}}, 2, 4);
  EXPECT_EQ(window_lengths(order), (std::vector<int64_t>{64, 48, 16, 12}));
  const std::vector<int64_t> first(order.cells.begin(), order.cells.begin() + 9);
  EXPECT_EQ(first, (std::vector<int64_t>{0, 1, 2, 3, 7, 8, 9, 10, 14}));
}

TEST(WindowOrder, IsOneWindowForAGridOfItsSize) {
  EXPECT_EQ(window_lengths(window_order({{8, 8}}, 2, 4)), (std::vector<int64_t>{64}));
}

TEST(WindowOrder, KeepsImagesApart) {
  const WindowOrder order = window_order({{8, 8}, {4, 10}}, 2, 4);
  EXPECT_EQ(order.image_offsets, (std::vector<int64_t>{0, 64, 104}));
  EXPECT_EQ(window_lengths(order), (std::vector<int64_t>{64, 32, 8}));
  // Second image: 2 x 5 cells from 16; the window of 2 x 4, then the last column.
  const std::vector<int64_t> second(order.cells.begin() + 16, order.cells.end());
  EXPECT_EQ(second, (std::vector<int64_t>{16, 17, 18, 19, 21, 22, 23, 24, 20, 25}));
}

TEST(WindowOrder, RestoreIsTheInverse) {
  const WindowOrder order = window_order({{10, 14}, {6, 12}}, 2, 4);
  for (size_t cell = 0; cell < order.cells.size(); ++cell)
    EXPECT_EQ(order.cells[static_cast<size_t>(order.restore[cell])], static_cast<int64_t>(cell));
}

TEST(PatchCoordinates, GoCellByCell) {
  const Grids expected = {{0, 0}, {0, 1}, {1, 0}, {1, 1}, {0, 2}, {0, 3}, {1, 2}, {1, 3}};
  EXPECT_EQ(patch_coordinates({{2, 4}}, 2), expected);
}

}  // namespace
}  // namespace visq::nn

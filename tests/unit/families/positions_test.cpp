#include "visq/families/positions.h"

#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

using Ids = std::vector<int64_t>;
constexpr int64_t kImage = 9;

TEST(MropePositions, FollowTheWorkedCheckOfTheSpecification) {
  // Three text tokens, an image of 4 x 6 patches (2 x 3 cells), two text tokens.
  const Ids ids = {1, 1, 1, kImage, kImage, kImage, kImage, kImage, kImage, 1, 1};
  const Positions positions = mrope_positions(ids, kImage, {{2, 3}});
  EXPECT_EQ(positions.axes[0], (Ids{0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7}));
  EXPECT_EQ(positions.axes[1], (Ids{0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7}));
  EXPECT_EQ(positions.next, 8);  // 11 tokens, delta −3
}

TEST(MropePositions, OfTextCountOnAlongAllAxes) {
  const Positions positions = mrope_positions(Ids{1, 2, 3}, kImage, {});
  for (const auto& axis : positions.axes) EXPECT_EQ(axis, (Ids{0, 1, 2}));
  EXPECT_EQ(positions.next, 3);
}

TEST(MropePositions, OfTwoImagesDoNotOverlap) {
  const Ids ids = {1, kImage, kImage, kImage, kImage, 1, kImage, kImage};
  const Positions positions = mrope_positions(ids, kImage, {{4, 1}, {1, 2}});
  EXPECT_EQ(positions.axes[1], (Ids{0, 1, 2, 3, 4, 5, 6, 6}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 1, 1, 1, 5, 6, 7}));
  EXPECT_EQ(positions.next, 8);
}

TEST(MropePositions, RefuseTokensThatDoNotMatchTheImages) {
  EXPECT_THROW(mrope_positions(Ids{kImage, kImage}, kImage, {{1, 3}}), Error);
  EXPECT_THROW(mrope_positions(Ids{kImage, 1, kImage}, kImage, {{1, 2}}), Error);
  EXPECT_THROW(mrope_positions(Ids{kImage}, kImage, {}), Error);
  EXPECT_THROW(mrope_positions(Ids{1, 1}, kImage, {{1, 2}}), Error);
}

}  // namespace
}  // namespace visq

#include "visq/families/positions.h"

#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

using Ids = std::vector<int64_t>;
constexpr int64_t kImage = 9, kVideo = 8;
const Ids kTokens = {kImage, kVideo};

TEST(MropePositions, FollowTheWorkedCheckOfTheSpecification) {
  // Three text tokens, an image of 4 x 6 patches (2 x 3 cells), two text tokens.
  const Ids ids = {1, 1, 1, kImage, kImage, kImage, kImage, kImage, kImage, 1, 1};
  const Positions positions = mrope_positions(ids, kTokens, {{kImage, 1, 2, 3}});
  EXPECT_EQ(positions.axes[0], (Ids{0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7}));
  EXPECT_EQ(positions.axes[1], (Ids{0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7}));
  EXPECT_EQ(positions.next, 8);  // 11 tokens, delta −3
}

TEST(MropePositions, OfTextCountOnAlongAllAxes) {
  const Positions positions = mrope_positions(Ids{1, 2, 3}, kTokens, {});
  for (const auto& axis : positions.axes) EXPECT_EQ(axis, (Ids{0, 1, 2}));
  EXPECT_EQ(positions.next, 3);
}

TEST(MropePositions, OfTwoImagesDoNotOverlap) {
  const Ids ids = {1, kImage, kImage, kImage, kImage, 1, kImage, kImage};
  const Positions positions = mrope_positions(ids, kTokens, {{kImage, 1, 4, 1}, {kImage, 1, 1, 2}});
  EXPECT_EQ(positions.axes[1], (Ids{0, 1, 2, 3, 4, 5, 6, 6}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 1, 1, 1, 5, 6, 7}));
  EXPECT_EQ(positions.next, 8);
}

TEST(MropePositions, OfAVideoCountItsStepsAndTheTextGoesOnBehindItsSides) {
  // Three steps of 1 x 2 cells: time 1, 2, 3; the text follows at 1 + 2, and what is generated behind 4.
  const Ids ids = {1, kVideo, kVideo, kVideo, kVideo, kVideo, kVideo, 1};
  const Positions positions = mrope_positions(ids, kTokens, {{kVideo, 3, 1, 2}});
  EXPECT_EQ(positions.axes[0], (Ids{0, 1, 1, 2, 2, 3, 3, 3}));
  EXPECT_EQ(positions.axes[1], (Ids{0, 1, 1, 1, 1, 1, 1, 3}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 2, 1, 2, 1, 2, 3}));
  EXPECT_EQ(positions.next, 4);
}

TEST(MropePositions, OfAVideoByTheClockAreTruncatedAndCountForWhatIsGenerated) {
  // 2.5 positions a step: 0, 2, 5; an image in front takes positions 0 and 1.
  const Ids ids = {kImage, kImage, kVideo, kVideo, kVideo, 1};
  const Positions positions = mrope_positions(ids, kTokens, {{kImage, 1, 1, 2}, {kVideo, 3, 1, 1, 2.5f}});
  EXPECT_EQ(positions.axes[0], (Ids{0, 0, 2, 4, 7, 3}));
  EXPECT_EQ(positions.axes[1], (Ids{0, 0, 2, 2, 2, 3}));
  EXPECT_EQ(positions.axes[2], (Ids{0, 1, 2, 2, 2, 3}));
  EXPECT_EQ(positions.next, 8);
}

TEST(MropePositions, RefuseTokensThatDoNotMatchTheImages) {
  EXPECT_THROW(mrope_positions(Ids{kImage, kImage}, kTokens, {{kImage, 1, 1, 3}}), Error);
  EXPECT_THROW(mrope_positions(Ids{kImage, 1, kImage}, kTokens, {{kImage, 1, 1, 2}}), Error);
  EXPECT_THROW(mrope_positions(Ids{kImage}, kTokens, {}), Error);
  EXPECT_THROW(mrope_positions(Ids{1, 1}, kTokens, {{kImage, 1, 1, 2}}), Error);
  EXPECT_THROW(mrope_positions(Ids{kVideo, kVideo}, kTokens, {{kImage, 1, 1, 2}}), Error);
}

}  // namespace
}  // namespace visq

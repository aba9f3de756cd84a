// Position ids of a sequence: one axis, or three from grids of images and videos (M-RoPE).
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace visq {

struct Positions {
  std::array<std::vector<int64_t>, 3> axes;  ///< time, height, width of each token
  int64_t next = 0;                          ///< of the next generated token, on all axes
};

/// A run of image or video tokens, in cells (tokens).
struct TokenGrid {
  int64_t token_id = 0;
  int64_t time = 1, height = 0, width = 0;
  float step =
      1;  ///< positions between two steps in time; fp32 and truncated after the product, as the reference's
};

/// Text counts on along all axes; cells of an image or a video count time, rows and columns from where the
/// text stopped, and the text goes on behind the larger of rows and columns, however long the video. What is
/// generated goes on behind the largest position of all. Source: spec/models-llava-vila-qwen.md §7; for
/// videos get_rope_index of transformers 5.23.
/// @param token_ids  of images and videos; all others are text
/// @throws Error when image and video tokens do not match the grids
Positions mrope_positions(std::span<const int64_t> ids, std::span<const int64_t> token_ids,
                          const std::vector<TokenGrid>& grids);

}  // namespace visq

// Position ids of a sequence: one axis, or three from image grids (M-RoPE).
#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace visq {

struct Positions {
  std::array<std::vector<int64_t>, 3> axes;  ///< time, height, width of each token
  int64_t next = 0;                          ///< of the next generated token, on all axes
};

/// Text counts on along all axes; an image stands still in time, its cells count rows and columns from where
/// the text stopped, and the text goes on behind the larger extent. Source: spec/models-llava-vila-qwen.md
/// §7.
/// @param grids  (h, w) of each image in cells (image tokens)
/// @throws Error when image tokens and grids do not match
Positions mrope_positions(std::span<const int64_t> ids, int64_t image_token_id,
                          const std::vector<std::pair<int64_t, int64_t>>& grids);

}  // namespace visq

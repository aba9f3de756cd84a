#include "visq/nn/vision_positions.h"

#include <ATen/ATen.h>

#include <cmath>

namespace visq::nn {
namespace {

/// Place of each of `count` visible patches on a table axis of `side` places, with the reference's operations
/// in fp32: other ones round differently at the borders.
at::Tensor axis_buckets(int64_t count, int64_t side) {
  const at::Tensor boundaries =
      at::arange(1.0 / static_cast<double>(side), 1.0, 1.0 / static_cast<double>(side), at::kFloat);
  const at::Tensor steps = at::arange(count, at::kFloat) * (1.0 / static_cast<double>(count));
  return at::bucketize(at::clamp_max(steps, 1.0 - 1e-6), boundaries, /*out_int32=*/false, /*right=*/true);
}

/// The two neighbours on a table axis of each of `extent` patches, and the weight of the second.
struct AxisTaps {
  std::vector<int64_t> first, second;
  std::vector<float> weight;
};

AxisTaps axis_taps(int64_t extent, int64_t side) {
  AxisTaps taps;
  const auto last = static_cast<float>(side - 1),
             steps = static_cast<float>(std::max<int64_t>(extent - 1, 1));
  for (int64_t i = 0; i < extent; ++i) {
    const float place = static_cast<float>(i) * last / steps;
    const float below = std::floor(place);
    taps.first.push_back(static_cast<int64_t>(below));
    taps.second.push_back(std::min(static_cast<int64_t>(below) + 1, side - 1));
    taps.weight.push_back(place - below);
  }
  return taps;
}

}  // namespace

at::Tensor vision_angles(const VisionSpec& spec, const std::vector<Grid>& grids) {
  const bool neighbours = spec.rope == VisionRope::neighbours;
  std::vector<float> coordinates;  // of the axis that turns the first half of the pairs, then of the other
  for (const Grid& grid : grids) {
    for (const auto& [y, x] : patch_coordinates({grid}, spec.merge)) {
      coordinates.push_back(static_cast<float>(neighbours ? x + 1 : y));
      coordinates.push_back(static_cast<float>(neighbours ? y + 1 : x));
    }
    if (spec.class_token) coordinates.insert(coordinates.end(), 2, 0.0F);  // it stands behind the patches
  }
  const auto rows = static_cast<int64_t>(coordinates.size() / 2);
  const at::Tensor places = at::tensor(coordinates, at::kFloat).view({rows, 2});
  // Half of the pairs turn with y, half with x: head_dim / 4 frequencies each.
  const int64_t half = spec.width / spec.heads / 2;
  const at::Tensor exponents = at::arange(0, half, 2, at::kFloat) / static_cast<double>(half);
  at::Tensor inverse = at::pow(spec.rope_theta, exponents).reciprocal_();
  if (spec.rope == VisionRope::alternating) {
    const at::Tensor odd = at::arange(1, half, 2, at::kFloat) / static_cast<double>(half);
    inverse = at::stack({inverse, at::pow(spec.rope_theta, odd).reciprocal_()});  // [y and x, frequencies]
  }
  const at::Tensor angles = (places.unsqueeze(-1) * inverse).reshape({rows, half});
  return neighbours ? angles.repeat_interleave(2, -1) : at::cat({angles, angles}, -1);
}

at::Tensor stretched_positions(const std::vector<Grid>& grids, const at::Tensor& mask, int64_t side) {
  std::vector<at::Tensor> parts;
  int64_t first = 0;
  for (const auto& [height, width] : grids) {
    at::Tensor shown = at::ones({height, width}, at::kBool);
    if (mask.defined()) shown = mask.narrow(0, first, height * width).view({height, width});
    const int64_t rows = shown.select(1, 0).sum().item<int64_t>();
    const int64_t columns = shown.select(0, 0).sum().item<int64_t>();
    const at::Tensor places = axis_buckets(rows, side).unsqueeze(1) * side + axis_buckets(columns, side);
    const at::Tensor ids = at::zeros({height, width}, at::kLong);
    ids.narrow(0, 0, rows).narrow(1, 0, columns).copy_(places);
    parts.push_back(ids.mul_(shown).flatten());
    first += height * width;
  }
  return at::cat(parts);
}

at::Tensor resampled_positions(const std::vector<Grid>& grids, const at::Tensor& table, int64_t merge) {
  const auto side = static_cast<int64_t>(std::llround(std::sqrt(static_cast<double>(table.size(0)))));
  std::vector<int64_t> taps;
  std::vector<float> weights;
  for (const Grid& grid : grids) {
    const AxisTaps y_taps = axis_taps(grid.first, side), x_taps = axis_taps(grid.second, side);
    for (const auto& [row, column] : patch_coordinates({grid}, merge)) {
      const auto y = static_cast<size_t>(row), x = static_cast<size_t>(column);
      const float down = y_taps.weight[y], right = x_taps.weight[x];
      taps.insert(taps.end(),
                  {y_taps.first[y] * side + x_taps.first[x], y_taps.first[y] * side + x_taps.second[x],
                   y_taps.second[y] * side + x_taps.first[x], y_taps.second[y] * side + x_taps.second[x]});
      weights.insert(weights.end(),
                     {(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right});
    }
  }
  const auto rows = static_cast<int64_t>(taps.size()) / 4;
  const at::Tensor picked =
      table.index_select(0, at::tensor(taps, at::kLong).to(table.device())).view({rows, 4, table.size(1)});
  return (picked * at::tensor(weights, at::kFloat).to(table.device()).view({rows, 4, 1})).sum(1);
}

}  // namespace visq::nn

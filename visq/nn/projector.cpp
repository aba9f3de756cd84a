#include "visq/nn/projector.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/tiled.h"

namespace visq::nn {
namespace {

using Kind = ProjectorOp::Kind;

bool is_spatial(Kind kind) { return kind == Kind::unshuffle || kind == Kind::average_pool; }

/// Cells of side × side rows that a grid is made of behind `op`.
Grid cells(const ProjectorOp& op, const Grid& grid) {
  const bool rounds_down = op.kind == Kind::unshuffle && op.channels == ProjectorOp::Channels::channels_first;
  const int64_t more = rounds_down ? 0 : op.side - 1;
  return {(grid.first + more) / op.side, (grid.second + more) / op.side};
}

/// @param x  [n, h, w, channels] → [n · cells, r²·channels]
at::Tensor unshuffle(const ProjectorOp& op, const at::Tensor& x) {
  const int64_t n = x.size(0), channels = x.size(3), r = op.side;
  const auto [rows, columns] = cells(op, {x.size(1), x.size(2)});
  const at::Tensor full =  // a negative padding cuts
      at::constant_pad_nd(x, {0, 0, 0, columns * r - x.size(2), 0, rows * r - x.size(1)}, 0)
          .view({n, rows, r, columns, r, channels});
  const bool by_columns = op.order == ProjectorOp::Order::columns;
  const int64_t outer = by_columns ? 3 : 1, inner = by_columns ? 1 : 3;
  const at::Tensor moved = op.channels == ProjectorOp::Channels::cells_first
                               ? full.permute({0, outer, inner, 2, 4, 5})
                               : full.permute({0, outer, inner, 5, 2, 4});
  return moved.reshape({n * rows * columns, r * r * channels});
}

/// @param x  [n, h, w, channels] → [n · ⌈h/r⌉ · ⌈w/r⌉, channels]
at::Tensor average_pool(const ProjectorOp& op, const at::Tensor& x) {
  at::Tensor planes = x.permute({0, 3, 1, 2}).contiguous();
  const auto [rows, columns] = cells(op, {x.size(1), x.size(2)});
  const int64_t down = rows * op.side - x.size(1), right = columns * op.side - x.size(2);
  if (down > 0 || right > 0) planes = at::reflection_pad2d(planes, {0, right, 0, down});
  return at::avg_pool2d(planes, {op.side, op.side}).permute({0, 2, 3, 1}).reshape({-1, x.size(3)});
}

/// Grids of one size that follow one another go through together.
at::Tensor apply_spatial(const ProjectorOp& op, const at::Tensor& rows, const std::vector<Grid>& grids) {
  std::vector<at::Tensor> parts;
  int64_t first = 0;
  for (size_t i = 0; i < grids.size();) {
    size_t end = i;
    while (end < grids.size() && grids[end] == grids[i]) ++end;
    const auto count = static_cast<int64_t>(end - i);
    const auto [height, width] = grids[i];
    const at::Tensor x =
        rows.narrow(0, first, count * height * width).view({count, height, width, rows.size(1)});
    parts.push_back(op.kind == Kind::unshuffle ? unshuffle(op, x) : average_pool(op, x));
    first += count * height * width;
    i = end;
  }
  if (first != rows.size(0)) fail("{} rows are not those of the grids, {}", rows.size(0), first);
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

at::Tensor rms_norm_1p(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = wide.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  return (wide * scale * (1.0 + weight.to(at::kFloat))).to(x.scalar_type());
}

at::Tensor apply_row_by_row(const ProjectorOp& op, const OpWeights& weights, const at::Tensor& x) {
  switch (op.kind) {
    case Kind::concat:
      return x.reshape({x.size(0) / (op.side * op.side), x.size(1) * op.side * op.side});
    case Kind::layer_norm:
      return layer_norm(x, {weights.weight, weights.bias}, op.eps);
    case Kind::rms_norm:
      return rms_norm(x, {weights.weight, {}}, op.eps);
    case Kind::rms_norm_1p:
      return rms_norm_1p(x, weights.weight, op.eps);
    case Kind::linear:
      return tiled_linear(x, weights.weight, weights.bias);
    case Kind::matrix:
      return tiled_matmul(x, weights.weight);
    case Kind::activation:
      return activate(op.function, x);
    case Kind::unshuffle:
    case Kind::average_pool:
      break;
  }
  fail("projector operation {} does not exist", static_cast<int>(op.kind));
}

}  // namespace

ProjectorOp ProjectorOp::concat(int64_t side) {
  ProjectorOp op;
  op.kind = Kind::concat, op.side = side;
  return op;
}

ProjectorOp ProjectorOp::unshuffle(int64_t side, Channels channels, Order order) {
  ProjectorOp op;
  op.kind = Kind::unshuffle, op.side = side, op.channels = channels, op.order = order;
  return op;
}

ProjectorOp ProjectorOp::average_pool(int64_t side) {
  ProjectorOp op;
  op.kind = Kind::average_pool, op.side = side;
  return op;
}

ProjectorOp ProjectorOp::norm(Kind kind, std::string name, double eps) {
  ProjectorOp op;
  op.kind = kind, op.name = std::move(name), op.eps = eps;
  return op;
}

ProjectorOp ProjectorOp::linear(std::string name, int64_t out, bool bias) {
  ProjectorOp op;
  op.kind = Kind::linear, op.name = std::move(name), op.out = out, op.bias = bias;
  return op;
}

ProjectorOp ProjectorOp::matrix(std::string name, int64_t out) {
  ProjectorOp op;
  op.kind = Kind::matrix, op.name = std::move(name), op.out = out;
  return op;
}

ProjectorOp ProjectorOp::activation(Activation function) {
  ProjectorOp op;
  op.kind = Kind::activation, op.function = function;
  return op;
}

Grid projected_grid(const ProjectorSpec& spec, Grid grid) {
  for (const ProjectorOp& op : spec)
    if (op.kind == Kind::concat || is_spatial(op.kind)) grid = cells(op, grid);
  return grid;
}

int64_t projected_channels(const ProjectorSpec& spec, int64_t channels) {
  for (const ProjectorOp& op : spec) {
    if (op.kind == Kind::concat || op.kind == Kind::unshuffle) channels *= op.side * op.side;
    if (op.kind == Kind::linear || op.kind == Kind::matrix) channels = op.out;
  }
  return channels;
}

at::Tensor project(const ProjectorSpec& spec, const Projector& projector, const at::Tensor& rows,
                   const std::vector<Grid>& grids) {
  at::Tensor x = rows;
  std::vector<Grid> sizes = grids;
  for (size_t i = 0; i < spec.size(); ++i) {
    x = is_spatial(spec[i].kind) ? apply_spatial(spec[i], x, sizes)
                                 : apply_row_by_row(spec[i], projector[i], x);
    for (Grid& size : sizes) size = projected_grid({spec[i]}, size);
  }
  return x;
}

}  // namespace visq::nn

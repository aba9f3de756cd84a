// From tower features to the width of the text model: a chain of a few operations, as data.
// Source: spec/models-llava-vila-qwen.md §1.3; spec/models-phi-gemma.md §4.3, §5.
#pragma once
#include <string>
#include <vector>

#include "visq/nn/ops.h"
#include "visq/nn/vision_windows.h"

namespace visq::nn {

/// One operation. Rows are those of one grid after another, row by row, C channels each.
struct ProjectorOp {
  enum class Kind {
    concat,        ///< side² consecutive rows become one (their order is cell by cell already)
    unshuffle,     ///< side × side rows of the grid become one; the grid is filled up with zeros, or, with
                   ///< channels first, a remainder is left out
    average_pool,  ///< the mean of side × side rows; the grid is filled up by reflection
    layer_norm,
    rms_norm,     ///< · weight
    rms_norm_1p,  ///< · (1 + weight), in fp32
    linear,       ///< x Wᵀ + b
    matrix,       ///< x W
    activation,
  };
  enum class Channels { cells_first, channels_first };  ///< of unshuffle: (dy, dx, c) or (c, dy, dx)
  enum class Order { rows, columns };                   ///< of unshuffle: how the resulting rows follow

  Kind kind = Kind::linear;
  std::string name;  ///< module below the projector's prefix; of a matrix: the tensor
  int64_t out = 0;   ///< channels behind linear and matrix
  bool bias = true;  ///< of linear
  double eps = 0;
  int64_t side = 1;
  Channels channels = Channels::cells_first;
  Order order = Order::rows;
  Activation function = Activation::gelu;

  static ProjectorOp concat(int64_t side);
  static ProjectorOp unshuffle(int64_t side, Channels channels = Channels::cells_first,
                               Order order = Order::rows);
  static ProjectorOp average_pool(int64_t side);
  /// @param kind  layer_norm, rms_norm or rms_norm_1p
  static ProjectorOp norm(Kind kind, std::string name, double eps);
  static ProjectorOp linear(std::string name, int64_t out, bool bias = true);
  static ProjectorOp matrix(std::string name, int64_t out);
  static ProjectorOp activation(Activation function);
};

using ProjectorSpec = std::vector<ProjectorOp>;

/// Weight and bias of each operation; undefined where it has none.
struct OpWeights {
  at::Tensor weight, bias;
};
using Projector = std::vector<OpWeights>;

/// Grid and channels behind the chain.
Grid projected_grid(const ProjectorSpec& spec, Grid grid);
int64_t projected_channels(const ProjectorSpec& spec, int64_t channels);

/// @param rows   [Σ tokens, channels]; operations on the grid need exactly h·w tokens of each
/// @param grids  of each tile or image
/// @return [Σ projected tokens, out]
at::Tensor project(const ProjectorSpec& spec, const Projector& projector, const at::Tensor& rows,
                   const std::vector<Grid>& grids);

}  // namespace visq::nn

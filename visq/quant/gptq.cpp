#include "visq/quant/gptq.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/quant/grid.h"

namespace visq {
namespace {

constexpr int64_t kColumns = 128;  // that are rounded between two matrix products
constexpr int64_t kRows = 128;     // a thread's share

// R of G = R·Rᵀ, upper triangular, of the damped matrix. Damping grows until the factor exists: in the end
// the matrix is its diagonal.
at::Tensor upper_factor(const at::Tensor& gram, double damping) {
  const double mean = gram.diagonal().mean(at::kDouble).item<double>();
  for (;; damping *= 10) {
    if (!std::isfinite(damping * mean)) fail("GPTQ: the statistics hold a NaN or an infinity");
    const at::Tensor damped = gram.flip({0, 1});
    damped.diagonal().add_(damping * mean);
    const at::Tensor lower = tiled_cholesky(damped);
    if (lower.defined()) return lower.flip({0, 1});
  }
}

/// Rounds some rows. @param weight, grid  f32 [rows, in], columns in the order of rounding
at::Tensor round_rows(const at::Tensor& weight, const Grid& grid, const at::Tensor& factor) {
  const int64_t columns = weight.size(1);
  const at::Tensor values = at::empty_like(weight), error = at::empty_like(weight);
  const at::Tensor diagonal = factor.diagonal().contiguous();
  for (int64_t begin = 0; begin < columns; begin += kColumns) {
    const int64_t width = std::min(kColumns, columns - begin);
    // Of the columns rounded so far: Σ e_i R_ij, for the columns of this block.
    at::Tensor carried =
        at::mm(error.narrow(1, 0, begin), factor.narrow(0, 0, begin).narrow(1, begin, width));
    for (int64_t i = 0; i < width; ++i) {
      const int64_t column = begin + i;
      const at::Tensor w = weight.select(1, column);
      const at::Tensor target = w + carried.select(1, i) / diagonal[column];
      const at::Tensor rounded =
          grid.as([column](const at::Tensor& all) { return all.select(1, column); }).nearest(target);
      const at::Tensor e = w - rounded;
      values.select(1, column).copy_(rounded);
      error.select(1, column).copy_(e);
      if (i + 1 < width)
        carried.narrow(1, i + 1, width - i - 1)
            .addr_(e, factor.select(0, column).narrow(0, column + 1, width - i - 1));
    }
  }
  return values;
}

}  // namespace

GptqFactor gptq_factor(const at::Tensor& gram, const GptqOptions& options) {
  if (!gram.defined()) fail("GPTQ needs the Gram matrix of the weight's inputs");
  const at::Tensor order = options.activation_order
                               ? std::get<1>(gram.diagonal().sort(/*stable=*/true, 0, /*descending=*/true))
                               : at::arange(gram.size(0), gram.options().dtype(at::kLong));
  if (gram.diagonal().max().item<float>() <= 0) return {order, {}};
  return {order, upper_factor(gram.index_select(0, order).index_select(1, order), options.damping)};
}

PackedTensor gptq(const at::Tensor& weight, const GptqFactor& factor, const PackedTensor& scales) {
  const int64_t rows = weight.size(0);
  const at::Tensor& order = factor.order;
  if (order.size(0) != weight.size(1)) fail("GPTQ: the Gram matrix is not of the weight's inputs");
  if (!factor.factor.defined()) return scales;  // no input: every rounding is as good
  const at::Tensor ordered = weight.index_select(1, order);
  const Grid grid = grid_of_columns(scales).as([&](const at::Tensor& all) {
    return all.index_select(1, order).expand({rows, -1});
  });
  const at::Tensor values = at::empty_like(ordered);
  // Rows do not depend on each other. A GPU takes them together.
  const int64_t share = weight.is_cpu() ? kRows : rows;
  parallel_tiles(rows, share, [&](int64_t begin, int64_t count) {
    values.narrow(0, begin, count)
        .copy_(round_rows(ordered.narrow(0, begin, count),
                          grid.as([=](const at::Tensor& all) { return all.narrow(0, begin, count); }),
                          factor.factor));
  });
  return repack(scales, values.index_select(1, order.argsort()));
}

}  // namespace visq

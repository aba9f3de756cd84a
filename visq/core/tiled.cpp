#include "visq/core/tiled.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include "visq/core/parallel.h"
#include "visq/core/tiled_gradient.h"

// MKL's own switch for the calling thread; absent where libtorch uses another BLAS.
extern "C" int MKL_Set_Num_Threads_Local(int threads) __attribute__((weak));

namespace visq {
namespace {

// While a tile is computed: no gradients (a thread's own state, the caller's does not reach it), and no
// threads below this one. libtorch tells MKL to divide every product by the number of threads, even where
// only one will run it.
class TileGuard {
 public:
  TileGuard() : before_(MKL_Set_Num_Threads_Local != nullptr ? MKL_Set_Num_Threads_Local(1) : 0) {}
  ~TileGuard() {
    if (MKL_Set_Num_Threads_Local != nullptr) MKL_Set_Num_Threads_Local(before_);
  }
  TileGuard(const TileGuard&) = delete;
  TileGuard& operator=(const TileGuard&) = delete;

 private:
  c10::InferenceMode no_gradients_;
  int before_;
};

constexpr int64_t kTileRows = 256, kTileColumns = 1024, kGramTile = 256, kMapTile = 1 << 14;
constexpr int64_t kFormRows = 256, kFormColumns = 512;
constexpr int64_t kCholeskyTile = 256;
constexpr int64_t kFormDeviceRows = 4096;  // bounds the memory of a product

int64_t tiles_of(int64_t extent, int64_t tile) { return (extent + tile - 1) / tile; }

// Calls body(row, rows, column, columns) for the tiles of an [m, n] result. There are always two at least,
// where the result can be cut at all: a single one would leave the threading to the library.
template <typename Body>
void for_each_tile(int64_t m, int64_t n, Body&& body) {
  int64_t tile_columns = kTileColumns;
  if (tiles_of(m, kTileRows) * tiles_of(n, tile_columns) < 2)
    tile_columns = std::max<int64_t>(1, (n + 1) / 2);
  const int64_t across = tiles_of(n, tile_columns);
  parallel_for(tiles_of(m, kTileRows) * across, 1, [&](int64_t begin, int64_t end) {
    const TileGuard guard;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = tile / across * kTileRows, column = tile % across * tile_columns;
      body(row, std::min(kTileRows, m - row), column, std::min(tile_columns, n - column));
    }
  });
}

// L of a small matrix; undefined when it is not positive definite.
at::Tensor cholesky_factor(const at::Tensor& a) {
  const auto [factor, info] = at::linalg_cholesky_ex(a);
  return info.item<int>() == 0 && factor.diagonal().isfinite().all().item<bool>() ? factor : at::Tensor();
}

}  // namespace

at::Tensor tiled_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!x.is_cpu()) return at::linear(x, weight, bias);
  if (records_gradients(x) || records_gradients(weight)) return tiled_linear_with_gradient(x, weight, bias);
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  const int64_t m = rows.size(0), n = weight.size(0);
  const at::Tensor result = at::empty({m, n}, x.options());
  for_each_tile(m, n, [&](int64_t row, int64_t height, int64_t column, int64_t width) {
    at::Tensor tile = result.narrow(0, row, height).narrow(1, column, width);
    const at::Tensor part = rows.narrow(0, row, height), transposed = weight.narrow(0, column, width).t();
    if (bias.defined())
      at::addmm_out(tile, bias.narrow(0, column, width), part, transposed);
    else
      at::mm_out(tile, part, transposed);
  });
  if (x.dim() == 2) return result;  // no view of it, which autograd would not let change in place
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = n;
  return result.view(shape);
}

at::Tensor tiled_matmul(const at::Tensor& a, const at::Tensor& b) {
  if (!a.is_cpu()) return at::mm(a, b);
  if (records_gradients(a) || records_gradients(b)) return tiled_linear_with_gradient(a, b.t(), {});
  const at::Tensor result = at::empty({a.size(0), b.size(1)}, a.options());
  for_each_tile(a.size(0), b.size(1), [&](int64_t row, int64_t height, int64_t column, int64_t width) {
    at::Tensor tile = result.narrow(0, row, height).narrow(1, column, width);
    at::mm_out(tile, a.narrow(0, row, height), b.narrow(1, column, width));
  });
  return result;
}

at::Tensor tiled_map(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& f) {
  if (!x.is_cpu() || records_gradients(x)) return f(x);
  const at::Tensor flat = x.reshape(-1), result = at::empty_like(flat);
  parallel_for(tiles_of(flat.numel(), kMapTile), 1, [&](int64_t begin, int64_t end) {
    const TileGuard guard;
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t first = tile * kMapTile, count = std::min(kMapTile, flat.numel() - first);
      result.narrow(0, first, count).copy_(f(flat.narrow(0, first, count)));
    }
  });
  return result.view(x.sizes());
}

at::Tensor add_low_rank(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale) {
  return tiled_matmul(b.to(at::kFloat).contiguous(), a.to(at::kFloat).contiguous())
      .mul_(scale)
      .add_(weight.to(at::kFloat))
      .to(weight.scalar_type());
}

void add_gram(at::Tensor& gram, const at::Tensor& x) {
  if (!x.is_cpu()) {
    gram.addmm_(x.t(), x);
    return;
  }
  // Only the tiles on and above the diagonal are computed; the rest is their mirror image.
  const int64_t k = x.size(1), side = std::min(kGramTile, std::max<int64_t>(1, (k + 1) / 2));
  std::vector<std::pair<int64_t, int64_t>> tiles;
  for (int64_t row = 0; row < k; row += side)
    for (int64_t column = row; column < k; column += side) tiles.emplace_back(row, column);
  parallel_for(static_cast<int64_t>(tiles.size()), 1, [&](int64_t begin, int64_t end) {
    const TileGuard guard;
    for (int64_t i = begin; i < end; ++i) {
      const auto [row, column] = tiles[static_cast<size_t>(i)];
      const int64_t height = std::min(side, k - row), width = std::min(side, k - column);
      at::Tensor tile = gram.narrow(0, row, height).narrow(1, column, width);
      tile.addmm_(x.narrow(1, row, height).t(), x.narrow(1, column, width));
      if (row != column) gram.narrow(0, column, width).narrow(1, row, height).copy_(tile.t());
    }
  });
}

at::Tensor quadratic_forms(const at::Tensor& rows, const at::Tensor& gram) {
  const int64_t m = rows.size(0), k = rows.size(1);
  const int64_t tile_rows = rows.is_cpu() ? kFormRows : kFormDeviceRows;
  const int64_t across = tiles_of(k, kFormColumns), down = tiles_of(m, tile_rows);
  const at::Tensor parts = at::empty({across, m}, rows.options());
  // The matrix is symmetric, so its blocks below the diagonal are worth those above: half of the products are
  // spared.
  const auto compute = [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) {
      const int64_t row = tile / across * tile_rows, height = std::min(tile_rows, m - row);
      const int64_t column = tile % across * kFormColumns, width = std::min(kFormColumns, k - column);
      const at::Tensor part = rows.narrow(0, row, height), own = part.narrow(1, column, width);
      const at::Tensor beside = gram.narrow(1, column, width);
      at::Tensor product = at::mm(own, beside.narrow(0, column, width));
      if (column > 0)
        product.addmm_(part.narrow(1, 0, column), beside.narrow(0, 0, column), /*beta=*/1, /*alpha=*/2);
      parts[tile % across].narrow(0, row, height).copy_((product * own).sum(1));
    }
  };
  if (rows.is_cpu())
    parallel_for(across * down, 1, [&](int64_t begin, int64_t end) {
      const TileGuard guard;
      compute(begin, end);
    });
  else
    compute(0, across * down);
  const at::Tensor result = at::zeros({m}, rows.options());
  for (int64_t tile = 0; tile < across; ++tile) result.add_(parts[tile]);
  return result;
}

void parallel_tiles(int64_t n, int64_t share, const std::function<void(int64_t begin, int64_t count)>& body) {
  parallel_jobs(tiles_of(n, share), [&](int64_t i) {
    const TileGuard guard;
    body(i * share, std::min(share, n - i * share));
  });
}

at::Tensor tiled_cholesky(const at::Tensor& a) {
  if (!a.is_cpu()) return cholesky_factor(a);
  // Right-looking: a diagonal tile, the tiles below it, then what both take from the rest of the matrix.
  const at::Tensor l = a.tril();
  const int64_t k = a.size(0), side = kCholeskyTile;
  const auto tile_at = [&](int64_t row, int64_t column) {
    return l.narrow(0, row, std::min(side, k - row)).narrow(1, column, std::min(side, k - column));
  };
  for (int64_t begin = 0; begin < k; begin += side) {
    at::Tensor top;
    {
      const TileGuard guard;
      top = cholesky_factor(tile_at(begin, begin));
    }
    if (!top.defined()) return {};
    tile_at(begin, begin).copy_(top);
    const int64_t below = tiles_of(k - begin, side) - 1;
    const auto row_of = [&](int64_t tile) { return begin + (tile + 1) * side; };
    parallel_jobs(below, [&](int64_t i) {
      const TileGuard guard;
      const at::Tensor tile = tile_at(row_of(i), begin);
      tile.copy_(at::linalg_solve_triangular(top.mT(), tile, /*upper=*/true, /*left=*/false));
    });
    parallel_jobs(below * (below + 1) / 2, [&](int64_t i) {
      const TileGuard guard;
      int64_t row = 0;  // the tiles of the triangle, row by row
      while (i > row) i -= ++row;
      tile_at(row_of(row), row_of(i))
          .addmm_(tile_at(row_of(row), begin), tile_at(row_of(i), begin).t(), 1, -1);
    });
  }
  return l;
}

}  // namespace visq

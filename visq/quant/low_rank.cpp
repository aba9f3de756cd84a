#include "visq/quant/low_rank.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/quant/solver.h"

namespace visq {
namespace {

// Subspace iteration (Halko, Martinsson, Tropp 2011). The subspace is so much wider than the rank, and the
// iterations are so many, that what is found loses no more than the optimum to three digits. Where there are
// few rows, it spans them all, and the optimum is exact.
constexpr int64_t kWidthPerRank = 4, kFewRows = 512;
constexpr int kIterations = 6;

// Runs where the library does not divide the work among threads.
at::Tensor on_one_thread(const std::function<at::Tensor()>& work) {
  at::Tensor result;
  parallel_tiles(1, 1, [&](int64_t, int64_t) { result = work(); });
  return result;
}

at::Tensor orthonormal(const at::Tensor& columns) {
  return on_one_thread([&] { return std::get<0>(at::linalg_qr(columns)); });
}

/// Leading eigenvectors of M G Mᵀ. [out, rank]
at::Tensor leading(const at::Tensor& matrix, const at::Tensor& gram, int64_t rank) {
  const int64_t rows = matrix.size(0);
  const int64_t width = rows <= kFewRows ? rows : std::min(kWidthPerRank * rank, rows);
  const at::Tensor transposed = matrix.t().contiguous();
  const auto applied = [&](const at::Tensor& x) {  // M G Mᵀ x
    at::Tensor inner = tiled_matmul(transposed, x);
    if (gram.defined()) inner = tiled_matmul(gram, inner);
    return tiled_matmul(matrix, inner);
  };
  // Any start that is not orthogonal to what is sought, the same on every device.
  auto generator = at::make_generator<at::CPUGeneratorImpl>(/*seed=*/1);
  at::Tensor basis = width == rows ? at::eye(rows, matrix.options())
                                   : at::randn({rows, width}, generator, at::kDouble).to(matrix.options());
  for (int i = 0; width < rows && i < kIterations; ++i) basis = orthonormal(applied(orthonormal(basis)));
  const at::Tensor small = tiled_matmul(basis.t().contiguous(), applied(basis));
  if (!small.isfinite().all().item<bool>()) fail("low rank: weights or statistics hold a NaN or an infinity");
  const at::Tensor vectors =
      on_one_thread([&] { return std::get<1>(at::linalg_eigh((small + small.t()) / 2)); });
  return tiled_matmul(basis, vectors.narrow(1, width - rank, rank).flip(1));
}

at::Tensor padded(const at::Tensor& matrix, int64_t rows, int64_t columns) {
  return at::constant_pad_nd(matrix, {0, columns - matrix.size(1), 0, rows - matrix.size(0)});
}

}  // namespace

at::Tensor LowRank::product() const {
  return tiled_matmul(b.to(at::kFloat).contiguous(), a.to(at::kFloat).contiguous());
}

LowRank nearest_low_rank(const at::Tensor& matrix, const at::Tensor& gram, int64_t rank,
                         at::ScalarType dtype) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  // Eigenvectors are found from squares, which in f32 would leave half of the digits.
  const at::Tensor wide = matrix.to(at::kDouble);
  const at::Tensor u =
      leading(wide, gram.defined() ? gram.to(at::kDouble) : gram, std::min({rank, rows, columns}));
  const at::Tensor a = tiled_matmul(u.t().contiguous(), wide);
  const at::Tensor length = a.norm(2, {1}, /*keepdim=*/true);
  const at::Tensor unit = a / length.clamp_min(std::numeric_limits<float>::min());
  return {padded(unit, rank, columns).to(dtype), padded(u * length.t(), rows, rank).to(dtype)};
}

LowRank refit_low_rank(const LowRank& before, const at::Tensor& weight, const at::Tensor& quantized,
                       const at::Tensor& gram) {
  const at::Tensor rest = weight - quantized;
  LowRank after = nearest_low_rank(rest, gram, before.a.size(0), before.a.scalar_type());
  const auto loss = [&](const LowRank& factors) { return gram_loss(rest - factors.product(), gram); };
  return loss(after) < loss(before) ? after : before;
}

}  // namespace visq

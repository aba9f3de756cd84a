// A part of a weight that is stored as two small matrices beside the quantized rest: SVDQuant (Li et al.
// 2024), and the compensation of rounding errors (EoRA, Liu et al. 2024).
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace visq {

/// W ≈ Q + B·A, where Q is quantized and y = Q(x) Qᵀ + (x Aᵀ) Bᵀ.
struct LowRank {
  at::Tensor a, b;  ///< [rank, in], [out, rank] in the type in which they are stored

  at::Tensor product() const;  ///< B·A, f32 [out, in]
};

/// The B·A nearest to a matrix: minimizes tr(D G Dᵀ), D = M − B·A, which is the output error over the inputs
/// of G = Σ xxᵀ. With U the leading eigenvectors of M G Mᵀ that is B = U, A = UᵀM; no matrix is inverted or
/// factored, so it cannot fail, whatever the rank of G. Rows of A are scaled to length 1, as ModelOpt has
/// them.
/// @param matrix  f32, bf16 or f16 [out, in]
/// @param gram    f32 [in, in]; undefined: the identity, which makes it the truncated singular value
///                decomposition of the matrix
/// @param rank    above the smaller side of the matrix: the rest of A and B is zero
/// @param dtype   to which A and B are rounded
/// @throws Error when matrix or Gram matrix hold a NaN or an infinity
LowRank nearest_low_rank(const at::Tensor& matrix, const at::Tensor& gram, int64_t rank,
                         at::ScalarType dtype);

/// Factors that make up for the rounding too: nearest to W − Q instead of to W. Those of before where
/// rounding to their type lets the new ones lose more.
/// @param before     those that were taken from `weight` before the rest of it became `quantized`
LowRank refit_low_rank(const LowRank& before, const at::Tensor& weight, const at::Tensor& quantized,
                       const at::Tensor& gram);

}  // namespace visq

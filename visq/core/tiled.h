// Tensor operations whose bits do not depend on the number of threads. BLAS libraries divide a product among
// threads in ways that change the order of additions, and vector loops compute the last elements of a
// thread's share with other instructions than the rest. Here the work is cut into tiles of fixed size, and
// each tile is one thread's. Devices other than the CPU use their own library, which is not threaded in this
// sense.
#pragma once
#include <ATen/core/Tensor.h>

#include <functional>

namespace visq {

/// x Wᵀ + b.  @param x [..., in]; @param weight [out, in]; @param bias [out] or undefined; all of one dtype
at::Tensor tiled_linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// a·b.  @param a [m, k]; @param b [k, n]
at::Tensor tiled_matmul(const at::Tensor& a, const at::Tensor& b);

/// weight + scale · b·a in fp32, rounded to the type of `weight`: a linear with a low-rank adapter in it.
/// @param weight [out, in]; @param a [rank, in]; @param b [out, rank]
at::Tensor add_low_rank(const at::Tensor& weight, const at::Tensor& a, const at::Tensor& b, double scale);

/// gram += xᵀx.  @param x [rows, k]; @param gram [k, k] of the same dtype, symmetric
void add_gram(at::Tensor& gram, const at::Tensor& x);

/// x·gram·xᵀ of each row x.  @param rows [m, k]; @param gram [k, k] of the same dtype, symmetric
/// @return [m] of that dtype
at::Tensor quadratic_forms(const at::Tensor& rows, const at::Tensor& gram);

/// Calls body(begin, count) for shares of [0, n), each on one thread that computes nothing but the share:
/// what it does may call the library freely.
void parallel_tiles(int64_t n, int64_t share, const std::function<void(int64_t begin, int64_t count)>& body);

/// L of a = L·Lᵀ, lower triangular.  @param a [k, k] f32 or f64, symmetric
/// @return undefined when `a` is not positive definite (to working precision)
at::Tensor tiled_cholesky(const at::Tensor& a);

/// f(x) for an elementwise function such as cos or an activation.
at::Tensor tiled_map(const at::Tensor& x, const std::function<at::Tensor(const at::Tensor&)>& f);

}  // namespace visq

// Plain, obviously right versions of what nn computes, for its tests.
#pragma once
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>
#include <span>
#include <vector>

namespace visq::nn::test {

/// Seeded normal values.
inline at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  const auto generator = at::detail::createCPUGenerator(seed);
  return at::randn(shape, generator, at::kFloat);
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// Softmax attention of one sequence, one head at a time, from the definition.
/// @param q  [n, heads, d]; k, v: [m, kv_heads, d]; query i sees keys 0 … m − n + i when causal
inline at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  bool causal) {
  const int64_t n = q.size(0), m = k.size(0), heads = q.size(1), dim = q.size(2), shared = heads / k.size(1);
  std::vector<at::Tensor> out;
  for (int64_t h = 0; h < heads; ++h) {
    at::Tensor scores =
        q.select(1, h).matmul(k.select(1, h / shared).t()) / std::sqrt(static_cast<double>(dim));
    if (causal)
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = m - n + i + 1; j < m; ++j) scores[i][j] = -INFINITY;
    out.push_back(scores.softmax(-1).matmul(v.select(1, h / shared)));
  }
  return at::cat(out, -1);
}

/// plain_attention() of each sequence by itself.
inline at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  std::span<const int64_t> offsets, bool causal) {
  std::vector<at::Tensor> out;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const auto rows = [&](const at::Tensor& x) {
      return x.narrow(0, offsets[s], offsets[s + 1] - offsets[s]);
    };
    if (offsets[s + 1] > offsets[s]) out.push_back(plain_attention(rows(q), rows(k), rows(v), causal));
  }
  return at::cat(out);
}

}  // namespace visq::nn::test

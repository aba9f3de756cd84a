// Keys and values of earlier tokens, for generation, and the attention that reads them.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "visq/nn/ops.h"

namespace visq::nn {

/// Starts empty; the first pass fills it. Sequences of equal length lie together, so that one call serves all
/// of them: they stay equal while every sequence grows by one token a step.
struct KvCache {
  struct Group {
    std::vector<int64_t> sequences;  ///< their numbers in the batch, ascending
    int64_t length = 0;              ///< tokens cached of each
    /// [sequences, kv_heads, capacity, head_dim]; rows beyond `length` are undefined
    at::Tensor keys, values;
  };
  std::vector<std::vector<Group>> layers;
  /// Of cross layers, by layer and sequence: what the sequence's tokens see of its images.
  struct Seen {
    at::Tensor keys, values;  ///< [1, kv_heads, vision rows, head_dim]; undefined: it has no image
  };
  std::vector<std::vector<Seen>> cross;  ///< a layer's is empty where no sequence has an image

  /// Drops all other sequences (those that have ended); the kept ones are renumbered 0, 1, … in their order.
  /// @param sequences  ascending numbers in the present batch
  void keep(std::span<const int64_t> sequences);
};

/// Appends `k`, `v` to the cached tokens of `layer`; each sequence's queries attend to what is cached before
/// them and to one another as `pattern` says. Shapes as for attention() (ops.h).
at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            std::span<const int64_t> offsets, const AttentionPattern& pattern, KvCache& cache,
                            int64_t layer);

}  // namespace visq::nn

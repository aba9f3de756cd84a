// Sequences of unlike lengths as few dense attention calls, without padding: for attention()
// and the KV cache.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "visq/nn/ops.h"

namespace visq::nn {

/// Sequences of one length, laid end to end in the grouped row order.
struct SequenceGroup {
  std::vector<int64_t> sequences;
  int64_t length = 0;  ///< rows of each
  int64_t begin = 0;   ///< first row in the grouped order
  int64_t rows() const { return static_cast<int64_t>(sequences.size()) * length; }
};

/// Moves rows from the order of `offsets` to that of `groups` and back.
class RowOrder {
 public:
  RowOrder(std::span<const SequenceGroup> groups, std::span<const int64_t> offsets, at::Device device);
  at::Tensor grouped(const at::Tensor& rows) const;
  at::Tensor restored(const at::Tensor& rows) const;

 private:
  at::Tensor to_grouped_, to_original_;  // int64 [rows]; undefined when the order is the same
};

/// Groups by length, in the order in which the lengths first appear; empty sequences belong to none.
std::vector<SequenceGroup> group_by_length(std::span<const int64_t> offsets);
/// Sets `begin` of each group: they follow one another.
void place_groups(std::vector<SequenceGroup>& groups);

/// Scaled dot product attention of one group.
/// @param q  [n, heads, length, head_dim]; k, v: [n, kv_heads, cached, head_dim], cached ≥ length
/// @param pattern  causal: query i sees keys 0 … cached − length + i
/// @param blocks   the pattern's blocks of these rows, int64 [n, length]; undefined: none. Only where cached
/// = length
/// @return [n · length, heads · head_dim]
at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const AttentionPattern& pattern, const at::Tensor& blocks = {});
/// The pattern's blocks of one group. @param rows  int64 [tokens] in grouped order, or undefined
at::Tensor blocks_of(const at::Tensor& rows, const SequenceGroup& group);
/// Rows of one group as [n, heads, length, head_dim], a view.
/// @param rows  [tokens, heads, head_dim] in grouped order
at::Tensor heads_first(const at::Tensor& rows, const SequenceGroup& group);

}  // namespace visq::nn

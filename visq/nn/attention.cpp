#include <ATen/ATen.h>

#include <cmath>
#include <limits>
#include <map>

#include "visq/core/tiled.h"
#include "visq/nn/grouping.h"
#include "visq/nn/ops.h"

namespace visq::nn {

std::vector<SequenceGroup> group_by_length(std::span<const int64_t> offsets) {
  std::vector<SequenceGroup> groups;
  std::map<int64_t, size_t> group_of;  // by length
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t length = offsets[s + 1] - offsets[s];
    if (length == 0) continue;
    const auto [it, added] = group_of.emplace(length, groups.size());
    if (added) groups.push_back({{}, length, 0});
    groups[it->second].sequences.push_back(static_cast<int64_t>(s));
  }
  place_groups(groups);
  return groups;
}

void place_groups(std::vector<SequenceGroup>& groups) {
  int64_t row = 0;
  for (SequenceGroup& group : groups) {
    group.begin = row;
    row += group.rows();
  }
}

RowOrder::RowOrder(std::span<const SequenceGroup> groups, std::span<const int64_t> offsets,
                   at::Device device) {
  const int64_t rows = offsets.back();
  const at::Tensor order = at::empty({rows}, at::kLong), inverse = at::empty({rows}, at::kLong);
  int64_t* const from = order.mutable_data_ptr<int64_t>();
  int64_t* const to = inverse.mutable_data_ptr<int64_t>();
  int64_t place = 0;
  bool same = true;
  for (const SequenceGroup& group : groups) {
    for (const int64_t sequence : group.sequences) {
      const int64_t first = offsets[static_cast<size_t>(sequence)];
      same = same && first == place;
      for (int64_t i = 0; i < group.length; ++i, ++place) {
        from[place] = first + i;
        to[first + i] = place;
      }
    }
  }
  if (same) return;
  to_grouped_ = order.to(device);
  to_original_ = inverse.to(device);
}

at::Tensor RowOrder::grouped(const at::Tensor& rows) const {
  return to_grouped_.defined() ? rows.index_select(0, to_grouped_) : rows;
}

at::Tensor RowOrder::restored(const at::Tensor& rows) const {
  return to_original_.defined() ? rows.index_select(0, to_original_) : rows;
}

at::Tensor heads_first(const at::Tensor& rows, const SequenceGroup& group) {
  return rows.narrow(0, group.begin, group.rows())
      .view({static_cast<int64_t>(group.sequences.size()), group.length, rows.size(1), rows.size(2)})
      .transpose(1, 2);
}

namespace {

/// Each kv head once for every query head that it serves: [n, kv_heads, cached, d] → [n, heads, cached, d].
at::Tensor repeat_heads(const at::Tensor& x, int64_t heads) {
  const int64_t copies = heads / x.size(1);
  if (copies == 1) return x;
  return x.unsqueeze(2)
      .expand({x.size(0), x.size(1), copies, x.size(2), x.size(3)})
      .reshape({x.size(0), heads, x.size(2), x.size(3)});
}

/// bool [n or 1, 1, length, cached]: true where a query sees a key. Undefined: the causal flag says it all.
at::Tensor attention_mask(const AttentionPattern& pattern, const at::Tensor& blocks, int64_t length,
                          int64_t cached, at::Device device) {
  const bool in_window = pattern.window == 0 || cached <= pattern.window;
  if (!pattern.causal || (!blocks.defined() && in_window && cached == length)) return {};
  const at::Tensor queries = at::arange(cached - length, cached, at::kLong).to(device).unsqueeze(1);
  const at::Tensor keys = at::arange(cached, at::kLong).to(device).unsqueeze(0);
  at::Tensor mask = (keys <= queries).view({1, 1, length, cached});
  at::Tensor together;  // undefined: no blocks
  if (blocks.defined() && cached == length)
    together = ((blocks.unsqueeze(2) == blocks.unsqueeze(1)) & (blocks.unsqueeze(2) >= 0)).unsqueeze(1);
  if (together.defined() && !pattern.blocks_cross_window) mask = mask | together;
  if (!in_window)
    mask = mask & (pattern.chunked ? keys >= queries - queries.remainder(pattern.window)
                                   : keys > queries - pattern.window);
  return together.defined() && pattern.blocks_cross_window ? mask | together : mask;
}

/// As scaled_dot_product_attention, which knows no softcap: scores in the dtype of the activations, softmax
/// in fp32.
at::Tensor softcapped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale,
                                double softcap, const at::Tensor& mask) {
  std::vector<at::Tensor> out;
  for (int64_t i = 0; i < q.size(0); ++i) {
    std::vector<at::Tensor> heads;
    for (int64_t h = 0; h < q.size(1); ++h) {
      at::Tensor scores = tiled_linear(q[i][h], k[i][h]).mul_(scale);  // [length, cached]
      scores = scores.div_(softcap).tanh_().mul(softcap);
      if (mask.defined())
        scores.masked_fill_(mask[mask.size(0) == 1 ? 0 : i][0].logical_not(),
                            std::numeric_limits<float>::lowest());
      const at::Tensor weights = scores.softmax(-1, at::kFloat).to(q.scalar_type());
      heads.push_back(tiled_matmul(weights, v[i][h].contiguous()));
    }
    out.push_back(at::stack(heads));
  }
  return at::stack(out);
}

}  // namespace

at::Tensor dense_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const AttentionPattern& pattern, const at::Tensor& blocks) {
  const int64_t n = q.size(0), heads = q.size(1), length = q.size(2), dim = q.size(3);
  const int64_t cached = k.size(2), kv_heads = k.size(1);
  if (length == 1 && pattern.causal && pattern.window > 0 && cached > pattern.window) {
    const int64_t seen = pattern.chunked ? (cached - 1) % pattern.window + 1 : pattern.window;
    return dense_attention(q, k.narrow(2, cached - seen, seen), v.narrow(2, cached - seen, seen), pattern);
  }
  const double scale = pattern.scale > 0 ? pattern.scale : 1 / std::sqrt(static_cast<double>(dim));
  if (length == 1 && pattern.softcap == 0) {
    // One new token sees everything: the query heads of a kv head become its queries, and nothing is copied.
    const at::Tensor folded = q.reshape({n, kv_heads, heads / kv_heads, dim});
    return at::scaled_dot_product_attention(folded, k, v, {}, 0.0, false, scale).reshape({n, heads * dim});
  }
  const at::Tensor mask = attention_mask(pattern, blocks, length, cached, q.device());
  // Expanded heads rather than enable_gqa: on CUDA the latter falls back to materialized scores in fp32.
  const at::Tensor keys = repeat_heads(k, heads), values = repeat_heads(v, heads);
  if (pattern.softcap > 0) {
    const at::Tensor own =
        mask.defined() || !pattern.causal
            ? mask
            : at::ones({length, cached}, q.options().dtype(at::kBool)).tril().view({1, 1, length, cached});
    return softcapped_attention(q, keys, values, scale, pattern.softcap, own)
        .transpose(1, 2)
        .reshape({n * length, heads * dim});
  }
  std::optional<at::Tensor> given;
  if (mask.defined()) given = mask;
  const at::Tensor out =
      at::scaled_dot_product_attention(q, keys, values, given, /*dropout_p=*/0.0,
                                       /*is_causal=*/pattern.causal && !mask.defined(), scale);
  return out.transpose(1, 2).reshape({n * length, heads * dim});
}

at::Tensor blocks_of(const at::Tensor& rows, const SequenceGroup& group) {
  if (!rows.defined()) return {};
  return rows.narrow(0, group.begin, group.rows())
      .view({static_cast<int64_t>(group.sequences.size()), group.length});
}

at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     std::span<const int64_t> offsets, const AttentionPattern& pattern) {
  const int64_t width = q.size(1) * q.size(2);
  const std::vector<SequenceGroup> groups = group_by_length(offsets);
  if (groups.empty()) return at::empty({0, width}, q.options());
  const RowOrder order(groups, offsets, q.device());
  const at::Tensor queries = order.grouped(q), keys = order.grouped(k), values = order.grouped(v);
  const at::Tensor blocks = pattern.blocks.defined() ? order.grouped(pattern.blocks) : pattern.blocks;
  std::vector<at::Tensor> parts;
  parts.reserve(groups.size());
  for (const SequenceGroup& group : groups)
    parts.push_back(dense_attention(heads_first(queries, group), heads_first(keys, group),
                                    heads_first(values, group), pattern, blocks_of(blocks, group)));
  return order.restored(parts.size() == 1 ? parts.front() : at::cat(parts));
}

}  // namespace visq::nn

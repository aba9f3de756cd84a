#include "visq/nn/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <utility>

#include "visq/core/error.h"
#include "visq/nn/grouping.h"

namespace visq::nn {
namespace {

using Group = KvCache::Group;

/// The members `picked` (places in group.sequences) as a group of their own.
Group select(const Group& group, const std::vector<int64_t>& picked) {
  if (picked.size() == group.sequences.size()) return group;
  Group part;
  part.length = group.length;
  for (const int64_t place : picked) part.sequences.push_back(group.sequences[static_cast<size_t>(place)]);
  if (group.keys.defined()) {
    const at::Tensor index = at::tensor(picked, at::kLong).to(group.keys.device());
    part.keys = group.keys.index_select(0, index);
    part.values = group.values.index_select(0, index);
  }
  return part;
}

/// Splits groups until the sequences of each get equally many new tokens.
void split_by_new_tokens(std::vector<Group>& groups, std::span<const int64_t> offsets) {
  std::vector<Group> result;
  for (const Group& group : groups) {
    std::map<int64_t, std::vector<int64_t>> places;  // by number of new tokens
    for (size_t i = 0; i < group.sequences.size(); ++i) {
      const auto s = static_cast<size_t>(group.sequences[i]);
      places[offsets[s + 1] - offsets[s]].push_back(static_cast<int64_t>(i));
    }
    for (const auto& [count, picked] : places) result.push_back(select(group, picked));
  }
  groups = std::move(result);
}

/// Room for `length` tokens in all; grows by half, so that a token costs no copy of the whole cache.
void reserve(Group& group, int64_t length, const at::Tensor& k) {
  const int64_t capacity = group.keys.defined() ? group.keys.size(2) : 0;
  if (length <= capacity) return;
  const int64_t grown = length + std::max<int64_t>(16, length / 2);
  const std::vector<int64_t> shape = {static_cast<int64_t>(group.sequences.size()), k.size(1), grown,
                                      k.size(2)};
  for (at::Tensor* const stored : {&group.keys, &group.values}) {
    const at::Tensor larger = at::empty(shape, k.options());
    if (group.length > 0) larger.narrow(2, 0, group.length).copy_(stored->narrow(2, 0, group.length));
    *stored = larger;
  }
}

}  // namespace

void KvCache::keep(std::span<const int64_t> sequences) {
  std::map<int64_t, int64_t> renumbered;
  for (const int64_t sequence : sequences)
    renumbered.emplace(sequence, static_cast<int64_t>(renumbered.size()));
  for (std::vector<Group>& groups : layers) {
    std::vector<Group> kept;
    for (const Group& group : groups) {
      std::vector<int64_t> picked;
      for (size_t i = 0; i < group.sequences.size(); ++i)
        if (renumbered.contains(group.sequences[i])) picked.push_back(static_cast<int64_t>(i));
      if (picked.empty()) continue;
      kept.push_back(select(group, picked));
      for (int64_t& sequence : kept.back().sequences) sequence = renumbered.at(sequence);
    }
    groups = std::move(kept);
  }
  for (std::vector<Seen>& seen : cross) {
    if (seen.empty()) continue;
    std::vector<Seen> kept;
    for (const int64_t sequence : sequences) kept.push_back(seen.at(static_cast<size_t>(sequence)));
    seen = std::move(kept);
  }
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            std::span<const int64_t> offsets, const AttentionPattern& pattern, KvCache& cache,
                            int64_t layer) {
  const auto sequences = static_cast<int64_t>(offsets.size()) - 1;
  if (cache.layers.size() <= static_cast<size_t>(layer)) cache.layers.resize(static_cast<size_t>(layer) + 1);
  std::vector<Group>& groups = cache.layers[static_cast<size_t>(layer)];
  if (groups.empty()) {
    groups.emplace_back();
    groups.front().sequences.resize(static_cast<size_t>(sequences));
    std::iota(groups.front().sequences.begin(), groups.front().sequences.end(), 0);
  }
  int64_t known = 0;
  for (const Group& group : groups) known += static_cast<int64_t>(group.sequences.size());
  if (known != sequences) fail("the KV cache holds {} sequences, the batch has {}", known, sequences);
  split_by_new_tokens(groups, offsets);

  std::vector<SequenceGroup> fresh;
  for (const Group& group : groups) {
    const auto s = static_cast<size_t>(group.sequences.front());
    fresh.push_back({group.sequences, offsets[s + 1] - offsets[s], 0});
  }
  place_groups(fresh);
  const RowOrder order(fresh, offsets, q.device());
  const at::Tensor queries = order.grouped(q), keys = order.grouped(k), values = order.grouped(v);
  const at::Tensor blocks = pattern.blocks.defined() ? order.grouped(pattern.blocks) : pattern.blocks;
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < groups.size(); ++i) {
    Group& group = groups[i];
    const int64_t added = fresh[i].length, length = group.length + added;
    if (added == 0) continue;
    reserve(group, length, k);
    group.keys.narrow(2, group.length, added).copy_(heads_first(keys, fresh[i]));
    group.values.narrow(2, group.length, added).copy_(heads_first(values, fresh[i]));
    group.length = length;
    parts.push_back(dense_attention(heads_first(queries, fresh[i]), group.keys.narrow(2, 0, length),
                                    group.values.narrow(2, 0, length), pattern, blocks_of(blocks, fresh[i])));
  }
  if (parts.empty()) return at::empty({0, q.size(1) * q.size(2)}, q.options());
  return order.restored(parts.size() == 1 ? parts.front() : at::cat(parts));
}

}  // namespace visq::nn

#include "visq/nn/cross_attention.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/nn/decoder.h"
#include "visq/nn/grouping.h"

namespace visq::nn {
namespace {

using Seen = KvCache::Seen;

/// Tokens that see the same keys.
struct Part {
  RowSpan tokens;             // rows of the batch
  std::vector<RowSpan> seen;  // vision rows, unless:
  const Seen* cached = nullptr;
  bool has_mlp = true;
};

std::vector<Part> parts_of(const CrossInput& vision, std::span<const int64_t> offsets) {
  std::vector<Part> parts;
  for (const CrossSequence& sequence : vision.sequences) {
    const auto number = static_cast<size_t>(sequence.number);
    int64_t token = offsets[number];
    for (const CrossRun& run : sequence.runs) {
      const bool sees = !run.seen.empty();
      parts.push_back(
          {{token, run.tokens}, sees ? run.seen : std::vector<RowSpan>{sequence.rows}, nullptr, sees});
      token += run.tokens;
    }
    if (token != offsets[number + 1])
      fail("the runs of sequence {} have {} tokens, the sequence has {}", number, token - offsets[number],
           offsets[number + 1] - offsets[number]);
  }
  return parts;
}

std::vector<Part> cached_parts(const KvCache* cache, int64_t layer, std::span<const int64_t> offsets) {
  if (cache == nullptr || cache->cross.size() <= static_cast<size_t>(layer)) return {};
  const std::vector<Seen>& kept = cache->cross[static_cast<size_t>(layer)];
  if (kept.empty()) return {};  // no sequence had an image
  if (kept.size() + 1 != offsets.size())
    fail("the KV cache holds {} sequences, the batch has {}", kept.size(), offsets.size() - 1);
  std::vector<Part> parts;
  for (size_t s = 0; s < kept.size(); ++s)
    if (kept[s].keys.defined()) parts.push_back({{offsets[s], offsets[s + 1] - offsets[s]}, {}, &kept[s]});
  return parts;
}

/// @param rows  [vision rows, kv_heads, head_dim] → [1, kv_heads, seen, head_dim]
at::Tensor pick(const at::Tensor& rows, const std::vector<RowSpan>& spans) {
  std::vector<at::Tensor> pieces;
  for (const RowSpan& span : spans) pieces.push_back(rows.narrow(0, span.begin, span.count));
  return (pieces.size() == 1 ? pieces.front() : at::cat(pieces)).transpose(0, 1).unsqueeze(0);
}

/// int64: the tokens of all parts, or of those with an MLP branch.
at::Tensor rows_of(const std::vector<Part>& parts, bool with_mlp_only, at::Device device) {
  std::vector<int64_t> rows;
  for (const Part& part : parts)
    for (int64_t i = 0; i < part.tokens.count; ++i)
      if (part.has_mlp || !with_mlp_only) rows.push_back(part.tokens.begin + i);
  return at::tensor(rows, at::kLong).to(device);
}

/// @param q     [tokens of all parts, heads, head_dim]
/// @param k, v  [vision rows, kv_heads, head_dim]; undefined where all parts are cached
/// @return [tokens, heads · head_dim]
at::Tensor attend(const DecoderSpec& spec, const std::vector<Part>& parts, const at::Tensor& q,
                  const at::Tensor& k, const at::Tensor& v) {
  AttentionPattern pattern;
  pattern.scale = spec.score_scale;
  std::vector<at::Tensor> out;
  int64_t first = 0;
  for (const Part& part : parts) {
    const at::Tensor own = q.narrow(0, first, part.tokens.count).transpose(0, 1).unsqueeze(0);
    first += part.tokens.count;
    out.push_back(part.cached != nullptr
                      ? dense_attention(own, part.cached->keys, part.cached->values, pattern)
                      : dense_attention(own, pick(k, part.seen), pick(v, part.seen), pattern));
  }
  return at::cat(out);
}

/// Keeps what the last token of each sequence sees.
void keep(KvCache& cache, int64_t layer, const CrossInput& vision, size_t sequences, const at::Tensor& k,
          const at::Tensor& v) {
  if (cache.cross.size() <= static_cast<size_t>(layer)) cache.cross.resize(static_cast<size_t>(layer) + 1);
  std::vector<Seen>& kept = cache.cross[static_cast<size_t>(layer)];
  kept.assign(sequences, {});
  for (const CrossSequence& sequence : vision.sequences) {
    const std::vector<RowSpan>& seen = sequence.runs.back().seen;
    kept[static_cast<size_t>(sequence.number)] = {pick(k, seen).contiguous(), pick(v, seen).contiguous()};
  }
}

}  // namespace

at::Tensor cross_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                       std::span<const int64_t> offsets, const CrossInput* vision,
                       const LayerObserver* observer, KvCache* cache) {
  const std::vector<Part> parts =
      vision != nullptr ? parts_of(*vision, offsets) : cached_parts(cache, layer.index, offsets);
  if (parts.empty()) return hidden;
  const auto observe = [observer](InputGroup group, const at::Tensor& x) {
    if (observer != nullptr && observer->input) observer->input(group, x);
  };
  const auto norm = [&spec](const Norm& weights, const at::Tensor& x) {
    return rms_norm(x, weights, spec.norm_eps, spec.norm_plus_one);
  };
  const auto split = [&spec](const at::Tensor& rows, int64_t heads) {
    return rows.view({rows.size(0), heads, spec.head_dim});
  };

  const at::Tensor rows = rows_of(parts, /*with_mlp_only=*/false, hidden.device());
  const at::Tensor x = hidden.index_select(0, rows), attn_in = norm(layer.input_norm, x);
  observe(InputGroup::attn_in, attn_in);
  const at::Tensor q = norm(layer.q_norm, split(apply(layer.q, attn_in), spec.heads));
  at::Tensor k, v;
  if (vision != nullptr) {
    observe(InputGroup::cross_in, vision->rows);
    k = norm(layer.k_norm, split(apply(layer.k, vision->rows), spec.kv_heads));
    v = split(apply(layer.v, vision->rows), spec.kv_heads);
    if (observer != nullptr && observer->kv) observer->kv(k, v);
    if (layer.key_cache) k = layer.key_cache(k);
    if (layer.value_cache) v = layer.value_cache(v);
    if (cache != nullptr) keep(*cache, layer.index, *vision, offsets.size() - 1, k, v);
  }
  const at::Tensor attn_out = attend(spec, parts, q, k, v);
  observe(InputGroup::attn_out, attn_out);
  const at::Tensor middle = x + layer.attn_gate.tanh() * apply(layer.o, attn_out);
  const at::Tensor result = hidden.index_copy(0, rows, middle);

  const at::Tensor seeing = rows_of(parts, /*with_mlp_only=*/true, hidden.device());
  const at::Tensor y = result.index_select(0, seeing);
  return result.index_copy(0, seeing, y + layer.mlp_gate.tanh() * feed_forward(spec, layer, y, observer));
}

}  // namespace visq::nn

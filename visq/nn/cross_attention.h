// Layers that attend to the vision rows of their sequence instead of its tokens (Mllama).
// Source: spec/models-phi-gemma.md §5.2.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "visq/nn/kv_cache.h"

namespace visq::nn {

struct DecoderSpec;
struct DecoderLayer;
struct LayerObserver;

/// Rows begin … begin + count of a matrix.
struct RowSpan {
  int64_t begin = 0, count = 0;
};

/// Consecutive tokens of a sequence that see the same of its vision rows.
struct CrossRun {
  int64_t tokens = 0;
  std::vector<RowSpan> seen;  ///< rows of CrossInput::rows; empty: the tokens stand before the first image
};

struct CrossSequence {
  int64_t number = 0;          ///< of the sequence in its batch
  RowSpan rows;                ///< all its vision rows, those that fill up images included
  std::vector<CrossRun> runs;  ///< all its tokens; those of the last see something
};

/// What the images of a batch give to its cross layers.
struct CrossInput {
  at::Tensor rows;                       ///< [vision rows, hidden]
  std::vector<CrossSequence> sequences;  ///< those with images, ascending
};

/// One cross layer: gated attention of the tokens to what they see, then the gated MLP. Sequences without
/// images pass as they are. Tokens before the first image attend to all vision rows of their sequence (the
/// reference drops the mask of a token that sees nothing) and have no MLP branch.
/// @param vision  nullptr: later tokens see what `cache` has kept, which is what the last token of a sequence
/// saw
/// @throws Error when the runs or the cache do not fit the batch
at::Tensor cross_layer(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& hidden,
                       std::span<const int64_t> offsets, const CrossInput* vision,
                       const LayerObserver* observer, KvCache* cache);

}  // namespace visq::nn

// The statistics of one decoder layer as a .safetensors file.
#pragma once
#include <array>
#include <filesystem>
#include <optional>
#include <string>

#include "visq/core/json.h"
#include "visq/io/safetensors.h"
#include "visq/pipeline/calibrate.h"

namespace visq {

/// What the statistics of a layer are of: it says which tensors its file has, and their shapes.
struct LayerShape {
  std::array<int64_t, std::size(nn::kInputGroups)> inputs{};  ///< channels; 0: the layer has no such input
  int64_t experts = 0, expert_width = 0;  ///< routed ones, and the channels that their down projections read
  bool routed_inputs = false;             ///< LayerStatistics::experts_in is in use
  int64_t kv_heads = 0, head_dim = 0;
  bool operator==(const LayerShape&) const = default;

  /// Without images in the data a cross layer does not run.
  bool may_be_empty() const { return inputs[static_cast<size_t>(nn::InputGroup::cross_in)] > 0; }
};

LayerShape layer_shape(const nn::DecoderSpec& spec, int64_t layer);
Json layer_shape_json(const LayerShape& shape);
/// @throws Error naming `origin` and the key
LayerShape parse_layer_shape(const Json& json, const std::string& origin);

/// Tensors "attn_in.text.gram", "experts.3.own.image.abs_max", "keys.min": the members of the statistics,
/// with the number of tokens beside them as an I64 scalar. Without tokens there is nothing but this number.
/// Samples: "….sample.rows" and "….sample.tickets", "….held_out.…".
/// Experts: `own` is of the tokens that were sent to it; `lent`, only where those are fewer than
/// kMinExpertTokens, is what it borrows.
/// @throws Error when a statistic is a NaN or an infinity
void write_layer_statistics(const std::filesystem::path& path, const LayerStatistics& statistics,
                            const LayerShape& shape);

/// Bytes that such a file has at least: experts may have tokens of one modality only.
uint64_t least_bytes(const LayerShape& shape, bool with_gram, bool with_images);

struct ReadOptions {
  bool has_gram = true;  ///< the file has Gram matrices
  /// What is wanted; the rest stays in the file, checked for its shapes only.
  Detail detail = Detail::gram;
  /// Where the tensors go; empty: everything but the values is checked, and what comes back is only good for
  /// its numbers of tokens.
  std::optional<at::Device> device;
};
/// @throws Error naming file and tensor: one that is missing, too many, of another type or shape, a NaN, an
///         infinity, a negative magnitude; numbers of tokens that contradict one another
LayerStatistics read_layer_statistics(const std::filesystem::path& path, const LayerShape& shape,
                                      const ReadOptions& options);

}  // namespace visq

// A quantized checkpoint in another layout: the same numbers, no calibration.
#pragma once
#include <filesystem>
#include <string>

#include "visq/export/model_format.h"

namespace visq {

struct ConvertOptions {
  std::filesystem::path checkpoint;
  std::string to;  ///< a layout's or a model format's name
  std::filesystem::path out;
  /// The original, which a checkpoint in a model format needs for what it does not hold; "": none.
  std::filesystem::path source;
  Sharding sharding;  ///< of model formats
  bool force = false;
  bool drop_kv_cache = false;  ///< the output has no scales of a KV cache
  /// Of a model format: what no layout holds becomes F32 weights, to be run and not to be served.
  bool dequantize_unheld = false;
  uint64_t max_shard_bytes = 5'000'000'000;
};

struct ConvertResult {
  std::string format, from, to;
  size_t linears = 0;
  uint64_t bytes_before = 0, bytes_after = 0;  ///< of all files with tensors
  bool dequantized = false;                    ///< some weights became F32 (ConvertOptions)
  uint64_t bytes_from_source = 0;              ///< of a model format: of what it lacks, the tower above all
};

/// Writes, reads back what was written and compares it, number by number. On any error nothing is left at the
/// output path.
/// @throws Error when the target has no place for the format, or holds its numbers less exactly: naming the
/// tensor, and the way out
ConvertResult convert(const ConvertOptions& options);

}  // namespace visq

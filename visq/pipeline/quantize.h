// The driver: one pass over the decoder layers, any number of output formats.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "visq/pipeline/calibrate.h"
#include "visq/pipeline/plan.h"
#include "visq/pipeline/solve.h"

namespace visq {

struct QuantizeOptions {
  std::filesystem::path checkpoint;
  std::vector<Recipe> recipes;  ///< one output each; their names differ
  std::filesystem::path out;    ///< one recipe: the directory itself; several: its parent
  LayoutChoice layout = "auto";
  /// In place of the recipes'. Empty, and none in the recipe: fp8, but none where there are no data and no
  /// recipe needs any.
  std::optional<KvCacheFormat> kv_cache;
  /// In place of the recipes': the number; "auto" where it is empty. The outer one empty: the recipes'.
  std::optional<std::optional<double>> modality_weight;
  /// Globs over module names: `only` in place of the recipes' own, `skip` besides.
  std::vector<std::string> only, skip;
  std::optional<CalibrationOptions> calibration;  ///< empty: none
  std::filesystem::path statistics;               ///< a StatisticsDirectory in place of it; "": none
  bool has_data() const { return calibration.has_value() || !statistics.empty(); }
  at::Device device = at::kCPU;
  std::optional<at::ScalarType>
      compute_dtype;  ///< of the calibration pass; empty: float32 on a CPU, the checkpoint's on a GPU
  bool force = false, dry_run = false;
  bool is_intermediate = false;  ///< the outputs are converted (quantize_to_format.h): no engine reads them
  Json mix;  ///< what a search for mixed precision has found (mixed_precision.h), for the report; null: none
  uint64_t max_shard_bytes = 5'000'000'000;
};

/// How one output came out.
struct FormatResult {
  std::string format, layout;
  std::filesystem::path directory;
  uint64_t source_bytes = 0, output_bytes = 0;
  size_t linears = 0;
  double seconds = 0;  ///< solving, packing and writing of this format
  std::vector<GroupReport> groups;
};

struct QuantizeResult {
  std::vector<FormatResult> formats;
  int64_t samples = 0, samples_left_out = 0, text_tokens = 0, image_tokens = 0;
  std::string merged_adapter;  ///< that the weights have taken; "": none
  std::string statistics;      ///< the directory that they were read from; "": from samples
  Json mix;                    ///< QuantizeOptions::mix
  double calibration_seconds = 0, total_seconds = 0;
  int64_t peak_resident = 0, peak_anonymous = 0;
};

/// The plans of a run; nothing is read but headers, nothing written.
std::vector<Plan> make_plans(const Model& model, const QuantizeOptions& options);
/// Of a checkpoint whose architecture visq does not know: linears are found by their names (named_plan.h),
/// and a warning says which. @throws Error also when a format, or the KV cache, needs calibration
std::vector<Plan> make_plans(const Checkpoint& checkpoint, const QuantizeOptions& options);

/// Plans, calibrates, quantizes, writes. On any error or interrupt nothing is left at the output paths.
QuantizeResult quantize(const Model& model, const std::vector<Plan>& plans, const QuantizeOptions& options);
/// With plans of the checkpoint's own.
QuantizeResult quantize(const Checkpoint& checkpoint, const std::vector<Plan>& plans,
                        const QuantizeOptions& options);

/// visq_report.json of one output. @param family  "unknown": linears were found by their names
Json report_json(const QuantizeResult& result, const FormatResult& format, const std::string& family);

}  // namespace visq

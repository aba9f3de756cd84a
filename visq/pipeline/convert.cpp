#include "visq/pipeline/convert.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/io/checkpoint_writer.h"
#include "visq/pipeline/convert_model_format.h"
#include "visq/pipeline/convert_plan.h"
#include "visq/pipeline/packed_difference.h"

namespace visq {
namespace {

/// Runs a job for every linear, and one for every cache, side by side.
template <class OfLinear, class OfCache>
void for_all(const Conversion& conversion, const OfLinear& of_linear, const OfCache& of_cache) {
  const auto linears = static_cast<int64_t>(conversion.plan.sites.size());
  const auto caches = static_cast<int64_t>(conversion.caches.size());
  parallel_jobs(linears + caches, [&](int64_t i) {
    check_interrupt();
    if (i < linears)
      of_linear(conversion.plan.sites[static_cast<size_t>(i)].linear);
    else
      of_cache(conversion.caches[static_cast<size_t>(i - linears)]);
  });
}

KvScales scales_of(const QuantizedCheckpoint& quantized, const QuantizedKvCache& cache) {
  return quantized.kv_scales(cache.attention, cache.kv_heads, cache.head_dim);
}

void compare(const QuantizedCheckpoint& before, const std::filesystem::path& directory,
             const Conversion& conversion) {
  const Plan& plan = conversion.plan;
  const Checkpoint written(directory);
  const auto after = QuantizedCheckpoint::open(written);
  if (!after) fail("{}: was written without a quantization_config", directory.string());
  const auto refuse = [&](const std::string& what, const std::string& module) {
    fail("--to {}: this layout does not hold the {} of '{}' exactly; quantize the original with --layout {}",
         plan.layout->name(), what, module, plan.layout->name());
  };
  if (after->kv_cache() != plan.kv_cache)
    fail("--to {}: this layout does not tell a KV cache of {} from one of {}", plan.layout->name(),
         kv_cache_name(plan.kv_cache), kv_cache_name(after->kv_cache()));
  for_all(
      conversion,
      [&](const QuantizedLinear& linear) {
        const char* const what = difference(before.read(linear.module), after->read(linear.module));
        if (*what != '\0') refuse(what, linear.module);
      },
      [&](const QuantizedKvCache& cache) {
        const char* const what = difference(scales_of(before, cache), scales_of(*after, cache));
        if (*what != '\0') refuse(what, cache.attention);
      });
}

void write_tensors(CheckpointWriter& writer, const Checkpoint& checkpoint,
                   const QuantizedCheckpoint& quantized, const Conversion& conversion) {
  const Layout& layout = *conversion.plan.layout;
  for_all(
      conversion,
      [&](const QuantizedLinear& linear) {
        const PackedLinear packed = quantized.read(linear.module);
        for (const LayoutTensor& tensor : layout.tensors(linear))
          writer.write(tensor.planned.name, tensor.value(packed));
      },
      [&](const QuantizedKvCache& cache) {
        const KvScales scales = scales_of(quantized, cache);
        for (const KvLayoutTensor& tensor : layout.kv_tensors(cache))
          writer.write(tensor.planned.name, tensor.value(scales));
      });
  parallel_jobs(static_cast<int64_t>(conversion.copied.size()), [&](int64_t i) {
    check_interrupt();
    writer.copy(conversion.copied[static_cast<size_t>(i)], checkpoint);
  });
}

constexpr const char* kReport = "visq_report.json";

/// The report of the run that made the input, with the layout as it is now; empty: it is not one of ours.
std::string converted_report(const std::filesystem::path& path, const Plan& plan) {
  Json report = read_json(path, kMaxTokenizerBytes);
  if (!report.is_object() || !report.contains("layout")) return "";
  const Json made_as = report.value("converted_from", report.at("layout"));
  report["layout"] = plan.layout->name();
  report.erase("converted_from");
  if (made_as != report.at("layout")) report["converted_from"] = made_as;
  report["output_bytes"] = plan.output_bytes;
  return json_text(report, 2) + "\n";
}

void write_side_files(CheckpointWriter& writer, const Checkpoint& checkpoint, const Plan& plan) {
  const CheckpointPart& part = checkpoint.text_model();
  const std::filesystem::path folder = part.folder;
  for (const auto& file : checkpoint.side_files()) {
    // They describe how the input is stored.
    if (file == folder / "quantize_config.json" || file == folder / "quant_config.json") continue;
    if (file != kReport) {
      writer.copy_file(file, checkpoint.directory() / file);
    } else if (const std::string report = converted_report(checkpoint.directory() / file, plan);
               !report.empty()) {
      writer.write_file(file, report);
    }
  }
  writer.write_file(
      folder / "config.json",
      add_quantization_config(
          remove_quantization_config(part.config_text, without_quantization_config(part.config)),
          plan.layout->quantization_config(plan.summary), (part.directory / "config.json").string()));
  for (const auto& [name, content] : plan.layout->extra_files(plan.summary))
    writer.write_file(folder / name, json_text(content, 2) + "\n");
}

ConvertResult convert_layout(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                             const ConvertOptions& options) {
  const Conversion conversion = plan_conversion(checkpoint, quantized, options);
  const Plan& plan = conversion.plan;
  CheckpointWriter writer(
      options.out, plan.tensors,
      {options.max_shard_bytes, options.force, checkpoint.text_model().folder, plan.copied_bytes});
  write_tensors(writer, checkpoint, quantized, conversion);
  write_side_files(writer, checkpoint, plan);
  compare(quantized, writer.partial_directory(), conversion);
  writer.finish();
  return {quantized.format_name(), quantized.layout().name(), plan.layout->name(),
          plan.sites.size(),       plan.source_bytes,         plan.output_bytes};
}

}  // namespace

ConvertResult convert(const ConvertOptions& options) {
  const auto [tensor_parallel, pipeline_parallel] = options.sharding;
  if (find_model_format(options.to) == nullptr && (tensor_parallel != 1 || pipeline_parallel != 1))
    fail("--to {}: this layout is the same for any number of GPUs; --tp and --pp are of tensorrt-llm",
         options.to);
  if (const ModelFormat* const format = model_format_at(options.checkpoint)) return restore(*format, options);
  const Checkpoint checkpoint(options.checkpoint);
  auto quantized = QuantizedCheckpoint::open(checkpoint);
  if (!quantized)
    fail("{}: is not quantized, so there is nothing to convert; visq quantize --layout {} writes this layout",
         options.checkpoint.string(), options.to);
  quantized->forget_empty_order();
  if (options.drop_kv_cache) quantized->drop_kv_cache();
  if (const ModelFormat* const format = find_model_format(options.to))
    return convert_to_model_format(checkpoint, *quantized, *format, options);
  return convert_layout(checkpoint, *quantized, options);
}

}  // namespace visq

#include "visq/pipeline/quantize.h"

#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/core/log.h"
#include "visq/core/process.h"
#include "visq/core/text.h"
#include "visq/eval/runner.h"

namespace visq {
namespace {

struct Arguments {
  std::string model, formats, out, layout = "auto", kv_cache, calibration;
  std::vector<std::string> only, skip;
  int64_t samples = 512, seq_len = 2048;
  uint64_t max_shard_bytes = 5'000'000'000;
  bool text_only = false, merge_vision_adapter = false, force = false, dry_run = false, json = false;
  ComputeOptions compute;
};

std::string kv_cache_names() {
  std::string names;
  for (const KvFormat& format : kv_formats()) names += format.name + ", ";
  return names + "none";
}

void print_json(const QuantizeResult& result) {
  Json json;
  json["calibration"] = {{"samples", result.samples},
                         {"samples_left_out", result.samples_left_out},
                         {"text_tokens", result.text_tokens},
                         {"image_tokens", result.image_tokens},
                         {"seconds", result.calibration_seconds}};
  json["seconds"] = result.total_seconds;
  json["peak_resident_bytes"] = result.peak_resident;
  json["peak_anonymous_bytes"] = result.peak_anonymous;
  for (const FormatResult& format : result.formats)
    json["formats"].push_back({{"format", format.format},
                               {"layout", format.layout},
                               {"directory", format.directory.string()},
                               {"linears", format.linears},
                               {"source_bytes", format.source_bytes},
                               {"output_bytes", format.output_bytes},
                               {"seconds", format.seconds}});
  visq::print("{}\n", json_text(json, 2));
}

void print_summary(const QuantizeResult& result) {
  if (result.samples > 0) {
    size_t quantizers = 0;
    for (const FormatResult& format : result.formats) quantizers += format.linears;
    visq::print("calibrated {} quantizers with {} samples: {} text and {} image tokens\n", quantizers,
                result.samples, result.text_tokens, result.image_tokens);
  }
  std::vector<std::vector<std::string>> rows = {
      {"format", "layout", "linears", "size", "smaller", "seconds", "directory"}};
  for (const FormatResult& format : result.formats)
    rows.push_back({format.format, format.layout, std::to_string(format.linears),
                    human_bytes(format.output_bytes),
                    visq::format("{:.2f}×", static_cast<double>(format.source_bytes) /
                                                static_cast<double>(format.output_bytes)),
                    visq::format("{:.2f}", format.seconds), format.directory.string()});
  visq::print("{}calibration {:.1f} s, all {:.1f} s, peak memory {}\n", format_table(rows, {2, 3, 4, 5}),
              result.calibration_seconds, result.total_seconds,
              human_bytes(static_cast<uint64_t>(result.peak_resident)));
}

void run(const Arguments& arguments) {
  QuantizeOptions options;
  options.checkpoint = arguments.model;
  options.formats = split_list(arguments.formats, "--format");
  options.out = arguments.out;
  options.layout = arguments.layout;
  if (!arguments.kv_cache.empty()) options.kv_cache = parse_kv_cache(arguments.kv_cache);
  options.only = arguments.only;
  options.skip = arguments.skip;
  options.force = arguments.force;
  options.max_shard_bytes = arguments.max_shard_bytes;
  options.device = arguments.compute.resolve_device();
  if (!arguments.calibration.empty() && arguments.calibration != "none")
    options.calibration =
        CalibrationOptions{arguments.calibration, arguments.samples, arguments.seq_len, arguments.text_only};
  if (options.out.empty() && !arguments.dry_run) fail("--out is missing: the directory to write");

  const Checkpoint checkpoint(options.checkpoint);
  if (checkpoint.text_model().config.contains("quantization_config"))
    fail("{}: is quantized already; give the original checkpoint", options.checkpoint.string());
  const bool known =
      find_family(checkpoint.config(), (options.checkpoint / "config.json").string()) != nullptr;
  std::optional<Model> model;
  if (arguments.merge_vision_adapter && !known)
    fail("--merge-vision-adapter: visq does not know this architecture, nor its adapters");
  if (known)
    model.emplace(checkpoint, options.device,
                  compute_dtype(arguments.compute.resolve_dtype(), options.device, checkpoint),
                  Model::LinearLoader(), arguments.compute.resolve_image_profile());
  if (arguments.merge_vision_adapter) model->merge_image_adapter();
  const std::vector<Plan> plans = known ? make_plans(*model, options) : make_plans(checkpoint, options);
  if (arguments.dry_run) {
    for (const Plan& plan : plans) visq::print("{}", describe_plan(plan));
    return;
  }
  const QuantizeResult result =
      known ? quantize(*model, plans, options) : quantize(checkpoint, plans, options);
  if (arguments.json)
    print_json(result);
  else
    print_summary(result);
}

}  // namespace

void add_quantize_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command = program.add_command("quantize", "quantizes a checkpoint to one or several formats");
  command.add_option("model", arguments->model, "checkpoint directory").required();
  command
      .add_option("-f,--format", arguments->formats, "formats, separated by commas (visq formats lists them)")
      .required();
  command.add_option("-o,--out", arguments->out,
                     "directory to write; with several formats, DIR/FORMAT for each");
  command.add_option(
      "--calib", arguments->calibration,
      "calibration samples, JSON lines of chat messages with images; 'none' for weight-only rounding");
  command.add_option("--samples", arguments->samples, "most samples to use; 0: all")
      .show_default()
      .non_negative();
  command
      .add_option("--seq-len", arguments->seq_len,
                  "longest sample in tokens: texts are cut, samples with images left out")
      .show_default()
      .positive();
  command.add_flag("--text-only", arguments->text_only, "calibration data without images is meant so");
  command.add_option(
      "--kv-cache", arguments->kv_cache,
      visq::format("format of the KV cache: {}; default: fp8, but none without --calib and a format that "
                   "needs it",
                   kv_cache_names()));
  command
      .add_option("--layout", arguments->layout,
                  "auto (the one that most engines read), modelopt, compressed-tensors, hf-fp8")
      .show_default();
  command.add_option("--only", arguments->only,
                     "quantize only linears whose name matches this glob (repeatable)");
  command.add_option("--skip", arguments->skip,
                     "leave linears whose name matches this glob as they are (repeatable)");
  command.add_flag(
      "--merge-vision-adapter", arguments->merge_vision_adapter,
      "put the adapter that samples with images run with into the weights (Phi-4-multimodal): "
      "engines then need no adapter for images; texts run with it too, and speech is not served");
  command.add_option("--max-shard-size", arguments->max_shard_bytes, "most bytes in one .safetensors file")
      .show_default()
      .positive();
  command.add_flag("--dry-run", arguments->dry_run, "print the plan and stop");
  command.add_flag("--force", arguments->force, "replace an output directory that exists");
  command.add_flag("--json", arguments->json, "the summary as JSON");
  arguments->compute.add_to(command);
  command.set_footer(
      "Example:\n  visq quantize Qwen2.5-VL-7B-Instruct --format nvfp4,int4_awq --calib samples.jsonl --out "
      "quantized");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

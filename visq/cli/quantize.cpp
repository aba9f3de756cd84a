#include "visq/pipeline/quantize.h"

#include <fstream>

#include "visq/cli/commands.h"
#include "visq/cli/mix_options.h"
#include "visq/cli/options.h"
#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/core/log.h"
#include "visq/core/process.h"
#include "visq/core/text.h"
#include "visq/eval/runner.h"
#include "visq/pipeline/quantize_to_format.h"

namespace visq {
namespace {

struct Arguments {
  std::string model, formats, out, layout = "auto", engines, kv_cache, modality_weight, statistics,
                                   save_recipe;
  std::vector<std::string> only, skip;
  uint64_t max_shard_bytes = 5'000'000'000;
  bool merge_vision_adapter = false, force = false, dry_run = false, json = false;
  CalibrationArguments calibration;
  MixArguments mix;
  Sharding sharding;
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
  if (!result.statistics.empty()) json["calibration"]["statistics"] = result.statistics;
  if (!result.mix.is_null()) json["mixed_precision"] = result.mix;
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
    visq::print("calibrated {} quantizers with {} samples{}: {} text and {} image tokens\n", quantizers,
                result.samples,
                result.statistics.empty() ? "" : " (statistics from " + result.statistics + ")",
                result.text_tokens, result.image_tokens);
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

bool is_recipe_file(const std::string& format) {
  return format.ends_with(".yaml") || format.ends_with(".yml");
}

void save_recipe(const std::filesystem::path& file, const std::vector<Plan>& plans) {
  if (plans.size() != 1) fail("--save-recipe: writes one recipe; name one format");
  std::ofstream stream(file, std::ios::binary);
  stream << "# visq " VISQ_VERSION "; visq quantize --format FILE does the same again\n"
         << recipe_text(plans.front().recipe);
  if (!stream.flush()) fail("{}: cannot be written", file.string());
}

void run(const Arguments& arguments) {
  QuantizeOptions options;
  options.checkpoint = arguments.model;
  for (const std::string& format : split_list(arguments.formats, "--format"))
    options.recipes.push_back(is_recipe_file(format) ? load_recipe(format) : find_preset(format).recipe);
  options.out = arguments.out;
  options.layout.layout = arguments.layout;
  if (!arguments.engines.empty()) options.layout.engines = split_list(arguments.engines, "--for");
  if (!arguments.kv_cache.empty()) options.kv_cache = parse_kv_cache(arguments.kv_cache);
  if (!arguments.modality_weight.empty())
    options.modality_weight = parse_modality_weight(arguments.modality_weight);
  options.only = arguments.only;
  options.skip = arguments.skip;
  options.force = arguments.force;
  options.dry_run = arguments.dry_run;
  options.max_shard_bytes = arguments.max_shard_bytes;
  options.device = arguments.compute.resolve_device();
  if (!arguments.calibration.data.empty() && arguments.calibration.data != "none")
    options.calibration = arguments.calibration.options();
  options.statistics = arguments.statistics;
  if (options.out.empty() && !arguments.dry_run) fail("--out is missing: the directory to write");

  const Checkpoint checkpoint(options.checkpoint);
  require_original(checkpoint);
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
  if (arguments.mix.given()) {
    if (!known)
      fail("{}: visq does not know this architecture, and scores come from running it", arguments.mix.name());
    options = arguments.mix.search(*model, options, /*print=*/!arguments.json);
  }
  std::optional<QuantizeToFormat> to_format;
  if (const ModelFormat* const format = find_model_format(arguments.layout)) {
    if (!known) fail("--layout {}: visq does not know this architecture", arguments.layout);
    to_format.emplace(*format, arguments.sharding, options);
  } else if (arguments.sharding.tensor_parallel != 1 || arguments.sharding.pipeline_parallel != 1) {
    fail("--tp, --pp: only --layout tensorrt-llm is different for several GPUs");
  }
  const std::vector<Plan> plans = known ? make_plans(*model, options) : make_plans(checkpoint, options);
  if (!arguments.save_recipe.empty()) save_recipe(arguments.save_recipe, plans);
  if (to_format) to_format->check(*model, plans);
  if (arguments.dry_run) {
    for (const Plan& plan : plans)
      visq::print("{}{}", describe_plan(plan), to_format ? to_format->describe() : "");
    return;
  }
  QuantizeResult result = known ? quantize(*model, plans, options) : quantize(checkpoint, plans, options);
  if (to_format) to_format->convert(result);
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
      .add_option(
          "-f,--format", arguments->formats,
          "formats (visq formats lists them) or recipes (files that end in .yaml), separated by commas")
      .required();
  command.add_option(
      "-o,--out", arguments->out,
      "directory to write; with several formats, DIR/FORMAT for each, unless a budget mixes them");
  arguments->mix.add_to(command);
  const auto calibration = arguments->calibration.add_to(command, "; 'none' for weight-only rounding");
  CommandOption statistics = command.add_option(
      "--stats", arguments->statistics,
      "directory of visq calibrate (or visq stats merge), in place of calibration samples");
  for (const CommandOption& option : calibration) statistics.excludes(option);
  command.add_option(
      "--kv-cache", arguments->kv_cache,
      visq::format("format of the KV cache: {}; default: fp8, but none without --calib and a format that "
                   "needs it",
                   kv_cache_names()));
  command.add_option("--modality-weight", arguments->modality_weight,
                     "how much an image token counts beside a text token in what solvers minimise: a number, "
                     "or auto (by how much answers depend on either); default: 1");
  command
      .add_option("--layout", arguments->layout,
                  "auto (the one that most engines read), modelopt, compressed-tensors, hf-fp8, "
                  "bitsandbytes, autoawq, gptq, or a model format: tensorrt-llm, gguf")
      .show_default();
  command.add_option("--for", arguments->engines,
                     "engines that shall load the output, separated by commas (vllm, sglang, tensorrt-llm): "
                     "chooses a layout that all of them read, and refuses what they would not load");
  add_sharding(command, arguments->sharding);
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
  command.add_option("--save-recipe", arguments->save_recipe,
                     "file that takes down the recipe of this run: rules, solvers, KV cache, --only, --skip");
  command.add_flag("--dry-run", arguments->dry_run, "print the plan and stop");
  command.add_flag("--force", arguments->force, "replace an output directory that exists");
  command.add_flag("--json", arguments->json, "the summary as JSON");
  arguments->compute.add_to(command);
  command.set_footer(
      "Examples:\n  visq quantize Qwen2.5-VL-7B-Instruct --format nvfp4,int4_awq --calib samples.jsonl --out "
      "quantized\n  visq quantize Qwen2.5-VL-7B-Instruct --format nvfp4,fp8 --bits 5.2 --calib samples.jsonl "
      "--out mixed");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

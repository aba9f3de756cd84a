#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/core/format.h"
#include "visq/core/text.h"
#include "visq/eval/runner.h"
#include "visq/pipeline/statistics_directory.h"

namespace visq {
namespace {

struct Arguments {
  std::string model, out;
  bool no_gram = false, merge_vision_adapter = false, force = false, json = false;
  CalibrationArguments calibration;
  ComputeOptions compute;
};

struct MergeArguments {
  std::vector<std::string> directories;
  std::string out;
  bool force = false, json = false;
};

void print_result(const StatisticsResult& result, const std::string& directory, bool json) {
  const StatisticsManifest& manifest = result.manifest;
  if (json) {
    const Json output = {{"directory", directory},
                         {"model", manifest.model},
                         {"layers", manifest.layers.size()},
                         {"gram", manifest.gram},
                         {"samples", manifest.samples},
                         {"samples_left_out", manifest.samples_left_out},
                         {"text_tokens", manifest.text_tokens},
                         {"image_tokens", manifest.image_tokens},
                         {"bytes", result.bytes},
                         {"seconds", result.seconds},
                         {"peak_resident_bytes", result.peak_resident}};
    visq::print("{}\n", json_text(output, 2));
    return;
  }
  visq::print(
      "{}: statistics of {} decoder layers{}, {}\n"
      "{} samples: {} text and {} image tokens\n"
      "{:.1f} s, peak memory {}\n",
      directory, manifest.layers.size(), manifest.gram ? "" : " without Gram matrices",
      human_bytes(result.bytes), manifest.samples, manifest.text_tokens, manifest.image_tokens,
      result.seconds, human_bytes(static_cast<uint64_t>(result.peak_resident)));
}

void run(const Arguments& arguments) {
  CalibrateOptions options;
  options.calibration = arguments.calibration.options();
  options.out = arguments.out;
  options.image_profile = arguments.compute.image_profile;
  options.with_gram = !arguments.no_gram;
  options.force = arguments.force;
  const at::Device device = arguments.compute.resolve_device();
  const Checkpoint checkpoint(arguments.model);
  require_original(checkpoint);
  Model model(checkpoint, device, compute_dtype(arguments.compute.resolve_dtype(), device, checkpoint),
              Model::LinearLoader(), arguments.compute.resolve_image_profile());
  if (arguments.merge_vision_adapter) model.merge_image_adapter();
  print_result(calibrate(model, options), arguments.out, arguments.json);
}

void add_merge_command(Command& stats) {
  auto arguments = std::make_shared<MergeArguments>();
  Command command = stats.add_command("merge", "adds statistics up, as if calibrated on all of their data");
  command.add_option("directories", arguments->directories, "directories of visq calibrate, of one model")
      .required();
  command.add_option("-o,--out", arguments->out, "directory to write").required();
  command.add_flag("--force", arguments->force, "replace an output directory that exists");
  command.add_flag("--json", arguments->json, "the summary as JSON");
  command.on_run([arguments] {
    const std::vector<std::filesystem::path> directories(arguments->directories.begin(),
                                                         arguments->directories.end());
    print_result(merge_statistics(directories, arguments->out, arguments->force), arguments->out,
                 arguments->json);
  });
}

}  // namespace

void add_calibrate_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("calibrate", "gathers statistics on disk, for quantize --stats to any format");
  command.add_option("model", arguments->model, "checkpoint directory").required();
  arguments->calibration.add_to(command).front().required();
  command.add_option("-o,--out", arguments->out, "directory to write").required();
  command.add_flag("--no-gram", arguments->no_gram,
                   "leave out the Gram matrices, which are most of the bytes: for formats without AWQ, GPTQ "
                   "and searches by output error");
  command.add_flag("--merge-vision-adapter", arguments->merge_vision_adapter,
                   "as in visq quantize, which then wants it too");
  command.add_flag("--force", arguments->force, "replace an output directory that exists");
  command.add_flag("--json", arguments->json, "the summary as JSON");
  arguments->compute.add_to(command);
  command.set_footer(
      "Example:\n  visq calibrate MODEL --calib samples.jsonl --out stats\n  visq quantize MODEL --stats "
      "stats "
      "--format nvfp4 --out quantized");
  command.on_run([arguments] { run(*arguments); });
}

void add_stats_command(Command& program) {
  Command command = program.add_command("stats", "statistics of visq calibrate");
  command.require_command();
  add_merge_command(command);
}

}  // namespace visq

#include "visq/cli/options.h"

#include "visq/core/error.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/export/quantized_checkpoint.h"

namespace visq {

void ComputeOptions::add_to(Command& command) {
  command.add_option("--device", device, "where to compute: auto (a GPU when there is one), cpu, cuda")
      .show_default();
  command
      .add_option("--dtype", dtype,
                  "of the forward pass: auto (float32 on a CPU, the checkpoint's on a GPU), float32, "
                  "bfloat16, float16")
      .show_default();
  command.add_option("--threads", threads, "CPU threads; 0: one a core. Results do not depend on it")
      .between(0, 4096);
  command
      .add_option(
          "--image-profile", image_profile,
          "whose pixels to reproduce: tv (the reference with torchvision, its default), pil (without)")
      .show_default();
}

at::Device ComputeOptions::resolve_device() const {
  set_threads(threads);
  return parse_device(device);
}

std::optional<at::ScalarType> ComputeOptions::resolve_dtype() const {
  if (dtype == "auto") return std::nullopt;
  if (dtype == "float32") return at::kFloat;
  if (dtype == "bfloat16") return at::kBFloat16;
  if (dtype == "float16") return at::kHalf;
  fail("--dtype {}: choose auto, float32, bfloat16 or float16", dtype);
}

ImageProfile ComputeOptions::resolve_image_profile() const {
  if (image_profile == "tv") return ImageProfile::tv;
  if (image_profile == "pil") return ImageProfile::pil;
  fail("--image-profile {}: choose tv or pil", image_profile);
}

std::vector<CommandOption> CalibrationArguments::add_to(Command& command, const std::string& more) {
  std::vector<CommandOption> options;
  options.push_back(command.add_option(
      "--calib", data, "calibration samples, JSON lines of chat messages with images" + more));
  options.push_back(
      command.add_option("--samples", samples, "most samples to use; 0: all").show_default().non_negative());
  options.push_back(command
                        .add_option("--seq-len", seq_len,
                                    "longest sample in tokens: texts are cut, samples with images left out")
                        .show_default()
                        .positive());
  options.push_back(
      command.add_flag("--text-only", text_only, "calibration data without images is meant so"));
  return options;
}

void add_sharding(Command& command, Sharding& sharding) {
  command
      .add_option("--tp", sharding.tensor_parallel,
                  "tensorrt-llm: GPUs that share every layer (tensor parallel)")
      .positive();
  command
      .add_option("--pp", sharding.pipeline_parallel,
                  "tensorrt-llm: groups of GPUs that share the layers out (pipeline stages)")
      .positive();
}

void require_original(const Checkpoint& checkpoint) {
  if (!quantization_config_of(checkpoint.text_model()).is_null())
    fail("{}: is quantized already; give the original checkpoint", checkpoint.directory().string());
}

std::vector<std::string> split_list(const std::string& text, const std::string& option) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (;;) {
    const size_t comma = text.find(',', begin);
    parts.push_back(text.substr(begin, comma == std::string::npos ? comma : comma - begin));
    if (parts.back().empty()) fail("{} '{}': an empty name", option, text);
    if (comma == std::string::npos) return parts;
    begin = comma + 1;
  }
}

}  // namespace visq

#include "visq/pipeline/convert.h"

#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/core/parallel.h"
#include "visq/core/text.h"

namespace visq {
namespace {

void print_json(const ConvertResult& result) {
  visq::print("{}\n", json_text({{"format", result.format},
                                 {"from", result.from},
                                 {"to", result.to},
                                 {"linears", result.linears},
                                 {"bytes_before", result.bytes_before},
                                 {"bytes_after", result.bytes_after}},
                                2));
}

}  // namespace

void add_convert_command(Command& program) {
  struct Arguments {
    std::string checkpoint, out, source;
    ConvertOptions options;
    bool json = false;
    int threads = 0;
  };
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("convert", "writes a quantized checkpoint in another layout, number for number");
  command.add_option("checkpoint", arguments->checkpoint, "quantized checkpoint").required();
  command
      .add_option("--to", arguments->options.to,
                  "modelopt, compressed-tensors, hf-fp8, bitsandbytes, autoawq or gptq, or a model format: "
                  "tensorrt-llm, gguf; as far as it holds the number format")
      .required();
  command.add_option("-o,--out", arguments->out, "directory to write").required();
  command
      .add_option("--max-shard-size", arguments->options.max_shard_bytes,
                  "most bytes in one .safetensors file")
      .show_default()
      .positive();
  command.add_option("--source", arguments->source,
                     "of a checkpoint in a model format: the original, for what such a checkpoint lacks");
  add_sharding(command, arguments->options.sharding);
  command.add_flag("--force", arguments->options.force, "replace an output directory that exists");
  command.add_flag("--drop-kv-cache", arguments->options.drop_kv_cache,
                   "leave out the scales of a quantized KV cache, which some layouts have no place for");
  command
      .add_option("--threads", arguments->threads, "CPU threads; 0: one a core. Results do not depend on it")
      .between(0, 4096);
  command.add_flag("--json", arguments->json, "the summary as JSON");
  command.set_footer(
      "Examples:\n  visq convert quantized/nvfp4 --to compressed-tensors --out nvfp4-ct\n"
      "  visq convert quantized/int8_sq --to tensorrt-llm --tp 2 --out int8_sq-trt\n"
      "  visq convert int8_sq-trt --to modelopt --source original --out int8_sq-again");
  command.on_run([arguments] {
    ConvertOptions options = arguments->options;
    options.checkpoint = arguments->checkpoint;
    options.out = arguments->out;
    options.source = arguments->source;
    set_threads(arguments->threads);
    const ConvertResult result = convert(options);
    if (arguments->json) return print_json(result);
    visq::print(
        "{}: {} linears of {} from the {} layout to {}, {} → {}; read back, all numbers are the same\n",
        arguments->out, result.linears, result.format, result.from, result.to,
        human_bytes(result.bytes_before), human_bytes(result.bytes_after));
  });
}

}  // namespace visq

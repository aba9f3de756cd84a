#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/core/error.h"
#include "visq/eval/runner.h"
#include "visq/pipeline/convert_model_format.h"

namespace visq {
namespace {

struct Arguments {
  std::string checkpoint, question, source;
  std::vector<std::string> images, frames;
  double fps = kDefaultFps;
  int64_t max_new_tokens = 128;
  ComputeOptions compute;
};

void run(const Arguments& arguments) {
  const RunnableCheckpoint runnable(arguments.checkpoint, arguments.source);
  const Runner runner(runnable.directory(), arguments.compute.resolve_device(),
                      arguments.compute.resolve_dtype(), arguments.compute.resolve_image_profile());
  Message message{"user", {}};
  for (const std::string& image : arguments.images) {
    if (!std::filesystem::is_regular_file(image)) fail("--image {}: no such file", image);
    message.content.push_back({.kind = ContentPart::Kind::image, .image = image});
  }
  if (!arguments.frames.empty()) {
    ContentPart part{.kind = ContentPart::Kind::video};
    part.video = {{arguments.frames.begin(), arguments.frames.end()}, arguments.fps};
    check_video(part.video, "--video-frames");
    for (const std::filesystem::path& frame : part.video.frames)
      if (!std::filesystem::is_regular_file(frame)) fail("--video-frames {}: no such file", frame.string());
    message.content.push_back(std::move(part));
  }
  message.content.push_back({.text = arguments.question});
  Sample sample;
  sample.messages.push_back(std::move(message));
  sample.origin = "the question";
  const EncodedSample encoded = runner.model().encode(sample, /*with_answer=*/false);
  visq::print("{}\n", runner.generate(std::span(&encoded, 1), arguments.max_new_tokens).front());
}

}  // namespace

void add_generate_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("generate", "answers one question with any checkpoint, quantized or not");
  command.add_option("checkpoint", arguments->checkpoint, "checkpoint directory").required();
  command.add_option("question", arguments->question, "what to ask").required();
  command.add_option("--source", arguments->source,
                     "of a checkpoint in a model format (tensorrt-llm, gguf): the original");
  command.add_option("--image", arguments->images, "picture to ask about (repeatable)");
  command.add_option("--video-frames", arguments->frames, "pictures of a video to ask about, in order");
  command.add_option("--fps", arguments->fps, "frames a second of --video-frames").show_default().positive();
  command.add_option("--max-new-tokens", arguments->max_new_tokens, "longest answer")
      .show_default()
      .positive();
  arguments->compute.add_to(command);
  command.set_footer("Example:\n  visq generate quantized/fp8 --image cat.png \"What is this?\"");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/cli/show_image.h"
#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/eval/score.h"
#include "visq/inputs/image.h"
#include "visq/pipeline/convert_model_format.h"

namespace visq {
namespace {

struct Arguments {
  std::vector<std::string> checkpoints;
  std::string data, against, costs, source;
  int64_t samples = 0, max_new_tokens = 64, show = 0;
  bool json = false;
  ComputeOptions compute;
};

struct Row {
  std::string name;
  std::string format;
  uint64_t bytes = 0;
  Score score;
};

std::string percent(double rate) { return visq::format("{:.1f} %", 100 * rate); }

Row evaluate(const std::string& directory, const Runner& runner, const Evaluation& evaluation) {
  const auto& quantized = runner.quantized();
  return {directory, quantized ? quantized->format_name() : "original", runner.checkpoint().total_bytes(),
          evaluation.score(runner)};
}

// What `quantize --json` said of a format; null when it said nothing.
Json cost_of(const Json& costs, const std::string& format) {
  if (costs.is_object() && costs.contains("formats"))
    for (const Json& entry : costs.at("formats"))
      if (entry.value("format", "") == format) return entry;
  return nullptr;
}

void print_table(const std::vector<Row>& rows, const Json& costs) {
  std::vector<std::vector<std::string>> table = {{"format", "size", "smaller", "accuracy", "perplexity"}};
  const bool compared = rows.back().score.mean_kl.has_value();
  if (compared) table[0].insert(table[0].end(), {"mean KL", "same top token"});
  if (!costs.is_null()) table[0].insert(table[0].end(), {"time", "peak memory"});
  for (const Row& row : rows) {
    table.push_back(
        {row.format, human_bytes(row.bytes),
         visq::format("{:.2f}×", static_cast<double>(rows.front().bytes) / static_cast<double>(row.bytes)),
         percent(row.score.accuracy.rate()), visq::format("{:.4f}", row.score.perplexity)});
    if (compared) {
      table.back().push_back(row.score.mean_kl ? visq::format("{:.6f}", *row.score.mean_kl) : "–");
      table.back().push_back(row.score.top1_agreement ? percent(*row.score.top1_agreement) : "–");
    }
    if (costs.is_null()) continue;
    const Json cost = cost_of(costs, row.format);
    table.back().push_back(cost.is_null() ? "–" : visq::format("{:.2f} s", cost.value("seconds", 0.0)));
    table.back().push_back(cost.is_null() ? "–"
                                          : human_bytes(costs.value("peak_resident_bytes", uint64_t{0})));
  }
  visq::print("{}", format_table(table, {1, 2, 3, 4, 5, 6, 7, 8}));
  if (!costs.is_null())
    visq::print("  and {:.1f} s of calibration, once for all formats\n",
                costs.value("calibration", Json::object()).value("seconds", 0.0));

  std::vector<std::vector<std::string>> categories = {{"accuracy by category"}};
  for (const Row& row : rows) categories[0].push_back(row.format);
  for (const auto& [category, unused] : rows.front().score.per_category) {
    categories.push_back({category.empty() ? "(none)" : category});
    for (const Row& row : rows)
      categories.back().push_back(percent(row.score.per_category.at(category).rate()));
  }
  std::vector<size_t> right;
  for (size_t i = 1; i <= rows.size(); ++i) right.push_back(i);
  visq::print("\n{}", format_table(categories, right));
}

void show_samples(const std::vector<Row>& rows, const Evaluation& evaluation, int64_t count) {
  int64_t shown = 0;
  for (size_t i = 0; i < evaluation.samples().size() && shown < count; ++i) {
    const Sample& sample = evaluation.samples()[i];
    if (sample.image_count() == 0) continue;
    // One sample of each category first: the most varied picture of what the model does.
    bool seen = false;
    for (size_t j = 0; j < i; ++j) seen |= evaluation.samples()[j].category == sample.category;
    if (seen) continue;
    ++shown;
    std::string question;
    for (const Message& message : sample.messages)
      for (const ContentPart& part : message.content) {
        if (part.kind == ContentPart::Kind::image) visq::print("\n{}", image_as_text(read_image(part.image)));
        if (part.kind == ContentPart::Kind::video)
          visq::print("\n{}", image_as_text(read_image(part.video.frames.front())));
        question += part.text;
      }
    visq::print("  {}   (expected: {})\n", question, *sample.answer);
    for (const Row& row : rows) visq::print("    {:<10} {}\n", row.format, row.score.answers[i]);
  }
}

// What a checkpoint was made of is what it is compared with, unless something else is said.
const std::string& source_of(const Arguments& arguments) {
  return arguments.source.empty() ? arguments.against : arguments.source;
}

void run(const Arguments& arguments) {
  const at::Device device = arguments.compute.resolve_device();
  const auto dtype = arguments.compute.resolve_dtype();
  const ImageProfile images = arguments.compute.resolve_image_profile();
  Evaluation evaluation(read_samples(arguments.data, arguments.samples), arguments.max_new_tokens);
  std::vector<Row> rows;
  std::optional<Runner> reference;
  if (!arguments.against.empty()) {
    reference.emplace(arguments.against, device, dtype, images);
    rows.push_back(evaluate(arguments.against, *reference, evaluation));
    evaluation.set_reference(*reference);
  }
  for (const std::string& directory : arguments.checkpoints) {
    const RunnableCheckpoint runnable(directory, source_of(arguments));
    const Runner runner(runnable.directory(), device, dtype, images);
    rows.push_back(evaluate(directory, runner, evaluation));
    if (const auto& restored =
            runnable.restored()) {  // what is run is stored in another way than what is there
      rows.back().bytes = restored->bytes_before + restored->bytes_from_source;
      if (restored->dequantized) rows.back().format = restored->format;
    }
  }
  if (arguments.json) {
    Json json = Json::array();
    for (const Row& row : rows) {
      Json entry = {{"checkpoint", row.name}, {"format", row.format}, {"bytes", row.bytes}};
      entry.update(score_json(row.score));
      if (arguments.show > 0) {
        entry["answers"] = row.score.answers;
        if (!row.score.kl.empty()) entry["kl"] = row.score.kl;
      }
      json.push_back(std::move(entry));
    }
    visq::print("{}\n", json_text(json, 2));
    return;
  }
  print_table(rows, arguments.costs.empty() ? Json(nullptr) : read_json(arguments.costs));
  show_samples(rows, evaluation, arguments.show);
}

}  // namespace

void add_eval_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command = program.add_command(
      "eval", "scores checkpoints, original or quantized, on questions with reference answers");
  command.add_option("checkpoints", arguments->checkpoints, "one or several checkpoint directories")
      .required();
  command
      .add_option("--data", arguments->data,
                  "questions, JSON lines of chat messages that end with the reference answer")
      .required();
  command.add_option("--against", arguments->against,
                     "the original checkpoint: adds KL divergence and top-1 agreement");
  command.add_option(
      "--source", arguments->source,
      "of checkpoints in a model format (tensorrt-llm, gguf): the original; default: --against");
  command.add_option("--costs", arguments->costs,
                     "what `visq quantize --json` printed: adds its time and memory to the table");
  command.add_option("--samples", arguments->samples, "most questions to use; 0: all").non_negative();
  command.add_option("--max-new-tokens", arguments->max_new_tokens, "longest answer")
      .show_default()
      .positive();
  command
      .add_option("--show", arguments->show,
                  "shows so many pictured questions with all answers (with --json: answers and KL of all)")
      .non_negative();
  command.add_flag("--json", arguments->json, "results as JSON");
  arguments->compute.add_to(command);
  command.set_footer(
      "Example:\n  visq eval quantized/fp8 quantized/nvfp4 --against original --data questions.jsonl");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

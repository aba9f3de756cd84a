#include "visq/cli/commands.h"
#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/export/validate.h"

namespace visq {
namespace {

constexpr size_t kShownViolations = 5;  // per rule; --json has all

struct Arguments {
  std::string output, source;
  std::vector<std::string> engines;
  bool json = false;
};

void print_rules(const Validation& validation) {
  for (const RuleResult& rule : validation.rules) {
    const char* verdict = !rule.violations.empty() ? "FAIL" : !rule.skipped.empty() ? "skip" : "ok";
    visq::print("  {:<3} {:<4}  {}", rule.id, verdict, rule.description);
    if (!rule.skipped.empty() && rule.violations.empty())
      visq::print(" – {}\n", rule.skipped);
    else
      visq::print(" ({} checked)\n", rule.checked);
    for (size_t i = 0; i < rule.violations.size() && i < kShownViolations; ++i)
      visq::print("              {}\n", rule.violations[i]);
    if (rule.violations.size() > kShownViolations)
      visq::print("              … and {} more\n", rule.violations.size() - kShownViolations);
  }
}

void run(const Arguments& arguments) {
  const Checkpoint output(arguments.output);
  std::optional<Checkpoint> source;
  if (!arguments.source.empty()) source.emplace(arguments.source);
  const auto quantized = QuantizedCheckpoint::open(output);
  if (!quantized) fail("{}: is not quantized: config.json has no quantization_config", arguments.output);
  std::vector<Engine> engines;
  const auto names = arguments.engines.empty() ? quantized->engines() : arguments.engines;
  for (const std::string& name : names) engines.push_back(parse_engine(name));

  const Validation validation = validate(output, source ? &*source : nullptr, engines);
  if (arguments.json) {
    Json json = {{"passed", validation.passed()}, {"engines", names}};
    for (const RuleResult& rule : validation.rules)
      json["rules"].push_back({{"id", rule.id},
                               {"description", rule.description},
                               {"checked", rule.checked},
                               {"violations", rule.violations},
                               {"skipped", rule.skipped}});
    visq::print("{}\n", json_text(json, 2));
  } else {
    visq::print("{}: {} in the {} layout, for {}\n", arguments.output, quantized->format_name(),
                quantized->layout().name(),
                names.empty() ? "no engine" : visq::format("{}", fmt::join(names, ", ")));
    print_rules(validation);
    visq::print("{}\n", validation.passed() ? "passed" : "FAILED");
  }
  if (!validation.passed()) throw ExitCode{1};
}

}  // namespace

void add_check_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("check", "checks a quantized checkpoint against the rules of the engines");
  command.add_option("checkpoint", arguments->output, "quantized checkpoint directory").required();
  command.add_option("--source", arguments->source, "the original: adds byte, shape and value comparisons");
  command.add_option("--for", arguments->engines,
                     "vllm, sglang or tensorrt-llm (repeatable); default: all that read the format");
  command.add_flag("--json", arguments->json, "all findings as JSON");
  command.set_footer(
      "Exit code 1 when a rule is violated.\nExample:\n  visq check quantized/nvfp4 --source original --for "
      "vllm");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

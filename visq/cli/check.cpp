#include "visq/cli/commands.h"
#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/export/validate.h"

namespace visq {
namespace {

constexpr size_t kShownViolations = 5;  // per rule; --json has all

struct Arguments {
  std::vector<std::string> outputs;
  std::string source;
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

Json validation_json(const std::string& directory, const Validation& validation,
                     const std::vector<std::string>& engines) {
  Json json = {{"checkpoint", directory}, {"passed", validation.passed()}, {"engines", engines}};
  for (const RuleResult& rule : validation.rules)
    json["rules"].push_back({{"id", rule.id},
                             {"description", rule.description},
                             {"checked", rule.checked},
                             {"violations", rule.violations},
                             {"skipped", rule.skipped}});
  return json;
}

void run(const Arguments& arguments) {
  std::optional<Checkpoint> source;
  if (!arguments.source.empty()) source.emplace(arguments.source);
  Json all = Json::array();
  bool passed = true;
  for (const std::string& directory : arguments.outputs) {
    const Checkpoint output(directory);
    const auto quantized = QuantizedCheckpoint::open(output);
    if (!quantized) fail("{}: is not quantized: config.json has no quantization_config", directory);
    const auto names = arguments.engines.empty() ? quantized->engines() : arguments.engines;
    std::vector<Engine> engines;
    for (const std::string& name : names) engines.push_back(parse_engine(name));

    const Validation validation = validate(output, source ? &*source : nullptr, engines);
    passed &= validation.passed();
    if (arguments.json) {
      all.push_back(validation_json(directory, validation, names));
      continue;
    }
    visq::print("{}: {} in the {} layout, for {}\n", directory, quantized->format_name(),
                quantized->layout().name(),
                names.empty() ? "no engine" : visq::format("{}", fmt::join(names, ", ")));
    print_rules(validation);
    visq::print("{}\n", validation.passed() ? "passed" : "FAILED");
  }
  if (arguments.json) visq::print("{}\n", json_text(all.size() == 1 ? all.front() : all, 2));
  if (!passed) throw ExitCode{1};
}

}  // namespace

void add_check_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("check", "checks quantized checkpoints against the rules of the engines");
  command.add_option("checkpoints", arguments->outputs, "one or several quantized checkpoint directories")
      .required();
  command.add_option("--source", arguments->source, "the original: adds byte, shape and value comparisons");
  command.add_option("--for", arguments->engines,
                     "vllm, sglang or tensorrt-llm (repeatable); default: all that read the format");
  command.add_flag("--json", arguments->json,
                   "all findings as JSON; a list where there are several checkpoints");
  command.set_footer(
      "Exit code 1 when a rule is violated.\nExample:\n  visq check quantized/nvfp4 --source original --for "
      "vllm");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

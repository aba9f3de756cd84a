#include <fmt/ranges.h>

#include <map>

#include "visq/cli/commands.h"
#include "visq/cli/options.h"
#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/export/model_format.h"
#include "visq/export/validate.h"
#include "visq/pipeline/validate_model_format.h"

namespace visq {
namespace {

constexpr size_t kShownFindings = 8;  // per rule; --json has all

struct Arguments {
  std::vector<std::string> outputs;
  std::string source;
  std::vector<std::string> engines;
  bool json = false;
};

/// Without its numbers: what is wrong with one layer is wrong with many.
std::string without_numbers(const std::string& line) {
  std::string text;
  for (const char c : line)
    if (c < '0' || c > '9') text += c;
  return text;
}

void print_findings(const RuleResult& rule) {
  std::vector<std::pair<std::string, size_t>> lines;  // alike ones together
  std::map<std::string, size_t> known;
  for (const Finding& finding : rule.findings) {
    const std::string line = (finding.warning ? "warning: " : "") + finding.line();
    const auto [found, fresh] = known.emplace(without_numbers(line), lines.size());
    if (fresh) lines.emplace_back(line, 0);
    ++lines[found->second].second;
  }
  for (size_t i = 0; i < lines.size() && i < kShownFindings; ++i)
    visq::print("              {}{}\n", lines[i].first,
                lines[i].second > 1 ? visq::format(" (and {} more like this)", lines[i].second - 1) : "");
  if (lines.size() > kShownFindings)
    visq::print("              … and {} more\n", lines.size() - kShownFindings);
}

void print_rules(const Validation& validation) {
  for (const RuleResult& rule : validation.rules) {
    const bool skipped = !rule.skipped.empty() && rule.findings.empty();
    const char* verdict = rule.failed() ? "FAIL" : !rule.findings.empty() ? "warn" : skipped ? "skip" : "ok";
    visq::print("  {:<3} {:<4}  {}", rule.id, verdict, rule.description);
    if (skipped)
      visq::print(" – {}\n", rule.skipped);
    else
      visq::print(" ({} checked)\n", rule.checked);
    print_findings(rule);
  }
}

Json validation_json(const std::string& directory, const Validation& validation) {
  Json json = {{"checkpoint", directory},
               {"passed", validation.passed()},
               {"format", validation.format},
               {"layout", validation.layout},
               {"engines", validation.engines}};
  for (const RuleResult& rule : validation.rules) {
    Json violations = Json::array(), findings = Json::array();
    for (const Finding& finding : rule.findings) {
      if (!finding.warning) violations.push_back(finding.line());
      findings.push_back({{"rule", finding.rule},
                          {"engine", finding.engine},
                          {"what", finding.what},
                          {"fix", finding.fix},
                          {"severity", finding.warning ? "warning" : "error"}});
    }
    json["rules"].push_back({{"id", rule.id},
                             {"description", rule.description},
                             {"checked", rule.checked},
                             {"violations", violations},
                             {"findings", findings},
                             {"skipped", rule.skipped}});
  }
  return json;
}

void run(const Arguments& arguments) {
  std::optional<Checkpoint> source;
  if (!arguments.source.empty()) source.emplace(arguments.source);
  std::vector<const EngineModel*> engines;
  for (const std::string& list : arguments.engines)
    for (const std::string& name : split_list(list, "--for")) engines.push_back(&find_engine(name));
  Json all = Json::array();
  bool passed = true, absent = false;
  for (const std::string& directory : arguments.outputs) {
    std::optional<Validation> found;
    const ModelFormat* format = nullptr;
    try {
      format = model_format_at(directory);
      if (format != nullptr && !source)
        fail(
            "{}: is a checkpoint of {}: say with --source which model it was made of, and its files and "
            "numbers are judged by that",
            directory, format->name());
      found = format != nullptr ? validate_model_format(*format, directory, *source, engines)
                                : validate(directory, source ? &*source : nullptr, engines);
    } catch (const Error& error) {  // no checkpoint; the others are checked all the same
      visq::print(stderr, "error: {}\n", error.what());
      all.push_back({{"checkpoint", directory}, {"passed", false}, {"error", error.what()}});
      absent = true;
      continue;
    }
    const Validation& validation = *found;
    passed &= validation.passed();
    if (arguments.json) {
      all.push_back(validation_json(directory, validation));
      continue;
    }
    const std::string format_name = validation.format.empty() ? "" : validation.format + " ";
    const std::string what = validation.layout.empty()
                                 ? "not a format that visq reads"
                                 : visq::format("{}in the {} layout", format_name, validation.layout);
    std::string readers = visq::format(", for {}", fmt::join(validation.engines, ", "));
    if (validation.engines.empty()) readers = format != nullptr ? "" : ", for no engine";
    visq::print("{}: {}{}\n", directory, what, readers);
    print_rules(validation);
    visq::print("{}\n", validation.passed() ? "passed" : "FAILED");
  }
  if (arguments.json) visq::print("{}\n", json_text(all.size() == 1 ? all.front() : all, 2));
  if (absent) throw ExitCode{2};
  if (!passed) throw ExitCode{1};
}

}  // namespace

void add_check_command(Command& program) {
  auto arguments = std::make_shared<Arguments>();
  Command command =
      program.add_command("check", "would engines load these checkpoints, and if not, why and what to do");
  command
      .add_option("checkpoints", arguments->outputs,
                  "one or several checkpoint directories, visq's or anyone's")
      .required();
  command.add_option("--source", arguments->source,
                     "the original: adds byte, shape and value comparisons; TensorRT-LLM's checkpoints and "
                     "GGUF files need it");
  command.add_option("--for", arguments->engines,
                     "vllm, sglang, tensorrt-llm, or several with commas; default: all that read the format");
  command.add_flag("--json", arguments->json,
                   "all findings as JSON; a list where there are several checkpoints");
  command.set_footer(
      "Exit code 1 when a rule is violated (warnings aside), 2 when there is no checkpoint. Nothing that\n"
      "cannot be read stops it: that is a finding too. docs/check.md lists the rules.\nExample:\n  visq "
      "check quantized/nvfp4 --source original --for "
      "vllm");
  command.on_run([arguments] { run(*arguments); });
}

}  // namespace visq

#include "visq/pipeline/validate_model_format.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/pipeline/convert_model_format.h"

namespace visq {

Validation validate_model_format(const ModelFormat& format, const std::filesystem::path& checkpoint,
                                 const Checkpoint& source, const std::vector<const EngineModel*>& engines) {
  Validation validation;
  validation.layout = format.name();
  RuleResult files = {"A9", "the files are sound, and of the source's model", 1, {}, ""};
  for (const EngineModel* engine : engines) {
    validation.engines.push_back(engine->name);
    if (engine->name != format.name())
      files.findings.push_back({files.id, engine->name,
                                visq::format("does not read checkpoints of {}", format.name()),
                                "visq convert --to a layout that it reads (visq engines)"});
  }
  std::optional<RunnableCheckpoint> restored;
  try {
    // A layout that the rules know: what GGUF is quantized to on the way is of visq's own.
    restored.emplace(checkpoint, source.directory(),
                     format.stage() != nullptr ? "compressed-tensors" : "auto");
  } catch (const Error& error) {
    files.findings.push_back({files.id, "", error.what(), "write it again"});
  }
  validation.rules.push_back(std::move(files));
  if (!restored) return validation;
  if (restored->restored()->dequantized) {
    validation.format = restored->restored()->format;
    validation.rules.push_back(
        {"E1", "dequantized weights are the source's", 0, {}, "their blocks are of no format that visq has"});
    return validation;
  }
  Validation numbers = validate(restored->directory(), &source, {});
  validation.format = numbers.format;
  std::ranges::copy_if(numbers.rules, std::back_inserter(validation.rules), [](const RuleResult& rule) {
    return rule.id.front() == 'C' || rule.id.front() == 'D' || rule.id.front() == 'E';
  });
  return validation;
}

}  // namespace visq

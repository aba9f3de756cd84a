// Would the engines load it, and is it what its source says? The invariants of spec/export.md §8, A to E.
#pragma once
#include <string>
#include <vector>

#include "visq/export/engines.h"
#include "visq/export/quantized_checkpoint.h"

namespace visq {

/// One rule, with everything it found wrong.
struct RuleResult {
  std::string id;           ///< "A2"
  std::string description;  ///< "config.json is the source's, plus quantization_config"
  int64_t checked = 0;      ///< how many things were looked at
  std::vector<std::string> violations;
  std::string skipped;  ///< why the rule could not be applied; empty when it was
};

struct Validation {
  std::vector<RuleResult> rules;
  bool passed() const;
};

/// Modules with a matrix, by their names in the files, embeddings aside; stacked experts one by one.
std::vector<std::string> linear_modules(const Checkpoint& checkpoint);

/// Whether no other linear reads a module's input: o_proj, down_proj, and the queries of cross-attention.
bool reads_alone(const std::string& module);

/// @param source   the original checkpoint; null: rules that compare with it are skipped
/// @param engines  which engines the checkpoint is meant for
Validation validate(const Checkpoint& output, const Checkpoint* source, const std::vector<Engine>& engines);

}  // namespace visq

// Would the engines load it, and is it what its source says? The invariants of spec/export.md §8, and what
// published checkpoints failed at (docs/check.md).
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "visq/export/engines.h"
#include "visq/export/quantized_checkpoint.h"

namespace visq {

/// One thing that is wrong.
struct Finding {
  std::string rule;    ///< "B4"
  std::string engine;  ///< whose loader stumbles over it; "": any
  std::string what, fix;
  bool warning = false;  ///< loads, or may load, but not everywhere or not well: does not fail the check

  /// "vllm: 'lm_head' is quantized (U8), but 'lm_head' of ignore covers it: remove the entry, or store …"
  std::string line() const;
};

/// One rule, with everything it found.
struct RuleResult {
  std::string id;           ///< "A2"
  std::string description;  ///< "config.json is the source's, plus quantization_config"
  int64_t checked = 0;      ///< how many things were looked at
  std::vector<Finding> findings;
  std::string skipped;  ///< why the rule could not be applied; empty when it was

  /// Whether anything but warnings was found.
  bool failed() const;
};

struct Validation {
  std::string format, layout;        ///< for people; "": the configuration does not say, or not readably
  std::vector<std::string> engines;  ///< that the rules were applied for
  std::vector<RuleResult> rules;
  bool passed() const;
};

/// Modules with a matrix, by their names in the files, embeddings aside; stacked experts one by one.
std::vector<std::string> linear_modules(const Checkpoint& checkpoint);

/// Whether no other linear reads a module's input: o_proj, down_proj, and the queries of cross-attention.
bool reads_alone(const std::string& module);

/// Whatever can be judged of a directory: what cannot be read is a finding too.
/// @param source   the original checkpoint; null: rules that compare with it are skipped
/// @param engines  which engines the checkpoint is meant for; empty: all that read its format
/// @throws Error   when there is no such directory, or no config.json in it
Validation validate(const std::filesystem::path& directory, const Checkpoint* source,
                    const std::vector<const EngineModel*>& engines);

}  // namespace visq

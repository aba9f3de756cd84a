// What the serving engines' loaders make of a checkpoint (spec/export.md §7): which modules an exclude list
// covers, and what would not load.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/export/engine_model.h"
#include "visq/io/checkpoint.h"

namespace visq {

/// An exclude list as an engine understands it. Keeps a reference to the engine.
class ExcludeList {
 public:
  /// @param layout      a layout's name that the engine reads
  /// @param entries     as written in the configuration
  /// @param model_type  config.json's
  ExcludeList(const EngineModel& engine, const std::string& layout, std::vector<std::string> entries,
              const std::string& model_type);

  /// Whether `module`, as named in the files, is then not quantized.
  /// @throws Error when an entry is an expression that cannot be judged
  bool covers(const std::string& module) const;
  /// Whether a module that is quantized, or not, in the files is taken for that.
  bool agrees(const std::string& module, bool quantized) const;

 private:
  const EngineModel* engine_;
  const EngineLayout* layout_;
  const EngineNames* names_;
  std::vector<std::string> entries_;  // as the engine renames them
};

/// A checkpoint as an engine meets it: one on disk, or one that is planned.
struct ServedModel {
  struct Linear {
    std::string module;            ///< in its part's files
    std::optional<Scheme> scheme;  ///< empty: not quantized
    int64_t rows = 0, columns = 0;
  };
  std::string architecture, model_type;  ///< config.json's
  std::string layout;
  std::vector<std::string> exclude;
  std::string exclude_key;      ///< what the configuration calls the list
  std::vector<Scheme> schemes;  ///< of the linears, none stored like another
  KvCacheFormat kv_cache = KvCacheFormat::none;
  std::vector<Linear> linears;
};

struct EngineFinding {
  std::string what, fix;
  bool warning = false;     ///< it may load
  std::string linear = {};  ///< that would be taken for what it is not; "": it is about the whole model
};

/// What is wrong with an architecture of config.json, apart from how it is quantized; empty: nothing known.
std::optional<EngineFinding> judge_architecture(const EngineModel& engine, const std::string& architecture);

/// As its part's own files and engines have them.
std::vector<std::string> text_model_tensors(const Checkpoint& checkpoint);

/// What the engine's loader would stop at among tensors of these names; empty: nothing known.
std::optional<EngineFinding> judge_names(const EngineModel& engine, const std::string& model_type,
                                         const std::vector<std::string>& names);

/// Everything that an engine's loader would refuse, or take for what it is not.
std::vector<EngineFinding> judge(const EngineModel& engine, const ServedModel& model);

}  // namespace visq

// From the spelling of a checkpoint to the canonical one and back.
#pragma once
#include <string>
#include <unordered_map>
#include <vector>

#include "visq/families/family.h"
#include "visq/io/checkpoint.h"

namespace visq {

/// Tensor names of one checkpoint: canonical ↔ as in the files (spec/models-llava-vila-qwen.md §2).
class NameMap {
 public:
  /// @throws Error when two tensors of the files get the same canonical name
  NameMap(const ModelSpec& spec, const Checkpoint& checkpoint);
  /// Name in the files, or "" when absent.
  std::string source(const std::string& canonical) const;
  /// Module name in the files, "" when no tensor lies directly in it.
  std::string source_module(const std::string& canonical) const;
  /// Module name in the files of a decoder linear ("" when absent), e.g.
  /// "language_model.model.layers.0.self_attn.q_proj".
  std::string module(const ModelSpec& spec, int64_t layer, const nn::LinearId& id) const;
  /// The router of a sparse layer, e.g. "model.language_model.layers.0.mlp.gate".
  std::string router(const ModelSpec& spec, int64_t layer) const;
  /// The attention module of a layer, e.g. "language_model.model.layers.0.self_attn".
  std::string attention(const ModelSpec& spec, int64_t layer) const;
  static std::string canonical(const ModelSpec& spec, const std::string& source_name);

 private:
  std::unordered_map<std::string, std::string> source_of_, module_of_;  // canonical → in the files
};

}  // namespace visq

// The language model of a checkpoint under the names, keys and arrangements that llama.cpp has for its
// architecture. Source: spec/export.md §6.4; the Python package `gguf` (constants, tensor_mapping).
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "visq/export/gguf_format.h"
#include "visq/families/model.h"

namespace visq {

/// A tensor of a GGUF file and what it is made of.
struct GgufTextTensor {
  std::string name;            ///< "blk.0.attn_q.weight"
  std::string source;          ///< in the checkpoint: "…layers.0.self_attn.q_proj.weight"; "": made up
  std::vector<int64_t> shape;  ///< rows first
  std::optional<nn::LinearId> linear = std::nullopt;  ///< of a decoder linear's weight, and its layer
  int64_t layer = -1;
  int64_t permuted_heads = 0;  ///< >0: the halves of each of so many heads are interleaved
  bool plus_one = false;       ///< stored with 1 added (norms of Gemma)
  at::Tensor made_up = {};     ///< f32

  /// "blk.0.attn_q.scale": what llama.cpp multiplies with a linear, where the type has no place for it.
  std::string scale_name() const { return beside("scale"); }
  std::string input_scale_name() const { return beside("input_scale"); }

 private:
  std::string beside(const char* what) const { return name.substr(0, name.rfind('.') + 1) + what; }
};

class GgufTextModel {
 public:
  /// @param model  may be quantized
  /// @throws Error when llama.cpp has no architecture that computes what the model does: naming the
  /// difference
  explicit GgufTextModel(const Model& model);

  const std::string& architecture() const { return architecture_; }  ///< "llama"
  const std::vector<GgufTextTensor>& tensors() const { return tensors_; }
  /// Hyperparameters, "llama.context_length" and so on; without general.* and tokenizer.*.
  const GgufMetadata& metadata() const { return metadata_; }
  /// What llama.cpp does otherwise, for a warning; "": nothing.
  const std::string& caveat() const { return caveat_; }

 private:
  void check() const;
  void add_keys(const Model& model);
  void add_rope_keys();
  void add_tensors(const Model& model);
  void add_layer(const Model& model, int64_t layer);
  void check_complete(const Model& model) const;

  nn::DecoderSpec spec_;
  std::string family_, architecture_, caveat_;
  std::vector<GgufTextTensor> tensors_;
  GgufMetadata metadata_;
};

/// Rows of q or k as llama.cpp has them, and back: of each head, rows 0, d/2, 1, d/2 + 1, …
/// @param heads  0: as they are
at::Tensor interleave_halves(const at::Tensor& rows, int64_t heads);
at::Tensor separate_halves(const at::Tensor& rows, int64_t heads);

}  // namespace visq

// TensorRT-LLM's names of a decoder's parts, and which of a model's tensors lie in them (spec/export.md
// §4.1).
#pragma once
#include <string>
#include <vector>

#include "visq/export/model_format.h"

namespace visq::trt {

/// How TensorRT-LLM calls a decoder.
struct DecoderKind {
  const char* architecture;  ///< that its builder knows
  const char* decoder;       ///< ModelOpt's word for it
};
/// @throws Error naming the model's family and what of its decoder the format has no place for
DecoderKind decoder_kind(const Model& model);

/// config.json of the text model, which may lie in the one of a vision-language model.
const Json& text_config(const Model& model);

/// Rows of a linear of the model. Each rank has one of `shards` equal parts; neighbours have the same where
/// there are fewer shards than ranks.
struct Piece {
  nn::Role role;
  int64_t begin, count;
  int64_t shards;
  const char* name;  ///< of what is shared out, for errors: "key/value heads"
  int64_t units;     ///< how many of these there are
};

/// One linear of TensorRT-LLM.
struct Module {
  const char* name;  ///< "attention.qkv"
  std::vector<Piece> pieces;
  bool by_columns = false;  ///< ranks share the columns, and have all rows
};
/// Those of a layer.
std::vector<Module> modules(const nn::DecoderSpec& spec, const Sharding& sharding);

/// Of a module as one rank has it.
nn::Extent extent_of(const nn::DecoderSpec& spec, const Module& module, const Sharding& sharding);

/// A tensor that is not of a linear.
struct PlainTensor {
  std::string source;  ///< in the model's files
  std::string name;    ///< in TensorRT-LLM, behind "transformer.layers.N." or whole
};
std::vector<PlainTensor> layer_norms(const Model& model, int64_t layer);
std::string embedding_name(const Model& model);  ///< in the model's files, as the next two
std::string final_norm_name(const Model& model);
std::string head_name(const Model& model);  ///< "": the embedding serves as the head

inline constexpr const char *kEmbedding = "transformer.vocab_embedding.weight",
                            *kFinalNorm = "transformer.ln_f.weight", *kHead = "lm_head.weight";
/// "transformer.layers.3.": with the place in its stage of the pipeline.
std::string layer_prefix(int64_t local_layer);

[[noreturn]] void fail_unquantized(const Model& model, const std::string& module);
/// @throws Error naming a decoder linear that is not quantized, or a tensor that the format has no place for
void check_tensors(const Model& model, const QuantizedCheckpoint& quantized);

}  // namespace visq::trt

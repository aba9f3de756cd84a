// What decides the tensors of a TensorRT-LLM checkpoint, and which they are, rank by rank
// (spec/export.md §4.1–4.3).
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "visq/export/tensorrt_llm_names.h"

namespace visq::trt {

/// As config.json says, or will say.
struct Form {
  Scheme scheme;  ///< of all linears
  KvCacheFormat kv_cache = KvCacheFormat::none;
  Sharding sharding;
  at::ScalarType dtype = at::kBFloat16;  ///< of all that is not quantized
  int64_t vocabulary = 0;                ///< rows of embedding and head, before they are made even for ranks
  bool shared_embedding = false;         ///< there is no head beside the embedding
  std::string recipe = {};               ///< "": not said

  int64_t ranks() const { return sharding.tensor_parallel * sharding.pipeline_parallel; }
  /// Of embedding and head on one rank.
  int64_t vocabulary_rows() const {
    return (vocabulary + sharding.tensor_parallel - 1) / sharding.tensor_parallel;
  }
};

/// A number format that TensorRT-LLM knows.
struct Algorithm {
  const char* preset;  ///< one that is stored so
  const char* name;    ///< quant_algo
  bool has_factors;    ///< factors of the input are stored, ones too
};
const std::vector<Algorithm>& algorithms();
/// nullptr: it has none for this.
const Algorithm* find_algorithm(const Scheme& scheme);

/// What a new checkpoint is like. @throws Error naming a number format that the format lacks
Form make_form(const Model& model, const std::vector<Scheme>& schemes, KvCacheFormat kv_cache,
               const Sharding& sharding);
/// Refuses to share out what does not divide, naming a tensor and the way out.
void check_sharding(const Model& model, const Form& form);

/// A tensor of a linear as one rank has it.
struct LinearTensor {
  const char* suffix;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  std::function<at::Tensor(const PackedLinear&)> value;
};
std::vector<LinearTensor> linear_tensors(const Form& form, const nn::Extent& extent);
/// The way back. @param tensor  gives one by its suffix; dtypes and shapes are right
/// @throws Error for a scale that is no positive number
PackedLinear read_linear(const Form& form, const nn::Extent& extent, const std::string& origin,
                         const std::function<at::Tensor(const std::string& suffix)>& tensor);

inline constexpr const char *kKeyScale = "attention.k_cache_scaling_factor",
                            *kValueScale = "attention.v_cache_scaling_factor",
                            *kCacheScale = "attention.kv_cache_scaling_factor";

/// Everything in the file of a rank. @param model  its spec, and the names that say where biases are
std::vector<PlannedTensor> rank_tensors(const Model& model, const Form& form, int64_t rank);
/// Whether the linears of a module have biases.
bool has_bias(const Model& model, int64_t layer, const Module& module);
std::string rank_file(int64_t rank);  ///< "rank0.safetensors"

/// Rows of an embedding as the AWQ formats have it.
int64_t padded_vocabulary(int64_t rows);

/// config.json.
Json make_config(const Model& model, const Form& form);
/// @throws Error naming config.json and the key for one that is not of this model, or hostile
Form read_config(const std::filesystem::path& directory, const Model& model);
/// The parts that need no model. @throws Error as read_config()
Form read_config_alone(const std::filesystem::path& directory);

}  // namespace visq::trt

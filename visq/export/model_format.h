// Whole models stored under names of their own, for engines that do not load Hugging Face directories.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "visq/export/quantized_checkpoint.h"
#include "visq/families/model.h"

namespace visq {

/// How a model is spread over the GPUs that serve it.
struct Sharding {
  int64_t tensor_parallel = 1, pipeline_parallel = 1;
};

/// What a ModelFormat has stored of a model, by the names of the Hugging Face checkpoint that it was made of.
class StoredModel {
 public:
  virtual ~StoredModel() = default;
  /// Of a decoder linear; empty: it is not quantized.
  virtual std::optional<Scheme> scheme(int64_t layer, const nn::LinearId& id) const = 0;
  virtual PackedLinear read(int64_t layer, const nn::LinearId& id) const = 0;
  virtual KvCacheFormat kv_cache() const = 0;
  virtual KvScales kv_scales(int64_t layer) const = 0;
  /// What its files call how it was quantized; "": nothing.
  virtual std::string format_name() const { return ""; }
  /// A tensor that is not of a quantized linear (norms change with smoothing); empty: it is not stored here.
  virtual std::optional<at::Tensor> other(const std::string& name) const = 0;
  /// Those among them that are rounded in a way that no scheme describes (GGUF's Q4_K, quantized embeddings):
  /// other() gives real numbers in F32.
  virtual std::set<std::string> unheld() const { return {}; }
};

/// Stateless; one object each.
class ModelFormat {
 public:
  virtual ~ModelFormat() = default;
  virtual const char* name() const = 0;
  /// Whether what is at `path` is of this format.
  virtual bool recognise(const std::filesystem::path& path) const = 0;
  /// Whether it has a place for linears of this scheme.
  virtual bool holds(const Scheme&) const { return true; }
  /// The layout that is quantized to on the way to this format, with the scales that it has; nullptr: any.
  virtual const Layout* stage() const { return nullptr; }
  /// Whether the vision tower and the projector are at `path` too.
  virtual bool holds_tower(const std::filesystem::path&) const { return false; }
  /// Refuses what a run would write, as far as that can be known before calibration.
  /// @param left_out  decoder linears that are not quantized
  /// @throws Error naming the tensor or the option, and the way out
  virtual void check_plan(const Model&, const std::vector<Scheme>&, KvCacheFormat,
                          const std::vector<std::string>& /*left_out*/, const Sharding&) const {}
  /// Refuses, before anything is read or written, what the format has no place for.
  /// @throws Error naming the tensor or the option, and the way out
  virtual void check(const Model& model, const QuantizedCheckpoint& quantized,
                     const Sharding& sharding) const = 0;
  /// Writes files into an existing, empty directory.
  /// @param model  loads quantized linears through `quantized`
  virtual void write(const Model& model, const QuantizedCheckpoint& quantized, const Sharding& sharding,
                     const std::filesystem::path& directory) const = 0;
  /// @param source  the original that the model was quantized from
  /// @throws Error when the files are damaged, or of another model
  virtual std::unique_ptr<StoredModel> open(const std::filesystem::path& path, const Model& source) const = 0;
  /// For people: what its files say of themselves, without the model's. Names and values.
  virtual std::vector<std::pair<std::string, std::string>> describe(const std::filesystem::path&) const {
    return {};
  }
};

/// A norm of Gemma, which files of engines have with 1 added: the original where it is what was stored,
/// because adding 1 drops bits, and otherwise what smoothing made of it.
at::Tensor without_added_one(const at::Tensor& stored, const Checkpoint& original, const std::string& name);

const ModelFormat& tensorrt_llm_format();
const std::vector<const ModelFormat*>& model_formats();
/// nullptr: none of this name; none that recognises the path.
const ModelFormat* find_model_format(const std::string& name);
const ModelFormat* model_format_at(const std::filesystem::path& path);

}  // namespace visq

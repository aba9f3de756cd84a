// The planned writer: all names, dtypes, shapes and so all byte offsets are known before the first byte is
// written, so that tensors arrive in any order, from any thread.
#pragma once
#include <atomic>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "visq/io/checkpoint.h"
#include "visq/io/output_directory.h"
#include "visq/io/output_file.h"
#include "visq/io/safetensors.h"

namespace visq {

struct PlannedTensor {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;
  uint64_t bytes() const;  ///< @throws Error when the shape is impossible
};

/// Writes an OutputDirectory, which finish() commits. write() may be called from several threads for
/// different tensors.
class CheckpointWriter {
 public:
  struct Options {
    uint64_t max_shard_bytes = 5'000'000'000;
    /// As in OutputDirectory: a checkpoint has a config.json or a .safetensors file.
    bool replace_existing = false;
    /// Where the tensors go, below DIR ("llm"; "": DIR itself). Planned names start with it
    /// ("llm.norm.weight") and lose it in the files.
    std::string folder = {};
    uint64_t copied_bytes = 0;  ///< what copy_file() will bring: the disk must have room for it too
  };

  /// Lays tensors out in plan order, starting a new shard where the next tensor would not fit, writes the
  /// headers and reserves the space on disk. Within a shard wider element types come first, so that all
  /// tensors are aligned, and those of one width are sorted by their names. One shard: model.safetensors;
  /// several: model-0000i-of-0000n.safetensors + index.
  /// @throws Error when DIR exists and is not empty (without replace_existing), is not creatable, or the disk
  ///         has no room; when a name stands in the plan twice, or does not start with the folder
  CheckpointWriter(const std::filesystem::path& directory, std::vector<PlannedTensor> plan, Options options);

  /// Which file a planned tensor goes to, from 0.
  size_t shard_of(const std::string& name) const { return places_[index_of(name)].shard; }
  /// A tensor on any device: it is copied to the CPU if need be.
  /// @throws Error when the name is not planned, was written before, or dtype/shape/size differ from the plan
  void write(const std::string& name, const at::Tensor& tensor);
  void write(const std::string& name, std::span<const std::byte> bytes);
  /// A tensor of another checkpoint as it stands there, under the same name.
  void copy(const std::string& name, const Checkpoint& source);
  /// Side files (config.json, tokenizer, …), relative to the directory. @throws Error when the name leaves it
  void write_file(const std::filesystem::path& relative, std::string_view text);
  void copy_file(const std::filesystem::path& relative, const std::filesystem::path& source);

  /// @throws Error naming a tensor that was planned but never written
  void finish();

  const std::filesystem::path& partial_directory() const { return output_.partial(); }
  uint64_t total_bytes() const { return total_bytes_; }

 private:
  struct Place {
    size_t shard = 0;
    uint64_t offset = 0;
  };

  std::vector<std::vector<TensorInfo>> plan_shards() const;
  void create_shards();
  size_t index_of(const std::string& name) const;
  /// Marks a tensor as written, which `work(shard, offset)` does. @param bytes  how many it has
  void write_once(const std::string& name, size_t bytes,
                  const std::function<void(OutputFile& shard, uint64_t offset)>& work);
  std::filesystem::path weights_directory() const;
  std::string name_in_file(const std::string& name) const;
  std::filesystem::path place_for(const std::filesystem::path& relative) const;
  void write_index() const;

  Options options_;
  OutputDirectory output_;  // before the shards: it is removed when they are closed
  std::vector<PlannedTensor> plan_;
  std::unordered_map<std::string, size_t> index_of_;  // name → plan_ / places_ index
  std::vector<Place> places_;
  std::vector<OutputFile> shards_;
  std::vector<std::atomic<bool>> written_;
  uint64_t total_bytes_ = 0;
};

}  // namespace visq

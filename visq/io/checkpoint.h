// A Hugging Face checkpoint directory: config.json, one or several .safetensors files, and what lies beside
// them; or VILA's kind, whose config.json stands above three such directories.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/io/expert_stacks.h"
#include "visq/io/safetensors.h"

namespace visq {

/// A directory that Hugging Face tools load by itself: a config.json and the tensors beside it.
struct CheckpointPart {
  std::string folder;               ///< below the checkpoint's directory; "": that directory itself
  std::filesystem::path directory;  ///< with the checkpoint's directory before it
  std::string config_text;          ///< config.json as it stands in the file
  Json config;
};

/// Read-only; thread-safe after construction. Names are the checkpoint's own; families map them
/// (families/names.h).
///
/// An ordinary checkpoint is one part. Where config.json has one of the keys llm_cfg, vision_tower_cfg and
/// mm_projector_cfg (VILA), the parts are the folders llm, vision_tower and mm_projector, and the names of
/// their tensors start with the folder: "llm.model.norm.weight".
class Checkpoint {
 public:
  /// @throws Error when the directory, a part's folder, config.json, a shard or a tensor named by the index
  ///         is missing, when a name of the index leaves the directory, or when two shards hold the same
  ///         tensor
  explicit Checkpoint(std::filesystem::path directory);
  /// What can be read of a directory that may be half-written or damaged. Each reason to throw but the first
  /// two goes to `problems` instead, and what it concerns is left out.
  /// @throws Error when there is no such directory, or no config.json in it
  static Checkpoint salvage(std::filesystem::path directory, std::vector<std::string>& problems);

  const std::filesystem::path& directory() const { return directory_; }
  /// config.json of the directory; of several parts: with each part's own under its key, whatever the file
  /// says there (a copy, or the path of somebody's training run).
  const Json& config() const { return config_; }
  /// The part that holds the text model. Its config.json says how the checkpoint is quantized.
  const CheckpointPart& text_model() const { return parts_.front(); }
  bool in_text_model(const std::string& name) const;
  /// The name of a tensor or module of the text model as its part's own files and engines have it.
  std::string name_in_part(const std::string& name) const;

  /// Sorted by shard, then by place in the shard.
  const std::vector<std::string>& names() const { return names_; }
  /// Experts that lie in stacks (io/expert_stacks.h), one by one: contains(), info(), tensor() and file_of()
  /// know them too, but names() and bytes() know only what stands in the files.
  const std::vector<std::string>& stacked_names() const { return stacked_names_; }
  /// Tensors that the index has in shards that could not be read (salvage()); sorted.
  const std::vector<std::string>& lost_names() const { return lost_names_; }
  /// Whether there are shards, or an index, that could not be read, so that nothing says what was in them.
  bool lost_unnamed() const { return lost_unnamed_; }
  /// The tensor of the files that holds this one: its stack, or itself.
  const std::string& stored_in(const std::string& name) const;
  bool contains(const std::string& name) const { return where_.contains(name) || slices_.contains(name); }
  /// @throws Error naming the checkpoint when there is no such tensor (the same for the next three)
  const TensorInfo& info(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;
  std::span<const std::byte> bytes(const std::string& name) const;
  const std::filesystem::path& file_of(const std::string& name) const;
  uint64_t total_bytes() const;  ///< of all tensors

  /// Files to carry along unchanged, relative to the directory, sorted: everything that is a regular file in
  /// it, or one folder down, except weights (.safetensors, .bin, .pt, .pth, .gguf, .msgpack, .h5, …, index
  /// files), the text model's config.json and hf_quant_config.json, and what is hidden. The safetensors and
  /// index files of other parts are carried along too. A symbolic link
  /// counts as the file it leads to: the Hugging Face cache consists of links into ../../blobs. Links to
  /// anything but a regular file are left out.
  std::vector<std::filesystem::path> side_files() const;

 private:
  using Where = std::pair<const SafetensorsFile*, TensorInfo>;
  Checkpoint(std::filesystem::path directory, std::vector<std::string>* problems);
  /// Runs it; an Error goes to the problems where they are collected. @returns whether there was none
  template <typename Stage>
  bool attempt(const Stage& stage);
  void add_part(const std::string& folder);
  std::set<std::string> find_shards(const CheckpointPart& part, std::map<std::string, std::string>& index);
  void add_shard(const CheckpointPart& part, const std::string& name);
  void find_stacks();
  const Where& where(const std::string& name) const;

  std::filesystem::path directory_;
  Json config_;
  std::vector<CheckpointPart> parts_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::vector<std::string> names_;
  std::map<std::string, Where> where_;
  std::vector<std::string> stacked_names_;
  std::map<std::string, ExpertSlice> slices_;
  std::vector<std::string> lost_names_;
  bool lost_unnamed_ = false;
  std::vector<std::string>* problems_ = nullptr;  // while salvage() collects them
};

}  // namespace visq

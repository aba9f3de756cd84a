#include "visq/io/checkpoint.h"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "visq/core/error.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingle = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 64u << 20;

/// The parts of a VILA checkpoint, the text model first, and their keys in the root's config.json.
constexpr std::array<std::pair<const char*, const char*>, 3> kParts{
    {{"llm", "llm_cfg"}, {"vision_tower", "vision_tower_cfg"}, {"mm_projector", "mm_projector_cfg"}}};

using WeightMap = std::map<std::string, std::string>;  // tensor name → shard name

bool is_there(const fs::path& path) {
  std::error_code code;  // a name that the file system refuses does not exist
  return fs::exists(path, code);
}

std::vector<fs::directory_entry> list(const fs::path& directory) {
  std::error_code code;
  std::vector<fs::directory_entry> entries;
  for (auto it = fs::directory_iterator(directory, code); !code && it != fs::directory_iterator();
       it.increment(code))
    entries.push_back(*it);
  if (code) fail("{}: cannot be listed ({})", directory.string(), code.message());
  return entries;
}

bool is_regular_file(const fs::directory_entry& entry) {
  std::error_code code;  // a link that leads nowhere is no file, and no reason to stop
  return entry.is_regular_file(code);
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find_first_of("/\\") == std::string::npos &&
         std::none_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

// Into nlohmann::json's sorted maps: Json looks keys up one by one, and a large mixture of experts has
// hundreds of thousands of them. What nests deeper than an index does is dropped unread.
nlohmann::json parse_index(const fs::path& path) {
  const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) { return depth < 4; };
  const std::string text = read_text(path, kMaxIndexBytes);
  try {
    return nlohmann::json::parse(text, shallow);
  } catch (const nlohmann::json::exception& e) {
    fail("{}: not valid JSON ({})", path.string(), e.what());
  }
}

WeightMap read_index(const fs::path& path) {
  const auto index = parse_index(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail("{}: 'weight_map' is missing", path.string());
  WeightMap map;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) fail("{}: the shard of tensor '{}' is not a string", path.string(), tensor);
    map[tensor] = shard.get<std::string>();
    if (!is_plain_file_name(map[tensor]))
      fail("{}: the shard of tensor '{}' is {}, which is not a plain file name", path.string(), tensor,
           json_text(shard));
  }
  if (map.empty()) fail("{}: 'weight_map' is empty", path.string());
  return map;
}

std::set<std::string> shards_of(const WeightMap& map) {
  std::set<std::string> shards;
  for (const auto& entry : map) shards.insert(entry.second);
  return shards;
}

void check_shards_exist(const fs::path& directory, const std::set<std::string>& shards) {
  std::vector<std::string> missing;
  for (const auto& shard : shards)
    if (!is_there(directory / shard)) missing.push_back(shard);
  if (missing.empty()) return;
  fail("{}: the shard is missing{}. The download is incomplete: fetch it again.",
       (directory / missing[0]).string(),
       missing.size() > 1 ? visq::format(", and {} more of {}", missing.size() - 1, shards.size()) : "");
}

std::set<std::string> loose_safetensors(const fs::path& directory) {
  std::set<std::string> names;
  bool pickles = false;
  for (const auto& entry : list(directory)) {
    const auto extension = entry.path().extension();
    if (extension == ".safetensors" && is_regular_file(entry)) names.insert(entry.path().filename().string());
    pickles |= extension == ".bin" || extension == ".pth" || extension == ".pt";
  }
  if (names.empty())
    fail("{}: no .safetensors file{}", directory.string(),
         pickles ? "; PyTorch pickles are not read: save the checkpoint as safetensors" : "");
  return names;
}

bool is_weight_file(const std::string& name) {
  static constexpr std::array kExtensions{".safetensors", ".bin",       ".pt",     ".pth",
                                          ".gguf",        ".msgpack",   ".h5",     ".ckpt",
                                          ".onnx",        ".onnx_data", ".tflite", ".index.json"};
  return std::any_of(kExtensions.begin(), kExtensions.end(),
                     [&](const char* extension) { return name.ends_with(extension); });
}

bool is_visible_file(const fs::directory_entry& entry) {
  return !entry.path().filename().string().starts_with('.') && is_regular_file(entry);
}

bool is_read_weight_file(const std::string& name) { return name.ends_with(".safetensors") || name == kIndex; }

bool is_visible_folder(const fs::directory_entry& entry) {
  std::error_code code;
  return !entry.is_symlink(code) && entry.is_directory(code) &&
         !entry.path().filename().string().starts_with('.');
}

/// Text and content of a config.json.
std::pair<std::string, Json> read_object(const fs::path& path) {
  std::string text = read_text(path, kMaxConfigBytes);
  Json object = parse_json(text, path.string());
  if (!object.is_object()) fail("{}: not a JSON object", path.string());
  return {std::move(text), std::move(object)};
}

/// What the names of a part's tensors start with.
std::string prefix_of(const CheckpointPart& part) { return part.folder.empty() ? "" : part.folder + "."; }

}  // namespace

template <typename Stage>
bool Checkpoint::attempt(const Stage& stage) {
  if (problems_ == nullptr) {
    stage();
    return true;
  }
  try {
    stage();
    return true;
  } catch (const Error& error) {
    problems_->emplace_back(error.what());
    return false;
  }
}

Checkpoint::Checkpoint(fs::path directory) : Checkpoint(std::move(directory), nullptr) {}

Checkpoint Checkpoint::salvage(fs::path directory, std::vector<std::string>& problems) {
  Checkpoint checkpoint(std::move(directory), &problems);
  checkpoint.problems_ = nullptr;
  std::ranges::sort(checkpoint.lost_names_);
  return checkpoint;
}

Checkpoint::Checkpoint(fs::path directory, std::vector<std::string>* problems)
    : directory_(std::move(directory)), config_(Json::object()), problems_(problems) {
  std::error_code code;
  if (!fs::is_directory(directory_, code)) fail("{}: no such directory", directory_.string());
  if (problems_ != nullptr && !is_there(directory_ / "config.json"))
    fail("{}: no config.json in it: not a checkpoint", directory_.string());
  attempt([&] { config_ = read_object(directory_ / "config.json").second; });
  if (std::ranges::any_of(kParts, [&](const auto& part) { return config_.contains(part.second); })) {
    for (const auto& [folder, key] : kParts)
      if (attempt([&, name = folder] {
            if (!fs::is_directory(directory_ / name, code))
              fail(
                  "{}: no such directory, though config.json is that of a VILA checkpoint, which has one. "
                  "The "
                  "download is incomplete: fetch it again.",
                  (directory_ / name).string());
          })) {
        add_part(folder);
        config_[key] = parts_.back().config;
      }
    if (parts_.empty()) fail("{}: none of the parts of a VILA checkpoint", directory_.string());
  } else {
    add_part("");
  }
  attempt([&] { find_stacks(); });
}

std::set<std::string> Checkpoint::find_shards(const CheckpointPart& part, WeightMap& index) {
  const fs::path& directory = part.directory;
  if (is_there(directory / kSingle)) return {kSingle};  // first, as in transformers
  if (!is_there(directory / kIndex)) return loose_safetensors(directory);
  index = read_index(directory / kIndex);
  std::set<std::string> shards = shards_of(index);
  if (problems_ == nullptr) check_shards_exist(directory, shards);
  return shards;
}

void Checkpoint::add_part(const std::string& folder) {
  const fs::path directory = folder.empty() ? directory_ : directory_ / folder;
  CheckpointPart& part = parts_.emplace_back(folder, directory, "", Json::object());
  const auto read = [&, first = folder.empty()] {
    std::tie(part.config_text, part.config) = read_object(directory / "config.json");
  };
  if (problems_ != nullptr && folder.empty())  // said already
    try {
      read();
    } catch (const Error&) {
    }
  else
    attempt(read);

  WeightMap index;
  std::set<std::string> shards, lost;
  lost_unnamed_ |= !attempt([&] { shards = find_shards(part, index); });
  for (const auto& shard : shards)
    if (!attempt([&] {
          if (!is_there(directory / shard)) {
            const auto count = std::ranges::count_if(index, [&](const auto& e) { return e.second == shard; });
            fail("{} names {}, which is missing: {} tensors", kIndex, shard, count);
          }
          add_shard(part, shard);
        }))
      lost.insert(shard);
  lost_unnamed_ |= !lost.empty() && index.empty();
  for (const auto& [tensor, shard] : index) {
    const std::string name = prefix_of(part) + tensor;
    if (lost.contains(shard) && !contains(name)) {
      lost_names_.push_back(name);
      continue;
    }
    attempt([&, &tensor = tensor, &shard = shard] {
      if (!contains(name) || file_of(name).filename() != shard)
        fail("{}: tensor '{}' is not in this shard, though {} says so", (directory / shard).string(), tensor,
             kIndex);
    });
  }
}

void Checkpoint::find_stacks() {
  std::map<std::string, const TensorInfo*> tensors;
  for (const std::string& name : names_) tensors.emplace(name, &info(name));
  slices_ = expert_slices(tensors, directory_.string());
  for (const auto& [name, slice] : slices_) stacked_names_.push_back(name);
}

const std::string& Checkpoint::stored_in(const std::string& name) const {
  const auto slice = slices_.find(name);
  return slice == slices_.end() ? name : slice->second.stack;
}

void Checkpoint::add_shard(const CheckpointPart& part, const std::string& name) {
  const auto& file = *files_.emplace_back(std::make_unique<SafetensorsFile>(part.directory / name));
  for (TensorInfo tensor : file.tensors()) {
    tensor.name = prefix_of(part) + tensor.name;
    const std::string whole = tensor.name;
    const auto [it, fresh] = where_.try_emplace(whole, &file, std::move(tensor));
    if (!fresh)
      fail("{}: tensor '{}' is also in {}", file.path().string(), whole,
           it->second.first->path().filename().string());
    names_.push_back(whole);
  }
}

bool Checkpoint::in_text_model(const std::string& name) const {
  return name.starts_with(prefix_of(text_model()));
}

std::string Checkpoint::name_in_part(const std::string& name) const {
  return in_text_model(name) ? name.substr(prefix_of(text_model()).size()) : name;
}

const Checkpoint::Where& Checkpoint::where(const std::string& name) const {
  const auto it = where_.find(name);
  if (it == where_.end()) fail("{}: the checkpoint has no tensor '{}'", directory_.string(), name);
  return it->second;
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  const auto slice = slices_.find(name);
  return slice == slices_.end() ? where(name).second : slice->second.info;
}

at::Tensor Checkpoint::tensor(const std::string& name) const {
  if (const auto slice = slices_.find(name); slice != slices_.end())
    return read_slice(tensor(slice->second.stack), slice->second);
  const auto& [file, tensor] = where(name);
  return file->tensor(tensor);
}

std::span<const std::byte> Checkpoint::bytes(const std::string& name) const {
  const auto& [file, tensor] = where(name);
  return file->bytes(tensor);
}

const fs::path& Checkpoint::file_of(const std::string& name) const {
  return where(stored_in(name)).first->path();
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const auto& entry : where_) total += entry.second.second.bytes();
  return total;
}

std::vector<fs::path> Checkpoint::side_files() const {
  std::set<std::string> folders = {""}, weights_too;
  for (const auto& entry : list(directory_))
    if (is_visible_folder(entry)) folders.insert(entry.path().filename().string());
  for (const CheckpointPart& part : parts_) {
    folders.insert(part.folder);
    if (part.folder != text_model().folder) weights_too.insert(part.folder);
  }
  std::vector<fs::path> files;
  for (const std::string& folder : folders) {
    const bool rewritten = folder == text_model().folder;
    for (const auto& entry : list(folder.empty() ? directory_ : directory_ / folder)) {
      const std::string name = entry.path().filename().string();
      if (!is_visible_file(entry)) continue;
      if (rewritten && (name == "config.json" || name == "hf_quant_config.json")) continue;
      if (is_weight_file(name) && !(weights_too.contains(folder) && is_read_weight_file(name))) continue;
      files.push_back(fs::path(folder) / name);
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace visq

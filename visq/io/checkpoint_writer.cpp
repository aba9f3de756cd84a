#include "visq/io/checkpoint_writer.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/core/log.h"
#include "visq/io/safetensors_header.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndex = "model.safetensors.index.json";

// Links are resolved and a slash at the end goes, so that DIR.partial lies beside DIR on the same disk.
fs::path resolve(const fs::path& directory) {
  std::error_code code;
  fs::path path = fs::weakly_canonical(fs::absolute(directory), code);
  if (code) fail("{}: {}", directory.string(), code.message());
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename()) fail("{}: cannot be an output directory", directory.string());
  return path;
}

bool looks_like_checkpoint(const fs::path& directory) {
  if (fs::exists(directory / "config.json")) return true;
  const fs::directory_iterator entries(directory);
  return std::any_of(begin(entries), end(entries),
                     [](const auto& entry) { return entry.path().extension() == ".safetensors"; });
}

void check_target(const fs::path& directory, bool replace) {
  const auto status = fs::symlink_status(directory);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) fail("{}: exists and is not a directory", directory.string());
  if (fs::is_empty(directory)) return;
  if (!replace)
    fail("{}: exists and is not empty: choose another output or pass --force", directory.string());
  if (!looks_like_checkpoint(directory))
    fail("{}: exists and does not look like a checkpoint: remove it yourself if it may go",
         directory.string());
}

// A lock of the kernel's: it goes with the process, however that ends.
int lock_directory(const fs::path& directory) {
  const int descriptor = open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (descriptor < 0) fail("{}: {}", directory.string(), std::strerror(errno));
  // Some network file systems have no locks: no reason not to write there.
  if (flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK) return descriptor;
  close(descriptor);
  fail("{}: another run is writing it", directory.string());
}

/// @param weights  where in it the killed run put its shards
void remove_stale(const fs::path& partial, const fs::path& weights) {
  const auto status = fs::symlink_status(partial);
  if (!fs::exists(status)) return;
  const auto is_ours = [&] {
    return fs::is_empty(partial) || looks_like_checkpoint(partial) ||
           (fs::is_directory(weights) && looks_like_checkpoint(weights));
  };
  if (!fs::is_directory(status) || !is_ours())
    fail("{}: exists and is not the rest of an earlier run: remove it yourself if it may go",
         partial.string());
  const int lock = lock_directory(partial);
  std::error_code code;
  fs::remove_all(partial, code);
  close(lock);
  if (code) fail("{}: the rest of an earlier run cannot be removed ({})", partial.string(), code.message());
}

void make_directories(const fs::path& directory) {
  std::error_code code;
  fs::create_directories(directory, code);
  if (code) fail("{}: cannot be created ({})", directory.string(), code.message());
}

std::string shard_name(size_t shard, size_t count) {
  return count == 1 ? "model.safetensors"
                    : visq::format("model-{:05}-of-{:05}.safetensors", shard + 1, count);
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  std::error_code code;
  fs::rename(from, to, code);
  if (code) fail("{}: cannot be renamed to {} ({})", from.string(), to.string(), code.message());
}

// An empty directory beside `directory` under a name that nothing else has.
fs::path create_aside(const fs::path& directory) {
  std::string name = directory.string() + ".replaced-XXXXXX";
  if (!mkdtemp(name.data())) fail("{}: cannot be moved aside ({})", directory.string(), std::strerror(errno));
  return name;
}

std::string describe(at::ScalarType dtype, at::IntArrayRef shape) {
  return visq::format("{} [{}]", c10::toString(dtype), fmt::join(shape, ", "));
}

}  // namespace

uint64_t PlannedTensor::bytes() const {
  const auto bytes = tensor_bytes(shape, dtype);
  if (!bytes) fail("tensor '{}' has an impossible shape: {}", name, describe(dtype, shape));
  return *bytes;
}

CheckpointWriter::CheckpointWriter(fs::path directory, std::vector<PlannedTensor> plan, Options options)
    : directory_(resolve(directory)),
      partial_(directory_.string() + ".partial"),
      options_(std::move(options)),
      plan_(std::move(plan)),
      places_(plan_.size()),
      written_(plan_.size()) {
  for (size_t i = 0; i < plan_.size(); ++i) {
    if (!index_of_.emplace(plan_[i].name, i).second) fail("tensor '{}' is planned twice", plan_[i].name);
    if (!options_.folder.empty() && !plan_[i].name.starts_with(options_.folder + "."))
      fail("tensor '{}' does not belong to the folder '{}'", plan_[i].name, options_.folder);
  }
  try {
    check_target(directory_, options_.replace_existing);
    remove_stale(partial_, weights_directory());
    make_directories(directory_.parent_path());
    create_shards();
  } catch (const fs::filesystem_error& e) {
    discard();
    fail("{}: {}", directory_.string(), e.code().message());
  } catch (...) {
    discard();
    throw;
  }
}

CheckpointWriter::~CheckpointWriter() {
  if (!finished_) discard();
}

void CheckpointWriter::discard() noexcept {
  shards_.clear();
  if (lock_ < 0) return;  // not ours
  std::error_code code;
  fs::remove_all(partial_, code);
  close(std::exchange(lock_, -1));
}

fs::path CheckpointWriter::weights_directory() const {
  return options_.folder.empty() ? partial_ : partial_ / options_.folder;
}

std::string CheckpointWriter::name_in_file(const std::string& name) const {
  return options_.folder.empty() ? name : name.substr(options_.folder.size() + 1);
}

std::vector<std::vector<TensorInfo>> CheckpointWriter::plan_shards() const {
  std::vector<std::vector<TensorInfo>> shards(1);
  uint64_t filled = 0;
  for (const auto& tensor : plan_) {
    const uint64_t bytes = tensor.bytes();
    if (!shards.back().empty() && filled + bytes > options_.max_shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    filled += bytes;
    shards.back().push_back({name_in_file(tensor.name), tensor.dtype, tensor.shape});
  }
  return shards;
}

void CheckpointWriter::create_shards() {
  auto shards = plan_shards();
  const std::string prefix = options_.folder.empty() ? "" : options_.folder + ".";
  std::vector<std::string> heads;
  uint64_t on_disk = 0;
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    on_disk += heads.emplace_back(lay_out(shards[shard])).size();
    for (const auto& tensor : shards[shard]) {
      places_[index_of_.at(prefix + tensor.name)] = {shard, tensor.begin};
      total_bytes_ += tensor.bytes();
    }
  }
  require_free_space(directory_.parent_path(), on_disk + total_bytes_ + options_.copied_bytes);

  if (!fs::create_directory(partial_)) fail("{}: another run is writing it", partial_.string());
  lock_ = lock_directory(partial_);
  make_directories(weights_directory());
  for (size_t shard = 0; shard < shards.size(); ++shard) {
    auto& file = shards_.emplace_back(weights_directory() / shard_name(shard, shards.size()));
    file.reserve(shards[shard].empty() ? heads[shard].size() : shards[shard].back().end);
    file.write_at(0, heads[shard]);
  }
}

size_t CheckpointWriter::index_of(const std::string& name) const {
  const auto it = index_of_.find(name);
  if (it == index_of_.end()) fail("{}: tensor '{}' is not planned", directory_.string(), name);
  return it->second;
}

void CheckpointWriter::write(const std::string& name, const at::Tensor& tensor) {
  const PlannedTensor& planned = plan_[index_of(name)];
  if (tensor.scalar_type() != planned.dtype || tensor.sizes() != planned.shape)
    fail("{}: tensor '{}' is {}, planned as {}", directory_.string(), name,
         describe(tensor.scalar_type(), tensor.sizes()), describe(planned.dtype, planned.shape));
  const at::Tensor flat = tensor.cpu().contiguous();
  write(name, std::span(static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()));
}

void CheckpointWriter::write(const std::string& name, std::span<const std::byte> bytes) {
  write_once(name, bytes.size(), [&](OutputFile& shard, uint64_t offset) { shard.write_at(offset, bytes); });
}

void CheckpointWriter::copy(const std::string& name, const Checkpoint& source) {
  write_once(name, source.bytes(name).size(), [&](OutputFile& shard, uint64_t offset) {
    shard.copy_at(offset, source.file_of(name), source.info(name).begin, source.bytes(name));
  });
}

void CheckpointWriter::write_once(const std::string& name, size_t bytes,
                                  const std::function<void(OutputFile& shard, uint64_t offset)>& work) {
  const size_t index = index_of(name);
  if (bytes != plan_[index].bytes())
    fail("{}: tensor '{}' has {} bytes, planned are {}", directory_.string(), name, bytes,
         plan_[index].bytes());
  if (written_[index].exchange(true)) fail("{}: tensor '{}' is written twice", directory_.string(), name);
  try {
    work(shards_[places_[index].shard], places_[index].offset);
  } catch (...) {
    written_[index] = false;  // so that finish() does not pass for a caller that goes on
    throw;
  }
}

fs::path CheckpointWriter::place_for(const fs::path& relative) const {
  if (!relative.has_filename() || relative.is_absolute() ||
      std::find(relative.begin(), relative.end(), "..") != relative.end())
    fail("{}: not a file name inside the output directory", relative.string());
  const fs::path path = (partial_ / relative).lexically_normal();
  const auto is_shard = [&](const OutputFile& shard) { return shard.path() == path; };
  if (path == weights_directory() / kIndex || std::any_of(shards_.begin(), shards_.end(), is_shard))
    fail("{}: this name belongs to the weights", relative.string());
  make_directories(path.parent_path());
  return path;
}

void CheckpointWriter::write_file(const fs::path& relative, std::string_view text) {
  OutputFile file(place_for(relative));
  file.write_at(0, text);
  file.close();
}

void CheckpointWriter::copy_file(const fs::path& relative, const fs::path& source) {
  std::error_code code;
  const fs::path target = place_for(relative);
  if (!fs::is_regular_file(source, code)) fail("{}: no such file", source.string());
  const uint64_t size = fs::file_size(source);
  fs::copy_file(source, target, fs::copy_options::overwrite_existing, code);
  if (code == std::errc::permission_denied)
    fail("{}: cannot be copied ({})", source.string(), code.message());
  if (code) fail_write(target, code.value(), size);
}

void CheckpointWriter::write_index() const {
  std::map<std::string, std::string> weight_map;
  for (size_t i = 0; i < plan_.size(); ++i)
    weight_map.emplace(name_in_file(plan_[i].name), shards_[places_[i].shard].path().filename().string());
  // nlohmann::json sorts keys, as the Hub's own tools do.
  const nlohmann::json index{{"metadata", {{"total_size", total_bytes_}}},
                             {"weight_map", std::move(weight_map)}};
  OutputFile file(weights_directory() / kIndex);
  file.write_at(0, index.dump(2) + "\n");
  file.close();
}

void CheckpointWriter::finish() {
  for (size_t i = 0; i < plan_.size(); ++i)
    if (!written_[i])
      fail("{}: tensor '{}' was planned but never written", directory_.string(), plan_[i].name);
  if (shards_.size() > 1) write_index();
  for (auto& shard : shards_) shard.close();
  move_into_place();
  finished_ = true;
  close(std::exchange(lock_, -1));
}

void CheckpointWriter::move_into_place() {
  check_target(directory_, options_.replace_existing);  // it may have come into being since
  std::error_code code;
  if (!fs::exists(directory_) || fs::is_empty(directory_)) return rename_or_fail(partial_, directory_);

  const fs::path aside = create_aside(directory_);
  rename_or_fail(directory_, aside);
  try {
    rename_or_fail(partial_, directory_);
  } catch (...) {
    fs::rename(aside, directory_, code);
    throw;
  }
  fs::remove_all(aside, code);
  if (code) log_warning(visq::format("{}: cannot be removed ({})", aside.string(), code.message()));
}

}  // namespace visq

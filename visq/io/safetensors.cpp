#include "visq/io/safetensors.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <map>

#include "visq/core/error.h"
#include "visq/io/output_file.h"
#include "visq/io/safetensors_header.h"

namespace visq {
namespace {

constexpr uint64_t kLengthBytes = 8;  // the header's length, in front of it

// Closes the descriptor; a mapping outlives it.
class Descriptor {
 public:
  explicit Descriptor(const std::filesystem::path& path)
      : value_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (value_ < 0) fail("{}: {}", path.string(), errno == ENOENT ? "no such file" : std::strerror(errno));
  }
  ~Descriptor() { close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

uint64_t regular_file_size(const Descriptor& file, const std::string& origin) {
  struct stat status {};
  if (fstat(file.get(), &status) != 0) fail("{}: {}", origin, std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail("{}: not a regular file", origin);
  return static_cast<uint64_t>(status.st_size);
}

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

std::string_view header_of(std::span<const std::byte> file, const std::string& origin) {
  constexpr std::string_view kIncomplete = "The download is incomplete: fetch this shard again.";
  if (file.size() < kLengthBytes)
    fail("{}: {} bytes are no safetensors file. {}", origin, file.size(), kIncomplete);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("version https://git-lfs"))
    fail("{}: this is a Git LFS pointer, not the file itself: run `git lfs pull`", origin);
  const uint64_t length = little_endian(file.first(kLengthBytes));
  if (length > kMaxHeaderBytes)
    fail("{}: not a safetensors file: its header would have {} bytes, more than the {} allowed", origin,
         length, kMaxHeaderBytes);
  if (length > file.size() - kLengthBytes)
    fail("{}: the header ends at byte {} but the file has {} bytes. {}", origin, kLengthBytes + length,
         file.size(), kIncomplete);
  return text.substr(kLengthBytes, length);
}

void check_end(const std::vector<TensorInfo>& tensors, uint64_t data_start, uint64_t file_size,
               const std::string& origin) {
  for (const auto& tensor : tensors)
    if (tensor.end > file_size)
      fail(
          "{}: tensor '{}' ends at byte {} but the file has {} bytes. The download is incomplete: fetch this "
          "shard "
          "again.",
          origin, tensor.name, tensor.end, file_size);
  const uint64_t end = tensors.empty() ? data_start : tensors.back().end;
  if (end != file_size)
    fail("{}: {} bytes behind the last tensor belong to no tensor", origin, file_size - end);
}

}  // namespace

struct SafetensorsFile::Mapping {
  std::filesystem::path path;
  std::span<const std::byte> file;
  std::vector<TensorInfo> tensors;
  std::map<std::string_view, const TensorInfo*> by_name;  // into `tensors`

  explicit Mapping(const std::filesystem::path& from) : path(from) {
    const Descriptor descriptor(path);
    const uint64_t size = regular_file_size(descriptor, path.string());
    if (size == 0) return;
    void* const start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
    if (start == MAP_FAILED)
      fail("{}: cannot be mapped into memory ({})", path.string(), std::strerror(errno));
    file = {static_cast<const std::byte*>(start), size};
    // Layers are read front to back, once: read far ahead, and let go of pages early when memory is short.
    madvise(start, size, MADV_SEQUENTIAL);
  }
  ~Mapping() {
    if (!file.empty()) munmap(const_cast<std::byte*>(file.data()), file.size());
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void read_header() {
    const std::string origin = path.string();
    const std::string_view header = header_of(file, origin);
    const uint64_t data_start = kLengthBytes + header.size();
    tensors = parse_header(header, data_start, origin);
    for (const auto& tensor : tensors)
      if (!by_name.emplace(tensor.name, &tensor).second)
        fail("{}: tensor '{}' stands in the header twice", origin, tensor.name);
    check_end(tensors, data_start, file.size(), origin);
  }
};

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) {
  auto mapping = std::make_shared<Mapping>(path);
  mapping->read_header();
  mapping_ = std::move(mapping);
}

const std::filesystem::path& SafetensorsFile::path() const { return mapping_->path; }

const std::vector<TensorInfo>& SafetensorsFile::tensors() const { return mapping_->tensors; }

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto it = mapping_->by_name.find(name);
  return it == mapping_->by_name.end() ? nullptr : it->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const TensorInfo& info) const {
  return mapping_->file.subspan(info.begin, info.bytes());
}

at::Tensor SafetensorsFile::tensor(const TensorInfo& info) const {
  const auto source = bytes(info);
  const auto options = at::TensorOptions(info.dtype);
  if (source.empty()) return at::empty(info.shape, options);
  if (reinterpret_cast<uintptr_t>(source.data()) % c10::elementSize(info.dtype) != 0) {
    const at::Tensor copy = at::empty(info.shape, options);
    std::memcpy(copy.mutable_data_ptr(), source.data(), source.size());
    return copy;
  }
  return at::from_blob(
      const_cast<std::byte*>(source.data()), info.shape, [keep = mapping_](void*) {}, options);
}

void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::map<std::string_view, at::Tensor> by_name;
  std::vector<TensorInfo> places;
  for (const auto& [name, tensor] : tensors) {
    if (!by_name.emplace(name, tensor.cpu().contiguous()).second)
      fail("{}: tensor '{}' is given twice", path.string(), name);
    places.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
  }
  const std::string head = lay_out(places);
  OutputFile out(path);
  out.write_at(0, head);
  for (const auto& place : places) {
    const at::Tensor& tensor = by_name.at(place.name);
    out.write_at(place.begin, {static_cast<const std::byte*>(tensor.const_data_ptr()), place.bytes()});
  }
  out.close();
}

}  // namespace visq

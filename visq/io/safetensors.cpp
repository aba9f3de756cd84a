#include "visq/io/safetensors.h"

#include <ATen/ATen.h>

#include <cstring>
#include <map>

#include "visq/core/error.h"
#include "visq/io/mapped_file.h"
#include "visq/io/output_file.h"
#include "visq/io/safetensors_header.h"

namespace visq {
namespace {

constexpr uint64_t kLengthBytes = 8;  // the header's length, in front of it

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
  MappedFile mapped;
  std::span<const std::byte> file = mapped.bytes();
  std::vector<TensorInfo> tensors;
  std::map<std::string_view, const TensorInfo*> by_name;  // into `tensors`

  explicit Mapping(const std::filesystem::path& path) : mapped(path) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  void read_header() {
    const std::string origin = mapped.path().string();
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

const std::filesystem::path& SafetensorsFile::path() const { return mapping_->mapped.path(); }

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

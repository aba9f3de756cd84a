// Reading .safetensors files: mapped into memory, every length checked before use. Thread-safe after opening.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace visq {

/// Name, element type, shape and place of one tensor.
struct TensorInfo {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  std::vector<int64_t> shape;  ///< empty: a scalar (0-d)
  uint64_t begin = 0;          ///< first byte in its file
  uint64_t end = 0;            ///< one past the last byte
  uint64_t bytes() const { return end - begin; }
};

/// The safetensors spelling of `dtype` ("BF16", "F8_E4M3", …). @throws Error when the format has none
std::string_view safetensors_dtype(at::ScalarType dtype);

/// One open file. Tensors are views of the mapping, which lives as long as the file object or any such view.
class SafetensorsFile {
 public:
  /// @throws Error when the file is missing, truncated, or its header is malformed: longer than the file, not
  ///         JSON, unknown dtype, a shape that does not fill its byte range, overlapping or out-of-range
  ///         ranges, a name that stands there twice, is empty or holds control characters, a gap between
  ///         tensors
  explicit SafetensorsFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<TensorInfo>& tensors() const;             ///< in file order
  const TensorInfo* find(std::string_view name) const;        ///< nullptr when absent
  std::span<const std::byte> bytes(const TensorInfo&) const;  ///< the raw bytes, in the mapping
  /// A read-only CPU tensor over the mapping (a copy when the bytes are not aligned for the dtype).
  at::Tensor tensor(const TensorInfo&) const;

 private:
  struct Mapping;
  std::shared_ptr<const Mapping> mapping_;
};

/// Writes a small file at once (tests, demo, reports). Header metadata: {"format": "pt"}.
void write_safetensors(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace visq

// Writing GGUF files: all names, types, shapes and so all offsets are known before the first byte is written,
// so that tensors arrive in any order, from any thread.
#pragma once
#include <ATen/core/Tensor.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "visq/export/gguf_format.h"
#include "visq/io/output_file.h"

namespace visq {

struct GgufPlannedTensor {
  std::string name;
  GgmlType type = GgmlType::f32;
  std::vector<int64_t> shape;  ///< as PyTorch counts: rows first
  uint64_t bytes() const;      ///< @throws Error when the rows do not fill the type's blocks
};

class GgufWriter {
 public:
  /// Writes the header and takes the space on the disk.
  /// @throws Error when a key or a name stands there twice, or a name or a shape is not one that the format
  /// has
  GgufWriter(const std::filesystem::path& path, const GgufMetadata& metadata,
             std::vector<GgufPlannedTensor> tensors);

  /// @throws Error when the name is not planned, was written before, or `bytes` are not as many as planned
  void write(const std::string& name, std::span<const std::byte> bytes);
  void write(const std::string& name, const at::Tensor& bytes);  ///< contiguous, on the CPU
  /// @throws Error naming a tensor that was planned but never written
  void close();

 private:
  OutputFile file_;
  std::vector<GgufPlannedTensor> tensors_;
  std::vector<uint64_t> begins_;
  std::map<std::string, size_t> index_;
  std::vector<std::atomic<bool>> written_;
};

}  // namespace visq

// Reading GGUF files: mapped into memory, every count, length and offset checked before use.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "visq/export/gguf_format.h"
#include "visq/io/mapped_file.h"

namespace visq {

struct GgufTensor {
  std::string name;
  uint32_t type = 0;            ///< GgmlType, or one of those that visq knows by name only
  std::vector<int64_t> shape;   ///< as PyTorch counts: rows first, the reverse of the file
  uint64_t begin = 0, end = 0;  ///< bytes of the file
  uint64_t bytes() const { return end - begin; }
};

/// One open file; thread-safe.
class GgufFile {
 public:
  /// @throws Error when the file is missing or truncated, of another version or byte order, one part of
  ///         several, or malformed: counts and lengths beyond the file, lists of lists, values of unknown
  ///         type, a key or a tensor that stands there twice, extents that overflow or do not fill blocks,
  ///         tensors that do not lie one behind the other
  explicit GgufFile(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_->path(); }
  const GgufMetadata& metadata() const { return metadata_; }
  const std::vector<GgufTensor>& tensors() const { return tensors_; }  ///< in file order

  const GgufValue* find(const std::string& key) const;           ///< nullptr: absent
  const GgufTensor* find_tensor(const std::string& name) const;  ///< nullptr: absent
  std::span<const std::byte> bytes(const GgufTensor& tensor) const;

  /// @throws Error naming the key when it is absent or of another type (the same for the next)
  std::string text(const std::string& key) const;
  uint64_t number(const std::string& key) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  GgufMetadata metadata_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> key_index_, tensor_index_;
};

/// Whether a file begins as GGUF files do.
bool is_gguf(const std::filesystem::path& path);

}  // namespace visq

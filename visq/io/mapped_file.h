// A file that is read where it lies in memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace visq {

/// Bytes from the front, the lowest first. @param bytes  at most eight
uint64_t little_endian(std::span<const std::byte> bytes);

/// Read-only; unmapped with the object.
class MappedFile {
 public:
  /// @throws Error when the file is missing, not a regular file, or cannot be mapped
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::span<const std::byte> bytes() const { return bytes_; }  ///< empty: of an empty file

 private:
  std::filesystem::path path_;
  std::span<const std::byte> bytes_;
};

}  // namespace visq

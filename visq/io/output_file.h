// A file that is being written: positioned writes whose errors say what a user can do about them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>

namespace visq {

/// The message for a failed write: a full disk, a file-size limit, or what the system says.
/// @param code    errno of the failure
/// @param needed  bytes that were still to be written
[[noreturn]] void fail_write(const std::filesystem::path& path, int code, uint64_t needed);

/// @throws Error "output disk is full: DIR needs N bytes, M free" when the disk of `directory` has less than
/// `needed`
void require_free_space(const std::filesystem::path& directory, uint64_t needed);

/// Created empty, or emptied when it exists. write_at() may be called from several threads for disjoint
/// ranges.
class OutputFile {
 public:
  /// @throws Error when the file cannot be created
  explicit OutputFile(std::filesystem::path path);
  ~OutputFile();
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }

  /// Gives the file its final size and takes the space on the disk now, where the file system can do that.
  void reserve(uint64_t bytes);
  void write_at(uint64_t offset, std::span<const std::byte> bytes);
  void write_at(uint64_t offset, std::string_view text);
  /// Copies a part of another file, without bringing it into this process where the system can do that.
  /// @param begin  its first byte there;  @param bytes  the same bytes, mapped
  void copy_at(uint64_t offset, const std::filesystem::path& source, uint64_t begin,
               std::span<const std::byte> bytes);
  /// @throws Error for writes that the system had delayed and that failed (network file systems)
  void close();

 private:
  std::filesystem::path path_;
  int descriptor_;
};

}  // namespace visq

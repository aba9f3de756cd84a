#include "visq/io/output_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "visq/core/error.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

// Large enough that the system call costs nothing, small enough that the pages of a mapped source are still
// in the cache of the CPU that read them ahead.
constexpr size_t kPieceBytes = 8u << 20;

std::optional<uint64_t> free_bytes(const fs::path& directory) {
  struct statvfs disk {};
  if (statvfs(directory.c_str(), &disk) != 0) return std::nullopt;
  return static_cast<uint64_t>(disk.f_bavail) * disk.f_frsize;
}

[[noreturn]] void fail_full(const fs::path& directory, uint64_t needed, uint64_t free) {
  fail("output disk is full: {} needs {} bytes, {} free", directory.string(), needed, free);
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

}  // namespace

void fail_write(const fs::path& path, int code, uint64_t needed) {
  if (code == ENOSPC) fail_full(folder_of(path), needed, free_bytes(folder_of(path)).value_or(0));
  if (code == EDQUOT) fail("{}: your disk quota is used up, {} bytes are missing", path.string(), needed);
  if (code == EFBIG)
    fail(
        "{}: larger than the file size limit (ulimit -f, or the file system's own): {} bytes cannot be "
        "written",
        path.string(), needed);
  fail("{}: cannot be written ({})", path.string(), std::strerror(code));
}

void require_free_space(const fs::path& directory, uint64_t needed) {
  const auto free = free_bytes(directory);
  if (free && *free < needed) fail_full(directory, needed, *free);
}

OutputFile::OutputFile(fs::path path)
    : path_(std::move(path)),
      descriptor_(open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) fail_write(path_, errno, 0);
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

void OutputFile::reserve(uint64_t bytes) {
  if (bytes == 0) return;
  const auto size = static_cast<off_t>(bytes);
  int result;
  // fallocate, not posix_fallocate: where a file system cannot reserve, the latter writes into every block.
  do result = fallocate(descriptor_, 0, 0, size);
  while (result != 0 && errno == EINTR);
  if (result != 0 && (errno == EOPNOTSUPP || errno == ENOSYS)) result = ftruncate(descriptor_, size);
  if (result != 0) fail_write(path_, errno, bytes);
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const size_t piece = std::min(bytes.size(), kPieceBytes);
    const ssize_t count = pwrite(descriptor_, bytes.data(), piece, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_write(path_, count < 0 ? errno : EIO, bytes.size());
    bytes = bytes.subspan(static_cast<size_t>(count));
    offset += static_cast<uint64_t>(count);
  }
}

void OutputFile::write_at(uint64_t offset, std::string_view text) {
  write_at(offset, std::as_bytes(std::span(text)));
}

void OutputFile::copy_at(uint64_t offset, const fs::path& source, uint64_t begin,
                         std::span<const std::byte> bytes) {
  const int from = open(source.c_str(), O_RDONLY | O_CLOEXEC);
  auto source_offset = static_cast<off_t>(begin), target_offset = static_cast<off_t>(offset);
  while (from >= 0 && !bytes.empty()) {
    const ssize_t count = copy_file_range(from, &source_offset, descriptor_, &target_offset,
                                          std::min(bytes.size(), kPieceBytes), 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;  // not between these file systems, or not at all: what is left is written
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
  if (from >= 0) ::close(from);
  write_at(static_cast<uint64_t>(target_offset), bytes);
}

void OutputFile::close() {
  if (descriptor_ < 0) return;
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail_write(path_, errno, 0);
}

}  // namespace visq

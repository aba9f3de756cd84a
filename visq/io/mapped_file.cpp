#include "visq/io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "visq/core/error.h"

namespace visq {
namespace {

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

}  // namespace

uint64_t little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | std::to_integer<uint64_t>(bytes[i]);
  return value;
}

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  const Descriptor descriptor(path);
  const uint64_t size = regular_file_size(descriptor, path.string());
  if (size == 0) return;
  void* const start = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (start == MAP_FAILED) fail("{}: cannot be mapped into memory ({})", path.string(), std::strerror(errno));
  bytes_ = {static_cast<const std::byte*>(start), size};
  // Layers are read front to back, once: read far ahead, and let go of pages early when memory is short.
  madvise(start, size, MADV_SEQUENTIAL);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace visq

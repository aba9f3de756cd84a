#include "visq/io/output_directory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/log.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

// Links are resolved and a slash at the end goes, so that DIR.partial lies beside DIR on the same disk.
fs::path resolve(const fs::path& directory) {
  std::error_code code;
  fs::path path = fs::weakly_canonical(fs::absolute(directory), code);
  if (code) fail("{}: {}", directory.string(), code.message());
  if (!path.has_filename()) path = path.parent_path();
  if (!path.has_filename()) fail("{}: cannot be an output directory", directory.string());
  return path;
}

void check_target(const fs::path& directory, const OutputDirectory::Options& options) {
  const auto status = fs::symlink_status(directory);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status)) fail("{}: exists and is not a directory", directory.string());
  if (fs::is_empty(directory)) return;
  if (!options.replace_existing)
    fail("{}: exists and is not empty: choose another output or pass --force", directory.string());
  if (!options.recognize(directory))
    fail("{}: exists and does not look like {}: remove it yourself if it may go", directory.string(),
         options.kind);
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

void remove_stale(const fs::path& partial, const OutputDirectory::Options& options) {
  const auto status = fs::symlink_status(partial);
  if (!fs::exists(status)) return;
  if (!fs::is_directory(status) || !(fs::is_empty(partial) || options.recognize(partial)))
    fail("{}: exists and is not the rest of an earlier run: remove it yourself if it may go",
         partial.string());
  const int lock = lock_directory(partial);
  std::error_code code;
  fs::remove_all(partial, code);
  close(lock);
  if (code) fail("{}: the rest of an earlier run cannot be removed ({})", partial.string(), code.message());
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

}  // namespace

void make_directories(const fs::path& directory) {
  std::error_code code;
  fs::create_directories(directory, code);
  if (code) fail("{}: cannot be created ({})", directory.string(), code.message());
}

OutputDirectory::OutputDirectory(const fs::path& directory, Options options)
    : directory_(resolve(directory)),
      partial_(directory_.string() + ".partial"),
      options_(std::move(options)) {
  try {
    check_target(directory_, options_);
    remove_stale(partial_, options_);
    make_directories(directory_.parent_path());
    if (!fs::create_directory(partial_)) fail("{}: another run is writing it", partial_.string());
  } catch (const fs::filesystem_error& e) {
    fail("{}: {}", directory_.string(), e.code().message());
  }
  lock_ = lock_directory(partial_);
}

OutputDirectory::~OutputDirectory() {
  if (lock_ < 0) return;
  std::error_code ignored;
  fs::remove_all(partial_, ignored);
  close(lock_);
}

void OutputDirectory::commit() {
  move_into_place();
  close(std::exchange(lock_, -1));
}

void OutputDirectory::move_into_place() const {
  check_target(directory_, options_);  // it may have come into being since
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

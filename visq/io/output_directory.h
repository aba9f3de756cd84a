// A directory that comes into being as a whole or not at all.
#pragma once
#include <filesystem>
#include <functional>
#include <string>

namespace visq {

/// Its files are written to `DIR.partial/`, which commit() renames to `DIR`. Without commit() the destructor
/// removes it; what a killed run left there, the next run removes. A second run with the same DIR is refused
/// while the first is at work.
class OutputDirectory {
 public:
  struct Options {
    /// --force: an existing DIR is replaced when commit() succeeds, not before. It must be recognized, so
    /// that a mistyped path does not cost a home directory.
    bool replace_existing = false;
    std::string kind;  ///< "a checkpoint", for errors
    /// Whether a directory with something in it is of this kind, finished or the rest of a killed run.
    std::function<bool(const std::filesystem::path&)> recognize;
  };

  /// @throws Error when DIR exists and is not empty (without replace_existing), or cannot be created
  OutputDirectory(const std::filesystem::path& directory, Options options);
  ~OutputDirectory();
  OutputDirectory(const OutputDirectory&) = delete;
  OutputDirectory& operator=(const OutputDirectory&) = delete;

  const std::filesystem::path& path() const { return directory_; }  ///< DIR, absolute
  const std::filesystem::path& partial() const { return partial_; }
  /// The last thing to be done: all files are written and closed.
  void commit();

 private:
  void move_into_place() const;

  std::filesystem::path directory_, partial_;
  Options options_;
  int lock_ = -1;  // descriptor of the partial directory, which tells other runs that it is in use
};

/// Creates it, and what it lies in, unless it exists. @throws Error when that fails
void make_directories(const std::filesystem::path& directory);

}  // namespace visq

// Quantized checkpoints in and out of whole-model formats (export/model_format.h).
#pragma once
#include <filesystem>
#include <optional>
#include <string>

#include "visq/io/output_directory.h"
#include "visq/pipeline/convert.h"

namespace visq {

/// Writes a quantized checkpoint in a model format, reads it back and compares it.
/// @throws Error as convert()
ConvertResult convert_to_model_format(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                                      const ModelFormat& format, const ConvertOptions& options);

/// The way back: what `options.checkpoint` holds, in the layout `options.to` ("auto": modelopt where that
/// holds it), and all that it does not hold from `options.source`. Likewise compared.
/// @throws Error as convert(), and when the source is missing, quantized itself, or another model
ConvertResult restore(const ModelFormat& format, const ConvertOptions& options);

/// An empty directory that nobody else uses, and that goes with this object.
class TemporaryDirectory {
 public:
  /// @param parent  where; created if need be
  TemporaryDirectory(const std::filesystem::path& parent, const std::string& name);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// A checkpoint that visq can run: the given one, or what restore() makes of one in a model format, in a
/// temporary directory.
class RunnableCheckpoint {
 public:
  /// @param source, to  as in ConvertOptions
  RunnableCheckpoint(const std::filesystem::path& checkpoint, const std::filesystem::path& source,
                     const std::string& to = "auto");
  const std::filesystem::path& directory() const { return directory_; }
  /// What restore() said; empty: the checkpoint is run as it is.
  const std::optional<ConvertResult>& restored() const { return restored_; }

 private:
  std::filesystem::path directory_;
  std::optional<ConvertResult> restored_;
  std::optional<TemporaryDirectory> temporary_;
};

/// How outputs in model formats are opened.
OutputDirectory::Options model_format_output_options(bool force);

/// Bytes of a file, or of all regular files in a directory.
uint64_t bytes_in(const std::filesystem::path& path);

}  // namespace visq

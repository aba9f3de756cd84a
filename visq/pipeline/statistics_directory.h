// Calibration on disk: a directory of one .safetensors file for each decoder layer and a statistics.json,
// from which any format can be made without another forward pass.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "visq/io/output_directory.h"
#include "visq/pipeline/layer_statistics_file.h"

namespace visq {

/// statistics.json: whose statistics these are and what of.
struct StatisticsManifest {
  std::string family;
  std::string model;                         ///< name of its directory, for people
  std::string fingerprint;                   ///< of its checkpoint
  std::string merged_adapter;                ///< that its weights have taken; "": none
  std::string image_profile, compute_dtype;  ///< of the forward pass: "tv", "F32"
  bool gram = true;                          ///< Gram matrices are there too
  int64_t samples = 0, samples_left_out = 0, text_tokens = 0, image_tokens = 0;
  std::optional<ModalitySensitivity>
      sensitivity;  ///< empty: no sample had an image and an answer, and was short enough
  std::vector<LayerShape> layers;
};

/// Reads one layer at a time. Everything is checked when it is opened, but for the values of tensors.
class StatisticsDirectory {
 public:
  /// @throws Error naming the file, and the key or the tensor
  explicit StatisticsDirectory(std::filesystem::path directory);

  const std::filesystem::path& directory() const { return directory_; }
  const StatisticsManifest& manifest() const { return manifest_; }
  /// @throws Error when the statistics are another model's, or of one with another adapter in its weights
  void check_model(const Model& model) const;
  /// @param detail  what is wanted of it; Gram matrices where there are any
  /// @throws Error naming file and tensor
  LayerStatistics read_layer(int64_t layer, at::Device device, Detail detail = Detail::gram) const;

 private:
  std::filesystem::path directory_;
  StatisticsManifest manifest_;
};

/// Layers may come in any order. Nothing is left at the path without finish().
class StatisticsWriter {
 public:
  /// @param replace_existing  also a directory with something in it, as long as that is statistics
  StatisticsWriter(const std::filesystem::path& directory, bool replace_existing);
  /// @throws Error when the disk has no room for statistics like these
  void require_space(const StatisticsManifest& manifest) const;
  void write_layer(int64_t layer, const LayerStatistics& statistics, const LayerShape& shape);
  /// @param manifest  of the layers that were written, all of them. @return bytes of all files
  uint64_t finish(const StatisticsManifest& manifest);

 private:
  OutputDirectory output_;
};

struct CalibrateOptions {
  CalibrationOptions calibration;
  std::filesystem::path out;
  std::string image_profile = "tv";  ///< of the model
  bool with_gram = true;             ///< what AWQ, GPTQ and searches by output error need
  bool force = false;
};

/// What was written.
struct StatisticsResult {
  StatisticsManifest manifest;
  uint64_t bytes = 0;
  double seconds = 0;
  int64_t peak_resident = 0;
};

/// The calibration pass alone, to disk. On any error or interrupt nothing is left at the output path.
StatisticsResult calibrate(const Model& model, const CalibrateOptions& options);

/// The sum of directories, which is as good as one calibration on all of their data: the same up to the order
/// of additions. Whether an expert has enough tokens of its own is decided anew; one that has too few borrows
/// all that was borrowed.
/// @throws Error when they are fewer than two, or differ in more than the data
StatisticsResult merge_statistics(const std::vector<std::filesystem::path>& directories,
                                  const std::filesystem::path& out, bool force);

}  // namespace visq

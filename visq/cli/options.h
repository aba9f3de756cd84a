// Options that several commands share.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "visq/cli/command_line.h"
#include "visq/export/model_format.h"
#include "visq/inputs/image_resample.h"
#include "visq/pipeline/calibrate.h"

namespace visq {

/// --device, --dtype, --threads, --image-profile.
struct ComputeOptions {
  std::string device = "auto", dtype = "auto", image_profile = "tv";
  int threads = 0;

  void add_to(Command& command);
  /// Applies --threads. @throws Error for an unknown device or dtype
  at::Device resolve_device() const;
  std::optional<at::ScalarType> resolve_dtype() const;  ///< empty: auto
  ImageProfile resolve_image_profile() const;           ///< @throws Error for an unknown one
};

/// --calib, --samples, --seq-len, --text-only.
struct CalibrationArguments {
  std::string data;
  int64_t samples = 512, seq_len = 2048;
  bool text_only = false;

  /// @param more  what --calib takes besides a file, for its help
  /// @return the options, --calib first
  std::vector<CommandOption> add_to(Command& command, const std::string& more = {});
  CalibrationOptions options() const { return {data, samples, seq_len, text_only}; }
};

/// --tp, --pp.
void add_sharding(Command& command, Sharding& sharding);

/// @throws Error for a checkpoint that is quantized already
void require_original(const Checkpoint& checkpoint);

/// Splits "a,b" at commas. @throws Error naming `option` for an empty part
std::vector<std::string> split_list(const std::string& text, const std::string& option);

}  // namespace visq

// Options that several commands share.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "visq/cli/command_line.h"
#include "visq/inputs/image_resample.h"

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

/// Splits "a,b" at commas. @throws Error naming `option` for an empty part
std::vector<std::string> split_list(const std::string& text, const std::string& option);

}  // namespace visq

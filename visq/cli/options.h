// Options that several commands share.
#pragma once
#include <ATen/core/Tensor.h>

#include <CLI/CLI.hpp>
#include <optional>
#include <string>

namespace visq {

/// --device, --dtype, --threads.
struct ComputeOptions {
  std::string device = "auto", dtype = "auto";
  int threads = 0;

  void add_to(CLI::App& command);
  /// Applies --threads. @throws Error for an unknown device or dtype
  at::Device resolve_device() const;
  std::optional<at::ScalarType> resolve_dtype() const;  ///< empty: auto
};

/// Splits "a,b" at commas. @throws Error naming `option` for an empty part
std::vector<std::string> split_list(const std::string& text, const std::string& option);

}  // namespace visq

// Logs and progress go to stderr; stdout belongs to results.
#pragma once
#include <chrono>
#include <cstdint>
#include <string>

namespace visq {

void log_info(const std::string& line);
void log_warning(const std::string& line);
/// Silences everything below warnings.
void set_quiet(bool quiet);

/// One line on stderr that redraws itself on a terminal: what is done, how much, an estimate of what is left.
/// Prints nothing where stderr is no terminal, except the final line.
class Progress {
 public:
  Progress(std::string title, int64_t total);
  ~Progress();
  /// @param detail  what is being worked on, e.g. "layer 3"
  void advance(int64_t done, const std::string& detail = {});

 private:
  std::string title_;
  int64_t total_;
  std::chrono::steady_clock::time_point start_;
};

}  // namespace visq

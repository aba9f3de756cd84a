#include "visq/core/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "visq/core/format.h"

namespace visq {
namespace {

std::atomic<bool> quiet_mode{false};

}  // namespace

void log_info(const std::string& line) {
  if (!quiet_mode) visq::print(stderr, "{}\n", line);
}
void log_warning(const std::string& line) { visq::print(stderr, "warning: {}\n", line); }
void set_quiet(bool quiet) { quiet_mode = quiet; }

Progress::Progress(std::string title, int64_t total)
    : title_(std::move(title)), total_(total), start_(std::chrono::steady_clock::now()) {}

Progress::~Progress() {
  if (isatty(STDERR_FILENO)) std::fputs("\r\033[K", stderr);
}

void Progress::advance(int64_t done, const std::string& detail) {
  if (!isatty(STDERR_FILENO) || quiet_mode) return;
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const double left = done > 0 ? seconds * static_cast<double>(total_ - done) / static_cast<double>(done) : 0;
  visq::print(stderr, "\r\033[K{} {}/{} {} · {:.0f} s, about {:.0f} s left", title_, done, total_, detail,
              seconds, left);
  std::fflush(stderr);
}

}  // namespace visq

#include "visq/core/process.h"

#include <ATen/Context.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <mutex>

#include "visq/core/error.h"

namespace visq {
namespace {

std::atomic<bool> interrupted{false};

void on_signal(int signal) {
  if (interrupted.exchange(true)) _Exit(128 + signal);
}

int64_t resident_anonymous() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssAnon:", 0) == 0) return std::atoll(line.c_str() + 8) * 1024;
  return 0;
}

}  // namespace

void catch_interrupts() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit then is a failed write with a message
}

void check_interrupt() {
  if (interrupted.load(std::memory_order_relaxed)) throw Interrupted();
}

MemoryUse memory_use() {
  static std::mutex mutex;
  static int64_t peak_anonymous = 0;
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const std::lock_guard lock(mutex);
  peak_anonymous = std::max(peak_anonymous, resident_anonymous());
  return {static_cast<int64_t>(usage.ru_maxrss) * 1024, peak_anonymous};
}

at::Device parse_device(const std::string& name) {
  const bool has_cuda = at::hasCUDA();  // counts devices: false for a CUDA build on a machine without one
  if (name == "auto") return at::Device(has_cuda ? at::kCUDA : at::kCPU);
  if (name == "cpu") return at::Device(at::kCPU);
  if (name == "cuda") {
    if (!has_cuda) fail("--device cuda: this libtorch sees no CUDA device; use --device cpu");
    return at::Device(at::kCUDA, 0);
  }
  fail("--device {}: choose auto, cpu or cuda", name);
}

}  // namespace visq

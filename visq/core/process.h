// What this process is told and what it uses: interrupts, memory, devices.
#pragma once
#include <ATen/core/Tensor.h>

#include <exception>
#include <string>

namespace visq {

/// Thrown by check_interrupt() after Ctrl-C or SIGTERM, so that destructors remove half-written output.
class Interrupted : public std::exception {
 public:
  const char* what() const noexcept override { return "interrupted"; }
};

/// Makes SIGINT and SIGTERM set a flag (a second one ends the process at once).
void catch_interrupts();
/// @throws Interrupted once the flag is set; long loops call it between pieces of work
void check_interrupt();

struct MemoryUse {
  int64_t peak_resident = 0;   ///< bytes, mapped files included
  int64_t peak_anonymous = 0;  ///< bytes; the largest value seen by the calls of memory_use()
};
MemoryUse memory_use();

/// @param name  "auto" (CUDA when there is one), "cpu" or "cuda"
/// @throws Error for another name, or for "cuda" where there is none
at::Device parse_device(const std::string& name);

}  // namespace visq

// The one exception type for everything a user can mend: bad files, bad options, bad samples.
#pragma once
#include <stdexcept>
#include <string>
#include <utility>

#include "visq/core/format.h"

namespace visq {

/// What went wrong, in one line that names the file, the tensor or the option, and the way out.
/// The program ends with exit code 2.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(visq::format(format, std::forward<Args>(args)...));
}

}  // namespace visq

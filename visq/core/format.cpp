#include "visq/core/format.h"

namespace visq {

std::string vformat(fmt::string_view text, fmt::format_args arguments) {
  return fmt::vformat(text, arguments);
}

void vprint(std::FILE* file, fmt::string_view text, fmt::format_args arguments) {
  fmt::vprint(file, text, arguments);
}

}  // namespace visq

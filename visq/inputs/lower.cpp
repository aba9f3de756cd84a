#include <utf8proc.h>

#include <array>

#include "visq/inputs/unicode.h"

namespace visq {
namespace {

/// A run of capitals whose small letters lie `distance` behind them.
struct CaseRun {
  char32_t first, last, step;
  int distance;
};

/// Pairs of Unicode 16 and 17, which the reference knows and utf8proc (Unicode 15) does not.
constexpr std::array<CaseRun, 8> kNewerPairs{{{0x1C89, 0x1C89, 1, 1},
                                              {0xA7CB, 0xA7CB, 1, 0x264 - 0xA7CB},
                                              {0xA7CC, 0xA7CE, 2, 1},
                                              {0xA7D2, 0xA7D4, 2, 1},
                                              {0xA7DA, 0xA7DA, 1, 1},
                                              {0xA7DC, 0xA7DC, 1, 0x19B - 0xA7DC},
                                              {0x10D50, 0x10D65, 1, 0x20},
                                              {0x16EA0, 0x16EB8, 1, 0x1B}}};

char32_t small_letter(char32_t c) {
  for (const CaseRun& run : kNewerPairs)
    if (c >= run.first && c <= run.last && (c - run.first) % run.step == 0)
      return static_cast<char32_t>(static_cast<int>(c) + run.distance);
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

}  // namespace

std::string to_lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t c = next_char(text, i);
    append_utf8(out, small_letter(c));
    if (c == 0x130) append_utf8(out, 0x307);  // the dot of İ survives as a mark
  }
  return out;
}

}  // namespace visq

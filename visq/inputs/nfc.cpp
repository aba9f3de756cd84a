#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

// Marks and compositions younger than Unicode 9: the reference treats them as plain characters.
constexpr CodeRange kInert[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},   {0x0C3C, 0x0C3C},
    {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},   {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},
    {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50},
    {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF},
};

bool is_inert(char32_t c) {
  const auto it = std::lower_bound(std::begin(kInert), std::end(kInert), c,
                                   [](const CodeRange& range, char32_t value) { return range.last < value; });
  return it != std::end(kInert) && it->first <= c;
}

void append_composed(std::string& out, std::string_view run) {
  if (run.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const auto size = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                 static_cast<utf8proc_ssize_t>(run.size()), &mapped, options);
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> guard(mapped, std::free);
  if (size < 0) fail("text cannot be brought to NFC: {}", utf8proc_errmsg(size));
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(size));
}

}  // namespace

std::string to_nfc(std::string_view text) {
  // Nothing below U+0300 composes; its first byte in UTF-8 is 0xCC.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size());
  // An inert character blocks reordering and composition, so the runs between them are independent.
  size_t run = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (!is_inert(next_char(text, i))) continue;
    append_composed(out, text.substr(run, begin - run));
    out.append(text.substr(begin, i - begin));
    run = i;
  }
  append_composed(out, text.substr(run));
  return out;
}

}  // namespace visq

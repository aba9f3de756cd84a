#include "visq/core/text.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <utility>

#include "visq/core/error.h"

namespace visq {

std::string human_bytes(uint64_t bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return unit == 0 ? visq::format("{} B", bytes)
                   : visq::format("{:.{}f} {}", value, value < 100 ? 1 : 0, kUnits[unit]);
}

uint64_t parse_bytes(const std::string& text, const std::string& option) {
  static const std::vector<std::pair<std::string, double>> kUnits = {{"", 1},
                                                                     {"b", 1},
                                                                     {"kb", 1e3},
                                                                     {"mb", 1e6},
                                                                     {"gb", 1e9},
                                                                     {"tb", 1e12},
                                                                     {"kib", 1024},
                                                                     {"mib", 1024 * 1024},
                                                                     {"gib", 1024.0 * 1024 * 1024}};
  double number = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  std::erase(unit, ' ');
  std::ranges::transform(unit, unit.begin(), [](unsigned char c) { return std::tolower(c); });
  const auto known = std::ranges::find(kUnits, unit, &std::pair<std::string, double>::first);
  if (code != std::errc() || known == kUnits.end() || !(number >= 0 && number * known->second < 1e18))
    fail("{} '{}': expected bytes, such as 4.5GB, 800MiB or 1000000", option, text);
  return static_cast<uint64_t>(number * known->second);
}

size_t display_width(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string format_table(const std::vector<std::vector<std::string>>& rows,
                         const std::vector<size_t>& right) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line = "  ";
    for (size_t i = 0; i < rows[r].size(); ++i) {
      const std::string padding(widths[i] - display_width(rows[r][i]), ' ');
      const bool to_right = std::find(right.begin(), right.end(), i) != right.end();
      line += to_right ? padding + rows[r][i] : rows[r][i] + padding;
      line += "   ";
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
    if (r == 0) {
      size_t total = 0;
      for (const size_t width : widths) total += width + 3;
      text += "  ";
      for (size_t i = 0; i + 3 < total; ++i) text += "─";
      text += "\n";
    }
  }
  return text;
}

}  // namespace visq

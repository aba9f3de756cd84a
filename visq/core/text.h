// Numbers and tables for people.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace visq {

/// "14.2 MB", decimal units.
std::string human_bytes(uint64_t bytes);

/// "4.5GB", "800 MiB", "1000000": bytes; units of 1000 and of 1024.
/// @throws Error naming the option
uint64_t parse_bytes(const std::string& text, const std::string& option);

/// A table with aligned columns; the first row is the heading. Text left-aligned, columns named in `right`
/// right-aligned.
std::string format_table(const std::vector<std::vector<std::string>>& rows,
                         const std::vector<size_t>& right = {});

/// Columns a terminal uses for UTF-8 text without wide characters.
size_t display_width(const std::string& text);

}  // namespace visq

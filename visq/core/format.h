// Text with values in it, by fmt's rules. fmt's engine is compiled once, in format.cpp: newer libtorch brings
// fmt headers of its own, which no installed library matches, and header-only fmt would cost seconds in every
// file.
#pragma once
#include <fmt/format.h>

#include <cstdio>
#include <string>

namespace visq {

std::string vformat(fmt::string_view text, fmt::format_args arguments);
void vprint(std::FILE* file, fmt::string_view text, fmt::format_args arguments);

// Called with their namespace: std::string arguments would bring in std::format otherwise.
template <typename... Args>
std::string format(fmt::format_string<Args...> text, Args&&... args) {
  return visq::vformat(text, fmt::make_format_args(args...));
}

template <typename... Args>
void print(std::FILE* file, fmt::format_string<Args...> text, Args&&... args) {
  visq::vprint(file, text, fmt::make_format_args(args...));
}

template <typename... Args>
void print(fmt::format_string<Args...> text, Args&&... args) {
  visq::vprint(stdout, text, fmt::make_format_args(args...));
}

}  // namespace visq

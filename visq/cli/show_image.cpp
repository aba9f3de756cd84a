#include "visq/cli/show_image.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include "visq/core/format.h"

namespace visq {
namespace {

constexpr int64_t kColumns = 32;

}  // namespace

std::string image_as_text(const at::Tensor& image) {
  const int64_t rows =
      std::max<int64_t>(2, kColumns * image.size(1) / image.size(2) / 2 * 2);  // pixels; two a line
  const at::Tensor small =
      at::_upsample_bilinear2d_aa(image.unsqueeze(0).to(at::kFloat), {rows, kColumns}, false)
          .round()
          .to(at::kInt);
  const auto pixel = small.accessor<int, 4>();
  const bool colour = isatty(STDOUT_FILENO);
  static constexpr char kShades[] = " .:-=+*#%@";
  std::string text;
  for (int64_t y = 0; y < rows; y += 2) {
    text += "    ";
    for (int64_t x = 0; x < kColumns; ++x) {
      const auto channel = [&](int64_t c, int64_t row) { return std::clamp(pixel[0][c][row][x], 0, 255); };
      if (colour) {
        text += visq::format("\033[38;2;{};{};{}m\033[48;2;{};{};{}m▀", channel(0, y), channel(1, y),
                             channel(2, y), channel(0, y + 1), channel(1, y + 1), channel(2, y + 1));
      } else {
        int sum = 0;
        for (int64_t c = 0; c < 3; ++c) sum += channel(c, y) + channel(c, y + 1);
        text += kShades[9 - sum * 9 / (6 * 255)];
      }
    }
    text += colour ? "\033[0m\n" : "\n";
  }
  return text;
}

}  // namespace visq

#include "visq/inputs/image_resample.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "visq/core/error.h"
#include "visq/inputs/image.h"

namespace visq {
namespace {

constexpr int kMaxPrecision = 22;  // 32 bits less 8 of the pixel and 2 for overshoot

double support_of(Resampling filter) {
  return filter == Resampling::bilinear ? 1 : filter == Resampling::bicubic ? 2 : 3;
}

double sinc(double x) {
  if (x == 0) return 1;
  x *= std::numbers::pi;
  return std::sin(x) / x;
}

double cubic(double x) {
  constexpr double a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double filter_value(Resampling filter, double x) {
  if (filter == Resampling::lanczos) return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0;
  x = std::abs(x);
  if (filter == Resampling::bicubic) return cubic(x);
  return x < 1 ? 1 - x : 0;
}

/// What each output pixel of one axis reads: `values[first..first+count)` weigh the inputs from `start` on.
struct Weights {
  struct Window {
    int64_t start, count, first;
  };
  std::vector<Window> windows;  // one per output pixel
  std::vector<int32_t> values;  // fixed point
  int precision = kMaxPrecision;
};

int32_t fixed_point(double weight, int precision) {
  return static_cast<int32_t>(weight * (1 << precision) + (weight < 0 ? -0.5 : 0.5));
}

/// Bits behind the point: as many as the profile has room for (spec/inputs.md §6.4). tv keeps weights in 16
/// bits.
int precision_for(const std::vector<double>& weights, ImageProfile profile) {
  if (profile == ImageProfile::pil) return kMaxPrecision;
  const double largest = *std::ranges::max_element(weights);
  int precision = 0;
  while (precision < kMaxPrecision &&
         static_cast<int64_t>(0.5 + largest * (1 << (precision + 1))) < (1 << 15))
    ++precision;
  return precision;
}

Weights weights_of(int64_t in, int64_t out, Resampling filter, ImageProfile profile) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double stretch = std::max(scale, 1.0), support = support_of(filter) * stretch;
  Weights weights;
  std::vector<double> raw, all;
  for (int64_t i = 0; i < out; ++i) {
    const double centre = (static_cast<double>(i) + 0.5) * scale;
    const auto start = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
    const auto end = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in);
    raw.clear();
    double sum = 0;
    for (int64_t j = start; j < end; ++j) {
      raw.push_back(filter_value(filter, (static_cast<double>(j) - centre + 0.5) * (1 / stretch)));
      sum += raw.back();
    }
    weights.windows.push_back({start, end - start, static_cast<int64_t>(all.size())});
    const auto share = [&](double value) {
      return profile == ImageProfile::pil ? value * (1 / sum) : value / sum;
    };
    for (const double value : raw) all.push_back(sum != 0 ? share(value) : value);
  }
  weights.precision = precision_for(all, profile);
  for (const double value : all) weights.values.push_back(fixed_point(value, weights.precision));
  return weights;
}

uint8_t to_byte(int32_t sum, int precision) {
  return static_cast<uint8_t>(std::clamp(sum >> precision, 0, 255));
}

at::Tensor resize_rows(const at::Tensor& image, int64_t width, Resampling filter, ImageProfile profile) {
  const at::Tensor source = image.contiguous();
  at::Tensor out = at::empty({3, source.size(1), width}, source.options());
  const Weights weights = weights_of(source.size(2), width, filter, profile);
  const int32_t half = (1 << weights.precision) / 2;
  const auto* from = source.const_data_ptr<uint8_t>();
  auto* to = out.mutable_data_ptr<uint8_t>();
  for (int64_t row = 0; row < 3 * source.size(1); ++row, from += source.size(2), to += width) {
    for (int64_t i = 0; i < width; ++i) {
      const auto& window = weights.windows[i];
      const int32_t* weight = weights.values.data() + window.first;
      int32_t sum = half;
      for (int64_t j = 0; j < window.count; ++j) sum += from[window.start + j] * weight[j];
      to[i] = to_byte(sum, weights.precision);
    }
  }
  return out;
}

at::Tensor resize_columns(const at::Tensor& image, int64_t height, Resampling filter, ImageProfile profile) {
  const at::Tensor source = image.contiguous();
  const int64_t width = source.size(2);
  at::Tensor out = at::empty({3, height, width}, source.options());
  const Weights weights = weights_of(source.size(1), height, filter, profile);
  const int32_t half = (1 << weights.precision) / 2;
  auto* to = out.mutable_data_ptr<uint8_t>();
  std::vector<int32_t> sums(width);
  for (int64_t channel = 0; channel < 3; ++channel) {
    const uint8_t* plane = source.const_data_ptr<uint8_t>() + channel * source.size(1) * width;
    for (int64_t i = 0; i < height; ++i, to += width) {
      const auto& window = weights.windows[i];
      std::fill(sums.begin(), sums.end(), half);
      for (int64_t j = 0; j < window.count; ++j) {
        const uint8_t* row = plane + (window.start + j) * width;
        const int32_t weight = weights.values[window.first + j];
        for (int64_t x = 0; x < width; ++x) sums[x] += row[x] * weight;
      }
      for (int64_t x = 0; x < width; ++x) to[x] = to_byte(sums[x], weights.precision);
    }
  }
  return out;
}

void check_target(ImageSize in, ImageSize size) {
  if (size.height < 1 || size.width < 1 || size.height > kMaxImagePixels / size.width)
    fail("an image of {}x{} pixels would be resized to {}x{}: its shape is too extreme", in.width, in.height,
         size.width, size.height);
}

}  // namespace

ImageSize size_of(const at::Tensor& image) { return {image.size(-2), image.size(-1)}; }

at::Tensor resize_as_pillow(const at::Tensor& image, ImageSize size, Resampling filter) {
  const ImageSize in = size_of(image);
  constexpr ImageProfile pil = ImageProfile::pil;
  const bool columns_first = size.height < in.height && in.height - size.height > 2 * (in.width - size.width);
  at::Tensor out = image;
  if (columns_first) out = resize_columns(out, size.height, filter, pil);
  if (size.width != in.width) out = resize_rows(out, size.width, filter, pil);
  if (!columns_first && size.height != in.height) out = resize_columns(out, size.height, filter, pil);
  return out;
}

at::Tensor resize_image(const at::Tensor& image, ImageSize size, Resampling filter, ImageProfile profile) {
  if (size_of(image) == size) return image;
  check_target(size_of(image), size);
  if (profile == ImageProfile::pil) return resize_as_pillow(image, size, filter);
  const at::Tensor batch = image.unsqueeze(0);
  const std::vector<int64_t> target{size.height, size.width};
  switch (filter) {
    case Resampling::bilinear:
      return at::_upsample_bilinear2d_aa(batch, target, false).squeeze(0);
    case Resampling::bicubic:
      return at::_upsample_bicubic2d_aa(batch, target, false).squeeze(0);
    case Resampling::lanczos:  // which not every libtorch has
      return resize_columns(resize_rows(image, size.width, filter, profile), size.height, filter, profile);
  }
  fail("unknown resampling {}", static_cast<int>(filter));
}

at::Tensor resize_float(const at::Tensor& image, ImageSize size, Resampling filter) {
  check_target(size_of(image), size);
  const at::Tensor batch = image.unsqueeze(0);
  const std::vector<int64_t> target{size.height, size.width};
  return (filter == Resampling::bilinear ? at::upsample_bilinear2d(batch, target, false)
                                         : at::upsample_bicubic2d(batch, target, false))
      .squeeze(0);
}

}  // namespace visq

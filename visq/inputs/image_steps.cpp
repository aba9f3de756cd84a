#include "visq/inputs/image_steps.h"

#include <ATen/ATen.h>

namespace visq {
namespace {

/// Values per channel, for broadcasting over [..., 3, height, width].
at::Tensor channel_values(const std::vector<double>& values, at::ScalarType type = at::kFloat) {
  return at::tensor(values, at::kDouble).to(type).view({3, 1, 1});
}

at::Tensor float_copy(const at::Tensor& image) {
  return image.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
}

/// With both steps on, mean and std are scaled once and each pixel is subtracted and divided.
at::Tensor normalized_as_torchvision(const at::Tensor& image, const Normalization& steps) {
  if (!steps.normalize) return steps.rescale ? image * steps.rescale_factor : image.to(at::kFloat);
  at::Tensor mean = channel_values(steps.mean), std = channel_values(steps.std);
  if (steps.rescale) {
    mean = mean * (1.0 / steps.rescale_factor);
    std = std * (1.0 / steps.rescale_factor);
  }
  return float_copy(image).sub_(mean).div_(std);
}

/// The product is taken in double and rounded once.
at::Tensor normalized_as_numpy(const at::Tensor& image, const Normalization& steps) {
  at::Tensor out =
      steps.rescale ? image.to(at::kDouble).mul_(steps.rescale_factor).to(at::kFloat) : float_copy(image);
  if (steps.normalize) out.sub_(channel_values(steps.mean)).div_(channel_values(steps.std));
  return out;
}

at::Tensor pad_at(const at::Tensor& image, ImageSize size, PadColor color, int64_t top, int64_t left) {
  const ImageSize in = size_of(image);
  at::Tensor out = at::empty({3, size.height, size.width}, image.options());
  for (int64_t channel = 0; channel < 3; ++channel) out[channel].fill_(color.fill[channel]);
  out.narrow(1, top, in.height).narrow(2, left, in.width).copy_(image);
  return out;
}

}  // namespace

at::Tensor pad_centred(const at::Tensor& image, ImageSize size, PadColor color) {
  const ImageSize in = size_of(image);
  if (in == size) return image;
  return pad_at(image, size, color, (size.height - in.height) / 2, (size.width - in.width) / 2);
}

at::Tensor pad_to_square(const at::Tensor& image, const std::vector<double>& mean) {
  const int64_t side = std::max(image.size(1), image.size(2));
  const auto byte = [&](size_t channel) { return static_cast<int64_t>(mean[channel] * 255); };
  return pad_centred(image, {side, side}, {{byte(0), byte(1), byte(2)}});
}

at::Tensor pad_at_end(const at::Tensor& image, ImageSize size, int64_t fill) {
  return size_of(image) == size ? image : pad_at(image, size, {{fill, fill, fill}}, 0, 0);
}

at::Tensor center_crop(const at::Tensor& image, ImageSize crop, ImageProfile profile) {
  const ImageSize in = size_of(image);
  const ImageSize canvas{std::max(in.height, crop.height), std::max(in.width, crop.width)};
  const int64_t round_up = profile == ImageProfile::pil;
  const int64_t top = (canvas.height - in.height + round_up) / 2;
  const int64_t left = (canvas.width - in.width + round_up) / 2;
  const at::Tensor padded = canvas == in ? image : pad_at(image, canvas, {}, top, left);
  return padded.narrow(1, (canvas.height - crop.height) / 2, crop.height)
      .narrow(2, (canvas.width - crop.width) / 2, crop.width);
}

at::Tensor normalized(const at::Tensor& image, const Normalization& steps, ImageProfile profile) {
  if (steps.as_to_tensor)
    return image.to(at::kFloat)
        .div_(255)
        .sub_(channel_values(steps.mean, at::kFloat))
        .div_(channel_values(steps.std, at::kFloat))
        .contiguous();
  const at::Tensor out = profile == ImageProfile::pil ? normalized_as_numpy(image, steps)
                                                      : normalized_as_torchvision(image, steps);
  return out.contiguous();
}

at::Tensor normalized_in_bf16(const at::Tensor& image, const Normalization& steps) {
  if (!steps.normalize) return normalized(image, steps, ImageProfile::tv);
  const at::Tensor scaled = image.to(at::kBFloat16) * steps.rescale_factor;
  return scaled.sub(channel_values(steps.mean, at::kBFloat16))
      .div_(channel_values(steps.std, at::kBFloat16))
      .to(at::kFloat);
}

at::Tensor cut_tiles(const at::Tensor& image, ImageSize tile) {
  const int64_t rows = image.size(1) / tile.height, columns = image.size(2) / tile.width;
  return image.reshape({3, rows, tile.height, columns, tile.width})
      .permute({1, 3, 0, 2, 4})
      .reshape({rows * columns, 3, tile.height, tile.width})
      .contiguous();
}

at::Tensor flattened_patches(const at::Tensor& frames, int64_t patch, int64_t merge, int64_t temporal) {
  const int64_t grid_h = frames.size(2) / patch, grid_w = frames.size(3) / patch;
  return frames.reshape({-1, temporal, 3, grid_h / merge, merge, patch, grid_w / merge, merge, patch})
      .permute({0, 3, 6, 4, 7, 2, 1, 5, 8})  // [n, grid_h/merge, grid_w/merge, merge, merge, 3, temporal, …]
      .reshape({-1, 3 * temporal * patch * patch});
}

}  // namespace visq

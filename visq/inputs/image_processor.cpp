#include "visq/inputs/image_processor.h"

#include <ATen/ATen.h>

#include <cfenv>
#include <cmath>

#include "visq/core/error.h"
#include "visq/inputs/image.h"

namespace visq {
namespace {

struct Size {
  int64_t height, width;
  bool operator==(const Size&) const = default;
};

Size size_of(const at::Tensor& image) { return {image.size(1), image.size(2)}; }

/// 8-bit antialiased resize. Never through float: bicubic overshoot would survive and differ by tens of
/// steps.
at::Tensor resize_to(const at::Tensor& image, Size size, int resample) {
  if (size_of(image) == size) return image;
  if (size.height < 1 || size.width < 1 || size.height > kMaxImagePixels / size.width)
    fail("an image of {}x{} pixels would be resized to {}x{}: its shape is too extreme", image.size(2),
         image.size(1), size.width, size.height);
  const at::Tensor batch = image.unsqueeze(0);
  const std::vector<int64_t> target{size.height, size.width};
  const at::Tensor out = resample == 2 ? at::_upsample_bilinear2d_aa(batch, target, /*align_corners=*/false)
                                       : at::_upsample_bicubic2d_aa(batch, target, /*align_corners=*/false);
  return out.squeeze(0);
}

/// The short side becomes `shortest`, the long side is truncated to whole pixels.
Size shortest_edge_size(Size in, int64_t shortest) {
  const auto [low, high] = std::minmax(in.height, in.width);
  const auto longer = static_cast<int64_t>(static_cast<double>(shortest) * static_cast<double>(high) /
                                           static_cast<double>(low));
  return in.width <= in.height ? Size{longer, shortest} : Size{shortest, longer};
}

/// Both sides multiples of `factor`, area within [min_pixels, max_pixels], aspect kept as closely as
/// possible.
Size smart_size(Size in, int64_t factor, int64_t min_pixels, int64_t max_pixels) {
  const auto [low, high] = std::minmax(in.height, in.width);
  if (static_cast<double>(high) / static_cast<double>(low) > 200)
    fail("an image of {}x{} pixels has an aspect ratio above 200", in.width, in.height);
  const auto h = static_cast<double>(in.height), w = static_cast<double>(in.width);
  const auto f = static_cast<double>(factor);
  const auto whole = [&](double steps) { return static_cast<int64_t>(steps) * factor; };
  // nearbyint rounds halves to even, as Python's round.
  const Size rounded{whole(std::nearbyint(h / f)), whole(std::nearbyint(w / f))};
  if (rounded.height * rounded.width > max_pixels) {
    const double beta = std::sqrt(h * w / static_cast<double>(max_pixels));
    return {std::max(factor, whole(std::floor(h / beta / f))),
            std::max(factor, whole(std::floor(w / beta / f)))};
  }
  if (rounded.height * rounded.width < min_pixels) {
    const double beta = std::sqrt(static_cast<double>(min_pixels) / (h * w));
    return {whole(std::ceil(h * beta / f)), whole(std::ceil(w * beta / f))};
  }
  return rounded;
}

/// Centres the image on a square of its longer side, coloured int(mean · 255).
at::Tensor pad_to_square(const at::Tensor& image, const std::vector<double>& mean) {
  const auto [height, width] = size_of(image);
  if (height == width) return image;
  const int64_t side = std::max(height, width);
  at::Tensor out = at::empty({3, side, side}, image.options());
  for (int64_t c = 0; c < 3; ++c) out[c].fill_(static_cast<int64_t>(mean[c] * 255));
  out.narrow(1, (side - height) / 2, height).narrow(2, (side - width) / 2, width).copy_(image);
  return out;
}

/// Pads with black where the image is smaller than the crop (odd row and column at the end), then cuts the
/// middle.
at::Tensor center_crop(at::Tensor image, Size crop) {
  const auto [height, width] = size_of(image);
  const int64_t pad_height = std::max<int64_t>(crop.height - height, 0);
  const int64_t pad_width = std::max<int64_t>(crop.width - width, 0);
  if (pad_height > 0 || pad_width > 0)
    image = at::constant_pad_nd(image,
                                {pad_width / 2, (pad_width + 1) / 2, pad_height / 2, (pad_height + 1) / 2});
  const Size padded = size_of(image);
  return image.narrow(1, (padded.height - crop.height) / 2, crop.height)
      .narrow(2, (padded.width - crop.width) / 2, crop.width);
}

at::Tensor channel_values(const std::vector<double>& values) { return at::tensor(values, at::kFloat); }

/// As the torchvision backend: with both steps on, mean and std are scaled once and each pixel is subtracted
/// and divided.
at::Tensor rescale_and_normalize(const at::Tensor& image, const ImageProcessor& p) {
  if (!p.normalize) return p.rescale ? image * p.rescale_factor : image.to(at::kFloat);
  at::Tensor mean = channel_values(p.mean), std = channel_values(p.std);
  if (p.rescale) {
    mean = mean * (1.0 / p.rescale_factor);
    std = std * (1.0 / p.rescale_factor);
  }
  at::Tensor out = image.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true, at::MemoryFormat::Contiguous);
  return out.sub_(mean.view({3, 1, 1})).div_(std.view({3, 1, 1}));
}

/// Rows of flattened patches, ordered so that the patches merged into one token are neighbours.
/// Row: channel, temporal (the frame repeated), patch row, patch column.
ProcessedImage patchify(const at::Tensor& pixels, const ImageProcessor& p) {
  const auto [height, width] = size_of(pixels);
  const int64_t unit = p.patch * p.merge;
  if (height % unit != 0 || width % unit != 0)
    fail("an image of {}x{} pixels is no multiple of {} and 'do_resize' is off", width, height, unit);
  const int64_t grid_h = height / p.patch, grid_w = width / p.patch;
  const at::Tensor patches =
      pixels.reshape({3, grid_h / p.merge, p.merge, p.patch, grid_w / p.merge, p.merge, p.patch})
          .permute({1, 4, 2, 5, 0, 3, 6})  // [grid_h/merge, grid_w/merge, merge, merge, 3, patch, patch]
          .unsqueeze(5)
          .expand({-1, -1, -1, -1, -1, p.temporal_patch, -1, -1})
          .reshape({grid_h * grid_w, 3 * p.temporal_patch * p.patch * p.patch});
  return {patches, grid_h, grid_w};
}

}  // namespace

ProcessedImage ImageProcessor::process(const at::Tensor& image) const {
  TORCH_CHECK(image.dim() == 3 && image.size(0) == 3 && image.scalar_type() == at::kByte,
              "process() takes a uint8 [3, height, width] image");
  at::Tensor out = pad_square ? pad_to_square(image, mean) : image;
  if (resize && kind == Kind::qwen2_vl) {
    out = resize_to(out, smart_size(size_of(out), patch * merge, min_pixels, max_pixels), resample);
  } else if (resize) {
    const Size target = resize_shortest > 0 ? shortest_edge_size(size_of(out), resize_shortest)
                                            : Size{resize_height, resize_width};
    out = resize_to(out, target, resample);
  }
  if (crop) out = center_crop(out, {crop_height, crop_width});
  out = rescale_and_normalize(out, *this);
  return kind == Kind::qwen2_vl ? patchify(out, *this) : ProcessedImage{out.contiguous()};
}

}  // namespace visq

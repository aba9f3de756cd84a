// NF4 with double quantization, as QLoRA describes it and bitsandbytes stores it: ATen expressions for any
// device.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "visq/core/error.h"
#include "visq/quant/codec.h"
#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

constexpr float kLeast = 1e-38f;  // of what is divided by, so that zeros stay zeros

at::Tensor in_blocks(const at::Tensor& values, int64_t block) {
  const int64_t blocks = (values.numel() + block - 1) / block;
  return at::constant_pad_nd(values.flatten(), {0, blocks * block - values.numel()}).view({blocks, block});
}

/// Codes of the nearest level, in the middle that of the lower one. @param levels  f32, ascending, on the CPU
at::Tensor nearest(const at::Tensor& values, const at::Tensor& levels) {
  const at::Tensor middles = (levels.slice(0, 0, -1) + levels.slice(0, 1)) / 2;
  return at::bucketize(values, middles.to(values.device()), /*out_int32=*/true).to(at::kByte);
}
at::Tensor level_of(const at::Tensor& codes, const at::Tensor& levels) {
  return levels.to(codes.device()).index({codes.to(at::kLong)});
}

/// Codes of blocks relative to their largest magnitudes [blocks].
at::Tensor coded(const at::Tensor& blocks, const at::Tensor& amax, const at::Tensor& levels) {
  // By way of the reciprocal, as bitsandbytes does.
  const at::Tensor inverse = at::ones_like(amax) / amax.clamp_min(kLeast);
  return nearest((blocks * inverse.unsqueeze(1)).clamp(-1.0, 1.0), levels);
}

/// The even column in the high half of a byte. @param codes  uint8 [rows, columns]
at::Tensor nibbles(const at::Tensor& codes) {
  const at::Tensor pairs = codes.unflatten(1, {-1, 2});
  return pairs.select(2, 0).mul(16).bitwise_or(pairs.select(2, 1));
}

/// The mean, added up in an order that does not depend on the threads.
float mean_of(const at::Tensor& values) {
  const at::Tensor parts =
      in_blocks(values, kNf4NestedBlock).sum(1, /*keepdim=*/false, at::kDouble).to(at::kCPU);
  double sum = 0;
  for (int64_t i = 0; i < parts.numel(); ++i) sum += parts.const_data_ptr<double>()[i];
  return static_cast<float>(sum / static_cast<double>(values.numel()));
}

}  // namespace

const at::Tensor& nf4_levels() {
  // Quantiles of the normal distribution, so that each is used alike; one of them is 0.
  static const at::Tensor levels =
      at::tensor({-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
                  -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
                  0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
                  0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f});
  return levels;
}

const at::Tensor& nf4_scale_levels() {
  // Seven decades of either sign; each holds twice as many levels as the one below it, evenly spaced. With 0
  // and 1: 256.
  static const at::Tensor levels = [] {
    constexpr int kDecades = 7;
    std::vector<at::Tensor> parts = {at::tensor({0.0f, 1.0f})};
    for (int i = 0; i < kDecades; ++i) {
      const at::Tensor edges = at::linspace(0.1, 1.0, (int64_t{1} << i) + 1, at::kFloat);
      const at::Tensor middles = (edges.slice(0, 0, -1) + edges.slice(0, 1)) / 2.0;
      const at::Tensor decade = middles * std::pow(10.0, i + 1 - kDecades);
      parts.push_back(decade);
      parts.push_back(-decade);
    }
    return std::get<0>(at::sort(at::cat(parts)));
  }();
  return levels;
}

EncodedMatrix encode_nf4(const at::Tensor& weight) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const at::Tensor blocks = in_blocks(weight.to(at::kFloat), kNf4Block), amax = blocks.abs().amax(1);
  EncodedMatrix result;
  result.finite = at::isfinite(amax).all().item<bool>();
  if (!result.finite) return result;
  result.codes = nibbles(coded(blocks, amax, nf4_levels()).view({rows, columns}));

  const float mean = mean_of(amax);
  result.zero_point = at::full({}, mean, amax.options());
  const at::Tensor nested = in_blocks(amax - mean, kNf4NestedBlock);
  result.scale_2 = nested.abs().amax(1);
  result.scale = coded(nested, result.scale_2, nf4_scale_levels())
                     .flatten()
                     .narrow(0, 0, amax.numel())
                     .view({rows, columns / kNf4Block});
  return result;
}

at::Tensor nf4_magnitudes(const PackedTensor& packed) {
  const at::Tensor nested =
      in_blocks(level_of(packed.scale, nf4_scale_levels()), kNf4NestedBlock) * packed.scale_2.unsqueeze(1);
  return (nested.flatten().narrow(0, 0, packed.scale.numel()) + packed.zero_point).view(packed.scale.sizes());
}

at::Tensor nearest_nf4(const at::Tensor& values) {
  return level_of(nearest(values, nf4_levels()), nf4_levels());
}
at::Tensor pack_nf4_codes(const at::Tensor& values) { return nibbles(nearest(values, nf4_levels())); }

at::Tensor decode_nf4(const PackedTensor& packed, at::ScalarType dtype) {
  const at::Tensor amax = nf4_magnitudes(packed).flatten();
  const at::Tensor codes = at::stack({packed.codes.bitwise_right_shift(4), packed.codes.bitwise_and(15)}, -1)
                               .view({-1, kNf4Block});
  return (level_of(codes, nf4_levels()) * amax.unsqueeze(1)).view({packed.codes.size(0), -1}).to(dtype);
}

}  // namespace visq

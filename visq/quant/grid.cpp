#include "visq/quant/grid.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

// What the elementwise encoding and decoding of a codec yields for scale 1: numbers, of integers their codes.
// @param zero_point  undefined: none
at::Tensor nearest_codes(Codec codec, const at::Tensor& x, const at::Tensor& zero_point) {
  switch (codec) {
    case Codec::int8:
      return x.round().clamp_(-128, 127);
    case Codec::int4:
      return x.round().clamp_(-8, 7);
    case Codec::int4_asym:
      return (x + zero_point).round_().clamp_(-8, 7);
    case Codec::nf4:
      return nearest_nf4(x);
    case Codec::nvfp4:
      return nearest_fp4(x);
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::fp8_blocks:
      return x.clamp(-kFp8Max, kFp8Max).to(at::kFloat8_e4m3fn).to(at::kFloat);
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      break;
  }
  fail("codes of {} are not searched", codec_name(codec));
}

}  // namespace

Grid Grid::as(const std::function<at::Tensor(const at::Tensor&)>& view) const {
  return {codec, view(step), zero_point.defined() ? view(zero_point) : zero_point};
}

at::Tensor Grid::nearest(const at::Tensor& values) const {
  at::Tensor codes = nearest_codes(codec, values / step, zero_point);
  if (zero_point.defined()) codes.sub_(zero_point);
  return codes.mul_(step);
}

int64_t step_columns(const PackedTensor& packed) { return packed.block > 0 ? packed.block : packed.columns; }

Grid grid_of_blocks(const PackedTensor& packed) {
  const auto by_row = [&packed](const at::Tensor& numbers) {
    return numbers.to(at::kFloat).view({numbers.dim() == 0 ? 1 : packed.rows, -1});
  };
  if (is_mx(packed.codec)) fail("codes of {} are not searched", codec_name(packed.codec));
  switch (packed.codec) {
    case Codec::nvfp4:
      return {packed.codec, by_row(packed.scale) * packed.scale_2, {}};
    case Codec::nf4:
      return {packed.codec, nf4_magnitudes(packed), {}};
    case Codec::fp8_blocks:  // which span rows
      return {packed.codec, packed.scale.repeat_interleave(packed.block, 0).narrow(0, 0, packed.rows), {}};
    case Codec::int4_asym:
      return {packed.codec, by_row(packed.scale), by_row(packed.zero_point)};
    default:
      return {packed.codec, by_row(packed.scale), {}};
  }
}

Grid grid_of_columns(const PackedTensor& packed) {
  return grid_of_blocks(packed).as([&](const at::Tensor& blocks) {
    return blocks.repeat_interleave(step_columns(packed), 1).narrow(1, 0, packed.columns);
  });
}

PackedTensor repack(const PackedTensor& scales, const at::Tensor& values) {
  const Grid grid = grid_of_columns(scales);
  const at::Tensor quotients = values / grid.step;
  PackedTensor packed = scales;
  packed.codes = scales.codec == Codec::nvfp4 ? pack_fp4(quotients)
                 : scales.codec == Codec::nf4
                     ? pack_nf4_codes(quotients)
                     : nearest_codes(scales.codec, quotients, grid.zero_point).to(scales.codes.scalar_type());
  return packed;
}

}  // namespace visq

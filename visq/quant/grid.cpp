#include "visq/quant/grid.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/quant/codec_backend.h"

namespace visq {
namespace {

// Codes as numbers: what the elementwise encoding and decoding of a codec yields for scale 1.
at::Tensor nearest_codes(Codec codec, const at::Tensor& x) {
  switch (codec) {
    case Codec::int8:
      return x.round().clamp_(-128, 127);
    case Codec::int4:
      return x.round().clamp_(-8, 7);
    case Codec::nvfp4:
      return nearest_fp4(x);
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::fp8_blocks:
      break;
    case Codec::int4_asym:
    case Codec::nf4:
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      fail("scales and codes of {} are not searched", codec_name(codec));
  }
  return x.clamp(-kFp8Max, kFp8Max).to(at::kFloat8_e4m3fn).to(at::kFloat);
}

// [rows, columns] → [rows, steps a row, columns a step]
at::Tensor by_step(const PackedTensor& scales, const at::Tensor& values) {
  return values.view({values.size(0), -1, step_columns(scales)});
}

}  // namespace

int64_t step_columns(const PackedTensor& packed) { return packed.block > 0 ? packed.block : packed.columns; }

at::Tensor steps_of(const PackedTensor& packed) {
  if (packed.codec == Codec::fp8_blocks) fail("blocks that span rows have no step of a row");
  const at::Tensor scale = packed.scale.to(at::kFloat);
  if (packed.codec == Codec::nvfp4) return scale * packed.scale_2;
  return scale.view({scale.dim() == 0 ? 1 : packed.rows, -1});
}

at::Tensor round_to_grid(Codec codec, const at::Tensor& values, const at::Tensor& step) {
  return nearest_codes(codec, values / step).mul_(step);
}

at::Tensor round_to_grid(const PackedTensor& scales, const at::Tensor& values) {
  return round_to_grid(scales.codec, by_step(scales, values), steps_of(scales).unsqueeze(-1)).view_as(values);
}

PackedTensor repack(const PackedTensor& scales, const at::Tensor& values) {
  const at::Tensor quotients = (by_step(scales, values) / steps_of(scales).unsqueeze(-1)).view_as(values);
  PackedTensor packed = scales;
  packed.codes = scales.codec == Codec::nvfp4
                     ? pack_fp4(quotients)
                     : nearest_codes(scales.codec, quotients).to(scales.codes.scalar_type());
  return packed;
}

}  // namespace visq

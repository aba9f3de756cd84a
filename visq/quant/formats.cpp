#include "visq/quant/formats.h"

namespace visq {

const char* codec_name(Codec codec) {
  switch (codec) {
    case Codec::fp8_e4m3:
      return "fp8_e4m3";
    case Codec::fp8_rows:
      return "fp8_e4m3 per row";
    case Codec::fp8_blocks:
      return "fp8_e4m3 in blocks";
    case Codec::int8:
      return "int8";
    case Codec::int4:
      return "int4";
    case Codec::int4_asym:
      return "int4_asym";
    case Codec::nf4:
      return "nf4";
    case Codec::nvfp4:
      return "nvfp4";
    case Codec::mxfp4:
      return "mxfp4";
    case Codec::mxfp6:
      return "mxfp6";
    case Codec::mxfp8:
      return "mxfp8";
    case Codec::mxint8:
      return "mxint8";
  }
  return "";
}

float mx_max(Codec codec) {
  return codec == Codec::mxfp4 ? 6 : codec == Codec::mxfp6 ? 28 : codec == Codec::mxfp8 ? kFp8Max : 127;
}

int64_t mx_bits(Codec codec) { return codec == Codec::mxfp4 ? 4 : codec == Codec::mxfp6 ? 6 : 8; }

at::ScalarType mx_dtype(Codec codec) {
  return codec == Codec::mxfp8 ? at::kFloat8_e4m3fn : codec == Codec::mxint8 ? at::kChar : at::kByte;
}

}  // namespace visq

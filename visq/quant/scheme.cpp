#include "visq/quant/scheme.h"

#include "visq/core/error.h"

namespace visq {

const char* input_format_name(InputFormat format) {
  switch (format) {
    case InputFormat::fp8:
      return "fp8_e4m3";
    case InputFormat::int8:
      return "int8";
    case InputFormat::nvfp4:
      return "nvfp4";
    case InputFormat::fp8_tokens:
      return "fp8_e4m3 per token";
    case InputFormat::mxfp4:
      return "mxfp4";
    case InputFormat::mxfp6:
      return "mxfp6";
    case InputFormat::mxfp8:
      return "mxfp8";
    case InputFormat::mxint8:
      return "mxint8";
    case InputFormat::none:
      break;
  }
  return "none";
}

const char* solver_name(Solver solver) {
  switch (solver) {
    case Solver::smoothquant:
      return "smoothquant";
    case Solver::awq:
      return "awq";
    case Solver::max:
      break;
  }
  return "max";
}

bool Scheme::stored_like(const Scheme& other) const {
  return weight == other.weight && block == other.block && fp8_second_stage == other.fp8_second_stage &&
         input == other.input;
}

std::string Scheme::solvers() const {
  std::string text = solver == Solver::max ? "" : solver_name(solver);
  const auto append = [&](const char* name) { text += (text.empty() ? "" : " + ") + std::string(name); };
  if (scales == ScaleSearch::mse) append("mse");
  if (scales == ScaleSearch::output_error) append(weight == Codec::nvfp4 ? "local Hessian" : "clip");
  if (scales == ScaleSearch::four_over_six) append("four over six");
  if (rounding == Rounding::gptq) append("gptq");
  return text.empty() ? "max" : text;
}

double Scheme::bits_per_weight() const {
  switch (weight) {
    case Codec::int4:
      return 4 + 16.0 / static_cast<double>(block);
    case Codec::int4_asym:
      return 4 + (16.0 + 4.0) / static_cast<double>(block);
    case Codec::nf4:
      return 4 + (8 + 32.0 / kNf4NestedBlock) / static_cast<double>(block);
    case Codec::nvfp4:
      return 4 + 8.0 / static_cast<double>(block);
    case Codec::fp8_blocks:
      return 8 + 32.0 / static_cast<double>(block * block);
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      return static_cast<double>(mx_bits(weight)) + 8.0 / static_cast<double>(block);
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::int8:
      break;
  }
  return 8;
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = {
      {"fp8",
       {.weight = Codec::fp8_e4m3, .input = InputFormat::fp8},
       "FP8 E4M3, one scale a matrix",
       "FP8 E4M3, static",
       "near-lossless; Hopper, Ada, Blackwell, MI300"},
      {"int8_sq",
       {.weight = Codec::int8, .input = InputFormat::int8, .solver = Solver::smoothquant},
       "INT8, one scale a row",
       "INT8, static",
       "8 bits on GPUs without FP8 (Turing, Ampere)"},
      {"int4_awq",
       {.weight = Codec::int4, .block = 128, .solver = Solver::awq},
       "INT4, blocks of 128",
       "as is",
       "smallest on any GPU; low-batch serving"},
      {"w4a8_awq",
       {.weight = Codec::int4,
        .block = 128,
        .fp8_second_stage = true,
        .input = InputFormat::fp8,
        .solver = Solver::awq},
       "INT4, blocks of 128, then FP8",
       "FP8 E4M3, static",
       "small and fast at large batch; Hopper, Ada"},
      {"nvfp4",
       {.weight = Codec::nvfp4, .block = kNvfp4Block, .input = InputFormat::nvfp4},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "fastest on Blackwell"},
      {"fp8_pc_pt",
       {.weight = Codec::fp8_rows, .input = InputFormat::fp8_tokens},
       "FP8 E4M3, one scale a row",
       "FP8 E4M3, dynamic per token",
       "fp8 without calibration data, on any model"},
      {"fp8_pb_wo",
       {.weight = Codec::fp8_blocks, .block = kFp8Block},
       "FP8 E4M3, blocks of 128 × 128",
       "as is",
       "the DeepSeek layout, without calibration data"},
      {"int8_wo",
       {.weight = Codec::int8},
       "INT8, one scale a row",
       "as is",
       "half the size on any GPU, without calibration data"},
      {"w4a16",
       {.weight = Codec::int4, .block = 128},
       "INT4, blocks of 128",
       "as is",
       "int4_awq where there is no calibration data"},
      {"w4a16_nvfp4",
       {.weight = Codec::nvfp4, .block = kNvfp4Block},
       "FP4 E2M1, blocks of 16",
       "as is",
       "4 bits with finer scales, without calibration data"},
      {"int4_awq_full",
       {.weight = Codec::int4, .block = 128, .solver = Solver::awq, .scales = ScaleSearch::output_error},
       "INT4, blocks of 128",
       "as is",
       "int4_awq, and blocks clipped where that lowers the error"},
      {"w4a16_asym",
       {.weight = Codec::int4_asym, .block = 128},
       "INT4 with zero points, blocks of 128",
       "as is",
       "w4a16 for weights that are not centred"},
      {"int4_awq_asym",
       {.weight = Codec::int4_asym, .block = 128, .solver = Solver::awq},
       "INT4 with zero points, blocks of 128",
       "as is",
       "int4_awq with all 16 levels in use"},
      {"nf4",
       {.weight = Codec::nf4, .block = kNf4Block},
       "NF4, blocks of 64, double quantization",
       "as is",
       "fine-tuning with bitsandbytes (QLoRA), without calibration data"},
      {"int4_gptq",
       {.weight = Codec::int4, .block = 128, .scales = ScaleSearch::output_error, .rounding = Rounding::gptq},
       "INT4, blocks of 128",
       "as is",
       "int4_awq's layout with errors made up for by later columns"},
      {"int4_awq_gptq",
       {.weight = Codec::int4, .block = 128, .solver = Solver::awq, .rounding = Rounding::gptq},
       "INT4, blocks of 128",
       "as is",
       "both, one after the other"},
      {"nvfp4_mse",
       {.weight = Codec::nvfp4,
        .block = kNvfp4Block,
        .input = InputFormat::nvfp4,
        .scales = ScaleSearch::mse},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "nvfp4 with the best of all block scales"},
      {"nvfp4_local_hessian",
       {.weight = Codec::nvfp4,
        .block = kNvfp4Block,
        .input = InputFormat::nvfp4,
        .scales = ScaleSearch::output_error},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "nvfp4_mse, weighed by what the inputs are"},
      {"nvfp4_four_over_six",
       {.weight = Codec::nvfp4,
        .block = kNvfp4Block,
        .input = InputFormat::nvfp4,
        .scales = ScaleSearch::four_over_six},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "nvfp4 where a block's largest becomes 6 or 4"},
      {"nvfp4_awq",
       {.weight = Codec::nvfp4, .block = kNvfp4Block, .input = InputFormat::nvfp4, .solver = Solver::awq},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "nvfp4 with smoothed inputs"},
      {"nvfp4_gptq",
       {.weight = Codec::nvfp4,
        .block = kNvfp4Block,
        .input = InputFormat::nvfp4,
        .scales = ScaleSearch::output_error,
        .rounding = Rounding::gptq},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "nvfp4 with errors made up for by later columns"},
      {"nvfp4_awq_gptq",
       {.weight = Codec::nvfp4,
        .block = kNvfp4Block,
        .input = InputFormat::nvfp4,
        .solver = Solver::awq,
        .scales = ScaleSearch::output_error,
        .rounding = Rounding::gptq},
       "FP4 E2M1, blocks of 16",
       "FP4 E2M1, blocks of 16",
       "both, one after the other"},
      {"int8",
       {.weight = Codec::int8, .input = InputFormat::int8},
       "INT8, one scale a row",
       "INT8, static",
       "int8_sq without smoothing, to compare with"},
      {"w4a8_nvfp4_fp8",
       {.weight = Codec::nvfp4, .block = 32, .input = InputFormat::fp8},
       "FP4 E2M1, blocks of 32",
       "FP8 E4M3, static",
       "4-bit weights with finer inputs; Blackwell"},
      {"w4a8_mxfp4_fp8",
       {.weight = Codec::mxfp4, .block = kMxBlock, .input = InputFormat::fp8_tokens},
       "MXFP4, blocks of 32",
       "FP8 E4M3, dynamic",
       "4-bit weights with finer inputs, without calibration data; Blackwell"},
      {"mxfp4",
       {.weight = Codec::mxfp4, .block = kMxBlock, .input = InputFormat::mxfp4},
       "MXFP4, blocks of 32",
       "MXFP4, blocks of 32",
       "the open 4-bit format, to compare with nvfp4"},
      {"mxfp6",
       {.weight = Codec::mxfp6, .block = kMxBlock, .input = InputFormat::mxfp6},
       "MXFP6 E3M2, blocks of 32",
       "MXFP6 E3M2, blocks of 32",
       "to study what six bits would give"},
      {"mxfp8",
       {.weight = Codec::mxfp8, .block = kMxBlock, .input = InputFormat::mxfp8},
       "MXFP8 E4M3, blocks of 32",
       "MXFP8 E4M3, blocks of 32",
       "8 bits on Blackwell, without calibration data"},
      {"mxint8",
       {.weight = Codec::mxint8, .block = kMxBlock, .input = InputFormat::mxint8},
       "MXINT8, blocks of 32",
       "MXINT8, blocks of 32",
       "to study the most precise 8 bits"},
  };
  return all;
}

const Preset& find_preset(const std::string& name) {
  std::string known;
  for (const Preset& preset : presets()) {
    if (preset.name == name) return preset;
    known += (known.empty() ? "" : ", ") + preset.name;
  }
  fail("--format {}: no such format; choose from {}", name, known);
}

const Preset& preset_of(const Scheme& scheme) {
  for (const Preset& preset : presets())
    if (preset.scheme == scheme) return preset;
  fail("no preset has weights {} and inputs {}", codec_name(scheme.weight), input_format_name(scheme.input));
}

float input_format_max(InputFormat format) {
  switch (format) {
    case InputFormat::fp8:
    case InputFormat::fp8_tokens:
      return kFp8Max;
    case InputFormat::int8:
      return 127;
    case InputFormat::nvfp4:
      return kNvfp4Max;
    case InputFormat::mxfp4:
    case InputFormat::mxfp6:
    case InputFormat::mxfp8:
    case InputFormat::mxint8:
    case InputFormat::none:
      break;
  }
  return 1;
}

at::Tensor simulate_input(InputFormat format, const at::Tensor& x, float scale) {
  switch (format) {
    case InputFormat::fp8:
      return simulate_fp8(x, scale);
    case InputFormat::int8:
      return simulate_int8(x, scale);
    case InputFormat::nvfp4:
      return simulate_nvfp4(x, scale);
    case InputFormat::fp8_tokens:
      return simulate_fp8_tokens(x);
    case InputFormat::mxfp4:
      return simulate_mx(x, Codec::mxfp4);
    case InputFormat::mxfp6:
      return simulate_mx(x, Codec::mxfp6);
    case InputFormat::mxfp8:
      return simulate_mx(x, Codec::mxfp8);
    case InputFormat::mxint8:
      return simulate_mx(x, Codec::mxint8);
    case InputFormat::none:
      break;
  }
  return x;
}

}  // namespace visq

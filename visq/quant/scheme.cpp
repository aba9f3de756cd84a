#include "visq/quant/scheme.h"

#include "visq/core/format.h"

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
    case InputFormat::int8_tokens:
      return "int8 per token";
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

const char* scale_search_name(ScaleSearch search) {
  switch (search) {
    case ScaleSearch::mse:
      return "mse";
    case ScaleSearch::output_error:
      return "output_error";
    case ScaleSearch::four_over_six:
      return "four_over_six";
    case ScaleSearch::max:
      break;
  }
  return "max";
}

const char* rounding_name(Rounding rounding) { return rounding == Rounding::gptq ? "gptq" : "nearest"; }

const char* low_rank_by_name(LowRankBy by) { return by == LowRankBy::weight ? "weight" : "output"; }

bool Scheme::stored_like(const Scheme& other) const {
  return weight == other.weight && block == other.block && fp8_second_stage == other.fp8_second_stage &&
         input == other.input && low_rank == other.low_rank && ordered_columns == other.ordered_columns;
}

Scheme Scheme::smoothing() const {
  Scheme reduced;
  reduced.solver = solver;
  if (solver == Solver::max) return reduced;
  reduced.alpha = alpha;
  reduced.weight = weight;
  reduced.block = block;
  reduced.rounded_inputs = rounded_inputs;
  // The range of nvfp4's scales depends on it too.
  if (solver == Solver::smoothquant || rounded_inputs || weight == Codec::nvfp4) reduced.input = input;
  return reduced;
}

Scheme Scheme::unsearched() const {
  Scheme plain = *this;
  plain.scales = ScaleSearch::max;
  plain.rounding = Rounding::nearest;
  return plain;
}

std::string Scheme::solvers() const {
  std::string text = rotated ? "hadamard" : "";
  const auto append = [&](const std::string& name) { text += (text.empty() ? "" : " + ") + name; };
  if (solver != Solver::max) append(solver_name(solver));
  if (low_rank > 0) append(low_rank_by == LowRankBy::output ? "svdquant" : "svdquant by weights");
  if (is_searched()) append(searches());
  return text.empty() ? "max" : text;
}

std::string Scheme::searches() const {
  std::string text;
  if (scales == ScaleSearch::mse) text = "mse";
  if (scales == ScaleSearch::output_error) text = weight == Codec::nvfp4 ? "local Hessian" : "clip";
  if (scales == ScaleSearch::four_over_six) text = "four over six";
  if (rounding == Rounding::gptq) text += text.empty() ? "gptq" : " + gptq";
  return text;
}

double Scheme::bits_per_weight() const {
  // What the scales of blocks add to each weight; those of rows are too few to count.
  const auto shared = [this](double bits) { return block > 0 ? bits / static_cast<double>(block) : 0; };
  switch (weight) {
    case Codec::int4:
      return 4 + shared(16);
    case Codec::int4_asym:
      return 4 + shared(16 + 4);
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
    case Codec::int8:
      return 8 + shared(16);
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
      break;
  }
  return 8;
}

namespace {
std::string describe_codec(const Scheme& scheme) {
  const std::string per = scheme.block > 0 ? visq::format("blocks of {}", scheme.block) : "one scale a row";
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      return "FP8 E4M3, one scale a matrix";
    case Codec::fp8_rows:
      return "FP8 E4M3, one scale a row";
    case Codec::fp8_blocks:
      return visq::format("FP8 E4M3, blocks of {} × {}", scheme.block, scheme.block);
    case Codec::int8:
      return "INT8, " + per;
    case Codec::int4:
      return visq::format("INT4, {}{}", per, scheme.fp8_second_stage ? ", then FP8" : "");
    case Codec::int4_asym:
      return "INT4 with zero points, " + per;
    case Codec::nf4:
      return visq::format("NF4, blocks of {}, double quantization", scheme.block);
    case Codec::nvfp4:
      return visq::format("FP4 E2M1, blocks of {}", scheme.block);
    case Codec::mxfp4:
      return visq::format("MXFP4, blocks of {}", scheme.block);
    case Codec::mxfp6:
      return visq::format("MXFP6 E3M2, blocks of {}", scheme.block);
    case Codec::mxfp8:
      return visq::format("MXFP8 E4M3, blocks of {}", scheme.block);
    case Codec::mxint8:
      return visq::format("MXINT8, blocks of {}", scheme.block);
  }
  return codec_name(scheme.weight);
}
}  // namespace

std::string describe_weight(const Scheme& scheme) {
  std::string text = describe_codec(scheme);
  if (scheme.ordered_columns) text += ", columns by importance (desc_act)";
  if (scheme.low_rank > 0) text += visq::format(", beside rank {}", scheme.low_rank);
  return text;
}

std::string describe_input(const Scheme& scheme) {
  switch (scheme.input) {
    case InputFormat::fp8:
      return "FP8 E4M3, static";
    case InputFormat::int8:
      return "INT8, static";
    case InputFormat::nvfp4:
      return "FP4 E2M1, blocks of 16";
    case InputFormat::fp8_tokens:
      return "FP8 E4M3, dynamic per token";
    case InputFormat::int8_tokens:
      return "INT8, dynamic per token";
    case InputFormat::mxfp4:
      return "MXFP4, blocks of 32";
    case InputFormat::mxfp6:
      return "MXFP6 E3M2, blocks of 32";
    case InputFormat::mxfp8:
      return "MXFP8 E4M3, blocks of 32";
    case InputFormat::mxint8:
      return "MXINT8, blocks of 32";
    case InputFormat::none:
      break;
  }
  return "as is";
}

float input_format_max(InputFormat format) {
  switch (format) {
    case InputFormat::fp8:
    case InputFormat::fp8_tokens:
      return kFp8Max;
    case InputFormat::int8:
    case InputFormat::int8_tokens:
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
    case InputFormat::int8_tokens:
      return simulate_int8_tokens(x);
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

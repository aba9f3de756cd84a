// Which number formats a linear gets, and how its scales are found.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/quant/codec.h"
#include "visq/quant/kv_format.h"
#include "visq/quant/statistics.h"

namespace visq {

/// Number format of a linear's input. Scales are per tensor and calibrated, except those that the engine
/// computes from what it quantizes: one a token of fp8_tokens and int8_tokens, one a block of the MX formats.
enum class InputFormat { none, fp8, int8, nvfp4, fp8_tokens, int8_tokens, mxfp4, mxfp6, mxfp8, mxint8 };
enum class Solver { max, smoothquant, awq };
/// How the scales of a weight are found: from the largest magnitude, or by the smallest squared error of the
/// weights, or of the outputs; or so that the largest magnitude becomes 6 or 4 (nvfp4).
enum class ScaleSearch { max, mse, output_error, four_over_six };
/// How weights are rounded under their scales.
enum class Rounding { nearest, gptq };
/// By which error the low-rank part of a weight is chosen: that of the outputs, or that of the weights, which
/// is a plain singular value decomposition (ModelOpt's SVDQuant).
enum class LowRankBy { output, weight };

const char* input_format_name(InputFormat format);
const char* solver_name(Solver solver);
const char* scale_search_name(ScaleSearch search);
const char* rounding_name(Rounding rounding);
const char* low_rank_by_name(LowRankBy by);

struct Scheme {
  Codec weight = Codec::fp8_e4m3;
  int64_t block = 0;              ///< columns that share a scale; 0: one for a row, or for the matrix
  bool fp8_second_stage = false;  ///< W4A8: the int4 values are rounded to E4M3 again before the product
  InputFormat input = InputFormat::none;
  Solver solver = Solver::max;
  std::optional<double> alpha = {};  ///< strength of the smoothing; empty: the best for each group
  /// awq: whether its search counts the error of rounded inputs too. smoothquant always does.
  bool rounded_inputs = false;
  /// Whether values, and with them what o reads, are rotated (rotation.h); o is then not smoothed.
  bool rotated = false;
  ScaleSearch scales = ScaleSearch::max;
  Rounding rounding = Rounding::nearest;
  int64_t low_rank =
      0;  ///< rank of the part that is kept beside the quantized weight in the weight's own type; 0: none
  LowRankBy low_rank_by = LowRankBy::output;
  /// Whether columns share scales by their importance, not with their neighbours. Other tools' GPTQ does so
  /// (desc_act; compressed-tensors: actorder group); no recipe of visq's.
  bool ordered_columns = false;
  bool operator==(const Scheme&) const = default;

  /// Whether scales or codes depend on the Gram matrix of the (smoothed) inputs.
  bool packs_by_gram() const {
    return scales == ScaleSearch::output_error || rounding == Rounding::gptq ||
           (low_rank > 0 && low_rank_by == LowRankBy::output);
  }
  /// Whether scales or codes are other than those of the largest magnitudes and of rounding to nearest.
  bool is_searched() const { return scales != ScaleSearch::max || rounding != Rounding::nearest; }
  /// What calibration has to keep for the solvers, and for trying what they found.
  Detail detail() const {
    if (solver == Solver::awq || packs_by_gram()) return Detail::gram;
    return solver != Solver::max || is_searched() ? Detail::rows : Detail::magnitudes;
  }
  /// Whether there is an input scale to be found and stored.
  bool has_input_scale() const {
    return input == InputFormat::fp8 || input == InputFormat::int8 || input == InputFormat::nvfp4;
  }
  /// nvfp4: what code · block scale reaches at the largest weight. Beside FP8 inputs kernels turn weights
  /// into FP8 before scale_2 (spec/quantization.md §4.1).
  float nvfp4_range() const { return input == InputFormat::fp8 ? kFp8Max : kNvfp4Max; }
  bool needs_calibration() const { return has_input_scale() || solver != Solver::max || packs_by_gram(); }
  /// Whether numbers of both schemes are stored alike, whatever found them.
  bool stored_like(const Scheme& other) const;
  /// The scheme reduced to what its smoothing scales depend on.
  Scheme smoothing() const;
  /// The scheme with the largest magnitudes for scales and codes rounded to nearest.
  Scheme unsearched() const;
  /// What finds scales and codes, in order: "max", "awq + clip", "mse + gptq".
  std::string solvers() const;
  std::string searches() const;  ///< those of scales and codes alone; "": none
  /// Bits a weight takes on disk, scales included; low-rank factors aside, whose share depends on the matrix.
  double bits_per_weight() const;
};

/// For people: "INT4, blocks of 128, then FP8".
std::string describe_weight(const Scheme& scheme);
/// For people: "FP8 E4M3, dynamic per token"; "as is".
std::string describe_input(const Scheme& scheme);

/// Greatest input of a linear under `format` when its input scale is 1 (448, 127, 2688).
float input_format_max(InputFormat format);
/// What an engine does to a linear's input. Where it takes one scale from all tokens that happen to be in a
/// batch (w4a8_mxfp4_fp8), each token gets its own here, so that a result does not depend on the batch.
/// @param scale  amax / input_format_max(format); not used where the scheme has no input scale
at::Tensor simulate_input(InputFormat format, const at::Tensor& x, float scale);

}  // namespace visq

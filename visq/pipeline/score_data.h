// The samples that sensitivities are measured on.
#pragma once
#include <vector>

#include "visq/pipeline/calibrate.h"

namespace visq {

struct ScoreData {
  /// Some samples, on their way through the decoder.
  struct Part {
    Batch batch;
    at::Tensor answer_rows;  ///< int64: rows of the batch that predict a token of an answer
  };
  std::vector<Part> parts;
  int64_t samples = 0, text_tokens = 0, image_tokens = 0, answer_tokens = 0;

  /// Takes samples that have an answer and are no longer than options.max_tokens, evenly spread over those
  /// that calibration reads.
  /// @param max_samples  most samples to take
  /// @param max_rows     most rows of a part, unless a single sample has more
  /// @throws Error when no sample has an answer, or none an image (unless options.text_only)
  ScoreData(const Model& model, const CalibrationOptions& options, int64_t max_samples, int64_t max_rows);

 private:
  void add_part(const Model& model, const std::vector<EncodedSample>& samples);
};

}  // namespace visq

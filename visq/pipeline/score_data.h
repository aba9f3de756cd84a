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

  /// Takes samples evenly spread over the given ones, and of these all that are no longer than max_tokens.
  /// @param answered     samples with an answer
  /// @param max_samples  most samples to take
  /// @param max_rows     most rows of a part, unless a single sample has more
  ScoreData(const Model& model, const std::vector<Sample>& answered, int64_t max_tokens, int64_t max_samples,
            int64_t max_rows);

 private:
  void add_part(const Model& model, const std::vector<EncodedSample>& samples);
};

}  // namespace visq

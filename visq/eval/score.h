// How well a checkpoint answers, and how far it is from another one.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "visq/eval/runner.h"

namespace visq {

struct Accuracy {
  int64_t correct = 0, total = 0;
  double rate() const { return total > 0 ? static_cast<double>(correct) / static_cast<double>(total) : 0; }
};

struct Score {
  Accuracy accuracy;  ///< exact match of the greedy answer, surrounding white space aside
  std::map<std::string, Accuracy> per_category;  ///< by the samples' category
  double perplexity = 0;                         ///< of the reference answers, end token included
  int64_t answer_tokens = 0;
  std::optional<double> mean_kl;  ///< Σ KL(reference ‖ this) / answer tokens, in nats
  std::optional<double>
      top1_agreement;                ///< share of answer tokens whose most likely token is the reference's
  std::vector<std::string> answers;  ///< per sample
  std::vector<double> kl;            ///< per sample: mean over its answer tokens; empty without a reference
  double seconds = 0;
};

/// A data set, with what a reference checkpoint says about it, for scoring several checkpoints.
class Evaluation {
 public:
  /// @throws Error when a sample has no reference answer
  Evaluation(std::vector<Sample> samples, int64_t max_new_tokens);

  /// Makes `runner` the one that others are measured against. It must outlive the evaluation.
  void set_reference(const Runner& runner);
  Score score(const Runner& runner) const;
  const std::vector<Sample>& samples() const { return samples_; }

 private:
  void compare(const Runner& runner, Score& score, std::vector<size_t>& undecided) const;
  void answer(const Runner& runner, Score& score, const std::vector<size_t>& undecided) const;

  std::vector<Sample> samples_;
  int64_t max_new_tokens_;
  const Runner* reference_ = nullptr;
  mutable std::vector<at::Tensor> reference_cache_;  // log-probabilities per chunk, when they are small
};

Json score_json(const Score& score);

}  // namespace visq

// Options of the search for mixed precision.
#pragma once
#include <string>

#include "visq/cli/command_line.h"
#include "visq/pipeline/mixed_precision.h"

namespace visq {

/// --bits, --size, --kl, --score, --score-samples, --save-scores, --scores, --plot.
struct MixArguments {
  double bits = 0, kl = 0;
  std::string size, score = "fisher", save_scores, scores, plot;
  int64_t score_samples = 32;

  void add_to(Command& command);
  /// Whether one of them says that formats are to be mixed.
  bool given() const;
  std::string name() const;  ///< of the budget, for errors: "--bits"

  /// Searches, and prints what is found.
  /// @return options with the mix as their only recipe
  QuantizeOptions search(const Model& model, QuantizeOptions options, bool print) const;

 private:
  Budget budget() const;
};

}  // namespace visq

// Chooses a format for each unit under a budget, from scores. The choice is a recipe like any other.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/core/json.h"
#include "visq/pipeline/sensitivity.h"

namespace visq {

/// One of them.
struct Budget {
  std::optional<double> bits;     ///< most bits a weight, on average over the units, scales included
  std::optional<uint64_t> bytes;  ///< most bytes of all tensors of the checkpoint
  std::optional<double> kl;       ///< most predicted KL divergence, for the fewest bytes
};

/// A format for each unit.
struct Mix {
  std::vector<std::optional<size_t>> choices;  ///< of each unit: index into its choices; empty: as it is
  std::vector<double> scores;                  ///< of each unit
  uint64_t bytes = 0;                          ///< of the units
  double kl = 0;                               ///< predicted: the sum of the scores
  /// No mix within the budget has a smaller kl (of a KL budget: fewer bytes) than this.
  double bound = 0;
};

/// @throws Error when the budget is less than the least possible (says how much that is), or so great that
/// nothing needs to be quantized
Mix choose_mix(const SearchSpace& space, const Scores& scores, const Budget& budget);
/// The mixes that no budget in between makes worth leaving: the lower convex hull of bytes and KL divergence,
/// smallest first, everything left as it is last.
std::vector<Mix> pareto_mixes(const SearchSpace& space, const Scores& scores);

/// Each format for all units that it has.
std::vector<Mix> uniform_mixes(const SearchSpace& space, const Scores& scores);

double bits_per_weight(const SearchSpace& space, uint64_t unit_bytes);

/// The mix as rules, one for each linear, or for the experts of a layer.
Recipe recipe_of(const SearchSpace& space, const Mix& mix);

/// What a search has found, for visq_report.json and --json.
Json mix_json(const SearchSpace& space, const Scores& scores, const Budget& budget, const Mix& mix);
/// The same for people.
std::string describe_mix(const SearchSpace& space, const Scores& scores, const Budget& budget,
                         const Mix& mix);

/// The Pareto curve with the mix and the uniform formats in it, as SVG.
std::string plot_mix(const SearchSpace& space, const Scores& scores, const Mix& mix);

}  // namespace visq

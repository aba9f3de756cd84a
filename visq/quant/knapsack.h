// The multiple-choice knapsack: one choice for each item, the least cost that a weight limit allows.
#pragma once
#include <cstddef>
#include <optional>
#include <vector>

namespace visq {

struct KnapsackChoice {
  double weight = 0, cost = 0;  ///< finite, not negative
};
/// Of each item, what can be chosen of it.
using Knapsack = std::vector<std::vector<KnapsackChoice>>;

struct KnapsackSolution {
  std::vector<size_t> choices;  ///< of each item: an index into its choices
  double weight = 0, cost = 0;
  /// No solution within the limit costs less: the cost itself, unless `max_states` was too few to prove that.
  double bound = 0;
};

/// The cheapest choices whose weights add up to no more than the limit.
///
/// Choices that cost and weigh more than another are left out, then those that the Lagrangian bound at the
/// multiplier of the linear relaxation rules out; what is left is merged item by item, as a list of partial
/// solutions none of which is better than another in both, under the same bound. Sinha and Zoltners, "The
/// Multiple-Choice Knapsack Problem", 1979; Pisinger, "A minimal algorithm for the Multiple-Choice Knapsack
/// Problem", 1995.
///
/// @param max_states  most partial solutions to keep after an item; the most promising are kept
/// @return empty: the lightest choices are too heavy
std::optional<KnapsackSolution> solve_knapsack(const Knapsack& items, double limit,
                                               size_t max_states = size_t{1} << 18);

/// The solutions on the lower convex hull of all (weight, cost), from the lightest to the cheapest: each is
/// the cheapest of its weight.
std::vector<KnapsackSolution> knapsack_hull(const Knapsack& items);

}  // namespace visq

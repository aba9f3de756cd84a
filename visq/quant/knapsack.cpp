#include "visq/quant/knapsack.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>

namespace visq {
namespace {

// Sums are off by their last digits; what is better by less than this share is no better.
constexpr double kRounding = 1e-12;

/// Of one item, by ascending weight, the choices that no other is better than in both; of equal ones the
/// first.
std::vector<size_t> undominated(const std::vector<KnapsackChoice>& item) {
  std::vector<size_t> order(item.size()), kept;
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, [&](size_t a, size_t b) {
    return item[a].weight != item[b].weight ? item[a].weight < item[b].weight : item[a].cost < item[b].cost;
  });
  for (const size_t choice : order)
    if (kept.empty() || item[choice].cost < item[kept.back()].cost) kept.push_back(choice);
  return kept;
}

/// Cost that a unit of weight saves.
double slope(const KnapsackChoice& from, const KnapsackChoice& to) {
  return (from.cost - to.cost) / (to.weight - from.weight);
}

/// Those of the undominated choices that are on the lower convex hull.
std::vector<size_t> hull(const std::vector<KnapsackChoice>& item) {
  std::vector<size_t> kept;
  for (const size_t choice : undominated(item)) {
    while (kept.size() > 1 &&
           slope(item[kept[kept.size() - 2]], item[kept.back()]) <= slope(item[kept.back()], item[choice]))
      kept.pop_back();
    kept.push_back(choice);
  }
  return kept;
}

/// From one choice of an item to the next on its hull.
struct Step {
  size_t item, from, to;
  double slope;
};

/// Of all items, the most worthwhile first.
std::vector<Step> hull_steps(const Knapsack& items, std::vector<size_t>& lightest) {
  std::vector<Step> steps;
  for (size_t i = 0; i < items.size(); ++i) {
    const std::vector<size_t> kept = hull(items[i]);
    lightest.push_back(kept.front());
    for (size_t k = 0; k + 1 < kept.size(); ++k)
      steps.push_back({i, kept[k], kept[k + 1], slope(items[i][kept[k]], items[i][kept[k + 1]])});
  }
  std::ranges::stable_sort(steps, std::greater{}, &Step::slope);
  return steps;
}

KnapsackSolution solution_of(const Knapsack& items, std::vector<size_t> choices) {
  KnapsackSolution solution{std::move(choices), 0, 0, 0};
  for (size_t i = 0; i < items.size(); ++i) {
    solution.weight += items[i][solution.choices[i]].weight;
    solution.cost += items[i][solution.choices[i]].cost;
  }
  solution.bound = solution.cost;
  return solution;
}

/// A choice of some items: those before the one that it is listed for.
struct State {
  double weight = 0, cost = 0;
  size_t parent = 0, choice = 0;  ///< its predecessor's place in the list before
};

/// What follows from the choices that are best under the multiplier, of an item and all behind it.
struct Rest {
  double least_weight = 0;      ///< of any choices
  double reduced = 0;           ///< Σ min (cost + multiplier · weight)
  double weight = 0, cost = 0;  ///< of the choices that are this minimum
};

class Search {
 public:
  Search(const Knapsack& items, double limit, double multiplier, KnapsackSolution start, size_t max_states)
      : items_(items), limit_(limit), multiplier_(multiplier), best_(std::move(start)), states_(max_states) {}

  KnapsackSolution run() {
    for (size_t i = 0; i < items_.size(); ++i) {
      choices_.push_back(undominated(items_[i]));
      minima_.push_back(*std::ranges::min_element(choices_[i], {},
                                                  [&](size_t choice) { return reduced(items_[i][choice]); }));
    }
    drop_choices();
    // Items with much to choose from first: the fewer partial solutions, the less their number grows.
    order_.resize(items_.size());
    std::iota(order_.begin(), order_.end(), size_t{0});
    std::ranges::stable_sort(order_, std::greater{}, [&](size_t i) {
      return items_[i][choices_[i].back()].weight - items_[i][choices_[i].front()].weight;
    });
    sum_rests();
    merge();
    best_.bound = std::min(best_.cost, dropped_);
    return best_;
  }

 private:
  const Knapsack& items_;
  double limit_, multiplier_;
  KnapsackSolution best_;
  size_t states_;
  double dropped_ = std::numeric_limits<double>::infinity();  // least bound of what max_states has dropped
  std::vector<std::vector<size_t>> choices_;
  std::vector<size_t> minima_, order_;
  std::vector<Rest> rests_;                 // of order_[level] and all behind it; the last of none
  std::vector<std::vector<State>> levels_;  // before order_[level]

  double reduced(const KnapsackChoice& choice) const { return choice.cost + multiplier_ * choice.weight; }
  bool is_worse(double bound) const { return bound >= best_.cost - kRounding * best_.cost; }

  /// Those that no solution better than the best known one can have.
  void drop_choices() {
    double bound = -multiplier_ * limit_;
    for (size_t i = 0; i < items_.size(); ++i) bound += reduced(items_[i][minima_[i]]);
    for (size_t i = 0; i < items_.size(); ++i)
      std::erase_if(choices_[i], [&](size_t choice) {
        return choice != minima_[i] &&
               is_worse(bound + reduced(items_[i][choice]) - reduced(items_[i][minima_[i]]));
      });
  }

  void sum_rests() {
    rests_.assign(items_.size() + 1, {});
    for (size_t level = items_.size(); level-- > 0;) {
      const size_t i = order_[level];
      const KnapsackChoice& minimum = items_[i][minima_[i]];
      const Rest& behind = rests_[level + 1];
      rests_[level] = {behind.least_weight + items_[i][choices_[i].front()].weight,
                       behind.reduced + reduced(minimum), behind.weight + minimum.weight,
                       behind.cost + minimum.cost};
    }
  }

  double bound(const State& state, size_t level) const {
    return state.cost + rests_[level].reduced - multiplier_ * (limit_ - state.weight);
  }

  /// The state's choices, the minima behind it.
  void complete(size_t level, const State& last) {
    std::vector<size_t> choices = minima_;
    State state = last;
    for (size_t l = level; l-- > 0;) {
      choices[order_[l]] = state.choice;
      state = levels_[l][state.parent];
    }
    best_ = solution_of(items_, std::move(choices));
  }

  void merge() {
    levels_ = {{State{}}};
    for (size_t level = 0; level < items_.size(); ++level) {
      const size_t i = order_[level];
      std::vector<State> next;
      for (const size_t choice : choices_[i])
        for (size_t parent = 0; parent < levels_[level].size(); ++parent) {
          const State& before = levels_[level][parent];
          const State state{before.weight + items_[i][choice].weight, before.cost + items_[i][choice].cost,
                            parent, choice};
          if (fits(state.weight + rests_[level + 1].least_weight) && !is_worse(bound(state, level + 1)))
            next.push_back(state);
        }
      prune(next, level + 1);
      levels_.push_back(std::move(next));
      for (const State& state : levels_.back())
        if (fits(state.weight + rests_[level + 1].weight) && !is_worse(state.cost + rests_[level + 1].cost))
          complete(level + 1, state);
    }
  }

  bool fits(double weight) const { return weight <= limit_ + kRounding * limit_; }

  void prune(std::vector<State>& states, size_t level) {
    std::ranges::stable_sort(states, [](const State& a, const State& b) {
      return a.weight != b.weight ? a.weight < b.weight : a.cost < b.cost;
    });
    double least = std::numeric_limits<double>::infinity();
    std::erase_if(states, [&](const State& state) {
      if (state.cost >= least) return true;
      least = state.cost;
      return false;
    });
    if (states.size() <= states_) return;
    std::ranges::stable_sort(states, {}, [&](const State& state) { return bound(state, level); });
    dropped_ = std::min(dropped_, bound(states[states_], level));
    states.resize(states_);
  }
};

}  // namespace

std::optional<KnapsackSolution> solve_knapsack(const Knapsack& items, double limit, size_t max_states) {
  std::vector<size_t> choices;
  const std::vector<Step> steps = hull_steps(items, choices);
  KnapsackSolution solution = solution_of(items, choices);
  if (solution.weight > limit + kRounding * limit) return std::nullopt;
  // Steps as long as they fit: what the relaxation takes, and behind it what is left room for.
  double multiplier = 0, weight = solution.weight;
  bool relaxed = true;
  for (const Step& step : steps) {
    if (choices[step.item] != step.from) continue;
    const double more = items[step.item][step.to].weight - items[step.item][step.from].weight;
    if (weight + more <= limit + kRounding * limit) {
      weight += more;
      choices[step.item] = step.to;
    } else if (relaxed) {
      multiplier = step.slope;
      relaxed = false;
    }
  }
  solution = solution_of(items, std::move(choices));
  if (relaxed) return solution;  // everything at its cheapest
  return Search(items, limit, multiplier, std::move(solution), max_states).run();
}

std::vector<KnapsackSolution> knapsack_hull(const Knapsack& items) {
  std::vector<size_t> choices;
  const std::vector<Step> steps = hull_steps(items, choices);
  std::vector<KnapsackSolution> solutions = {solution_of(items, choices)};
  for (size_t s = 0; s < steps.size(); ++s) {
    choices[steps[s].item] = steps[s].to;
    // Between steps that are equally worthwhile there is no corner.
    if (s + 1 < steps.size() && steps[s + 1].slope == steps[s].slope) continue;
    solutions.push_back(solution_of(items, choices));
  }
  return solutions;
}

}  // namespace visq

#include "visq/pipeline/mixed_precision.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/quant/knapsack.h"

namespace visq {
namespace {

using Choice = std::optional<size_t>;  // of a unit: index into its choices; empty: as it is

uint64_t bytes_of(const Unit& unit, Choice choice) {
  return choice ? unit.choices[*choice].bytes : unit.bytes;
}

/// Units whose scores depend on each other, and all ways to choose for them.
struct Block {
  std::vector<size_t> units;
  struct Combination {
    std::vector<Choice> choices;
    std::vector<double> scores;
  };
  std::vector<Combination> combinations;
};

/// Whether smoothing of the unit can be folded into what stands before it, as can_fold() has it.
/// @param of  the scheme that a unit of the layer gets; nullptr: none
template <class SchemeOf>
bool folds(const Unit& unit, const Scheme& own, bool has_partner, const SchemeOf& of) {
  const auto alike = [&](UnitKind other) {
    const Scheme* scheme = of(other);
    return !has_partner || (scheme != nullptr && scheme->smoothing() == own.smoothing());
  };
  switch (unit.kind) {
    case UnitKind::qkv:
      return true;
    case UnitKind::o:
      return of(UnitKind::qkv) != nullptr;
    case UnitKind::gate_up:
      return alike(UnitKind::experts);
    case UnitKind::down:
      return of(UnitKind::gate_up) != nullptr;
    case UnitKind::experts:
      return alike(UnitKind::gate_up);
  }
  return true;
}

/// Fills in the scores of a combination.
void score(const SearchSpace& space, const Scores& scores, const Block& block,
           Block::Combination& combination) {
  const auto place_of = [&](UnitKind kind) {
    return std::ranges::find(block.units, kind, [&](size_t u) { return space.units[u].kind; }) -
           block.units.begin();
  };
  const auto scheme_of = [&](UnitKind kind) -> const Scheme* {
    const auto place = static_cast<size_t>(place_of(kind));
    if (place == block.units.size() || !combination.choices[place]) return nullptr;
    return &space.units[block.units[place]].choices[*combination.choices[place]].scheme;
  };
  for (size_t i = 0; i < block.units.size(); ++i) {
    const Unit& unit = space.units[block.units[i]];
    const Choice choice = combination.choices[i];
    double added = 0;
    if (choice) {
      const ChoiceScore& own = scores.of[block.units[i]][*choice];
      const bool partner =
          space.find(unit.layer, unit.kind == UnitKind::experts ? UnitKind::gate_up : UnitKind::experts) !=
          nullptr;
      added = folds(unit, unit.choices[*choice].scheme, partner, scheme_of) ? own.together : own.alone;
    }
    combination.scores.push_back(added);
  }
}

std::vector<Block> blocks_of(const SearchSpace& space, const Scores& scores) {
  std::vector<Block> blocks;
  std::pair<int64_t, bool> last{-1, false};
  for (size_t u = 0; u < space.units.size(); ++u) {
    const Unit& unit = space.units[u];
    const bool attention = unit.kind == UnitKind::qkv || unit.kind == UnitKind::o;
    if (blocks.empty() || last != std::pair{unit.layer, attention}) blocks.emplace_back();
    last = {unit.layer, attention};
    blocks.back().units.push_back(u);
  }
  for (Block& block : blocks) {
    block.combinations = {{}};
    for (const size_t u : block.units) {
      std::vector<Block::Combination> longer;
      for (const Block::Combination& combination : block.combinations)
        for (size_t c = 0; c <= space.units[u].choices.size(); ++c) {
          longer.push_back(combination);
          longer.back().choices.push_back(c < space.units[u].choices.size() ? Choice(c) : std::nullopt);
        }
      block.combinations = std::move(longer);
    }
    for (Block::Combination& combination : block.combinations) score(space, scores, block, combination);
  }
  return blocks;
}

/// Weights are bytes, costs are scores; `swapped`: the other way round.
Knapsack knapsack_of(const SearchSpace& space, const std::vector<Block>& blocks, bool swapped = false) {
  Knapsack knapsack;
  for (const Block& block : blocks) {
    knapsack.emplace_back();
    for (const Block::Combination& combination : block.combinations) {
      KnapsackChoice item;
      for (size_t i = 0; i < block.units.size(); ++i) {
        item.weight += static_cast<double>(bytes_of(space.units[block.units[i]], combination.choices[i]));
        item.cost += combination.scores[i];
      }
      if (swapped) std::swap(item.weight, item.cost);
      knapsack.back().push_back(item);
    }
  }
  return knapsack;
}

Mix mix_of(const SearchSpace& space, const std::vector<Block>& blocks, const KnapsackSolution& solution) {
  Mix mix;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const Block::Combination& combination = blocks[b].combinations[solution.choices[b]];
    for (size_t i = 0; i < blocks[b].units.size(); ++i) {  // the units in their order
      mix.choices.push_back(combination.choices[i]);
      mix.scores.push_back(combination.scores[i]);
      mix.bytes += bytes_of(space.units[blocks[b].units[i]], combination.choices[i]);
      mix.kl += combination.scores[i];
    }
  }
  mix.bound = solution.bound;
  return mix;
}

uint64_t least_bytes(const SearchSpace& space) {
  uint64_t bytes = 0;
  for (const Unit& unit : space.units) {
    uint64_t least = unit.bytes;
    for (const UnitChoice& choice : unit.choices) least = std::min(least, choice.bytes);
    bytes += least;
  }
  return bytes;
}

/// "--bits 5.2", for errors.
std::string budget_text(const Budget& budget) {
  if (budget.bits) return visq::format("--bits {}", *budget.bits);
  if (budget.bytes) return visq::format("--size {}", *budget.bytes);
  return visq::format("--kl {}", *budget.kl);
}

/// Most bytes of the units.
double limit_of(const SearchSpace& space, const Budget& budget) {
  if (budget.bits) return std::floor(*budget.bits * static_cast<double>(space.weights) / 8);
  return static_cast<double>(*budget.bytes) - static_cast<double>(space.other_bytes);
}

[[noreturn]] void refuse(const SearchSpace& space, const Budget& budget) {
  const uint64_t least = least_bytes(space);
  if (budget.bits)
    fail("{}: the smallest possible with these formats is --bits {:.4f}", budget_text(budget),
         std::ceil(bits_per_weight(space, least) * 1e4) / 1e4);
  fail("{}: the smallest possible with these formats is {} bytes ({}), {} of them not of quantizable linears",
       budget_text(budget), space.other_bytes + least, human_bytes(space.other_bytes + least),
       human_bytes(space.other_bytes));
}

}  // namespace

double bits_per_weight(const SearchSpace& space, uint64_t unit_bytes) {
  return 8 * static_cast<double>(unit_bytes) / static_cast<double>(space.weights);
}

Mix choose_mix(const SearchSpace& space, const Scores& scores, const Budget& budget) {
  const std::vector<Block> blocks = blocks_of(space, scores);
  const auto solution = budget.kl ? solve_knapsack(knapsack_of(space, blocks, /*swapped=*/true), *budget.kl)
                                  : solve_knapsack(knapsack_of(space, blocks), limit_of(space, budget));
  if (!solution) refuse(space, budget);
  Mix mix = mix_of(space, blocks, *solution);
  if (std::ranges::any_of(mix.choices, [](Choice choice) { return choice.has_value(); })) return mix;
  if (!budget.kl)
    fail("{}: the model fits as it is ({:.4g} bits, {} bytes), so there is nothing to quantize",
         budget_text(budget), bits_per_weight(space, mix.bytes), space.other_bytes + mix.bytes);
  double least = std::numeric_limits<double>::infinity();
  for (const auto& of_unit : scores.of)
    for (const ChoiceScore& score : of_unit) least = std::min(least, score.together);
  fail("{}: nothing can be quantized; the smallest predicted KL divergence of any linears is {:.3g}",
       budget_text(budget), least);
}

std::vector<Mix> pareto_mixes(const SearchSpace& space, const Scores& scores) {
  const std::vector<Block> blocks = blocks_of(space, scores);
  std::vector<Mix> mixes;
  for (const KnapsackSolution& solution : knapsack_hull(knapsack_of(space, blocks)))
    mixes.push_back(mix_of(space, blocks, solution));
  return mixes;
}

std::vector<Mix> uniform_mixes(const SearchSpace& space, const Scores& scores) {
  std::vector<Mix> mixes(space.formats.size());
  for (size_t format = 0; format < mixes.size(); ++format)
    for (size_t u = 0; u < space.units.size(); ++u) {
      const auto& choices = space.units[u].choices;
      const auto found = std::ranges::find(choices, format, &UnitChoice::format);
      const Choice choice = found == choices.end() ? Choice() : static_cast<size_t>(found - choices.begin());
      Mix& mix = mixes[format];
      mix.choices.push_back(choice);
      mix.scores.push_back(choice ? scores.of[u][*choice].together : 0);
      mix.bytes += bytes_of(space.units[u], choice);
      mix.kl += mix.scores.back();
    }
  return mixes;
}

Recipe recipe_of(const SearchSpace& space, const Mix& mix) {
  Recipe recipe;
  recipe.name = "mixed";
  recipe.kv_cache = space.kv_cache;
  recipe.modality_weight = space.plans.front().recipe.modality_weight;
  for (const Recipe& format : space.formats) recipe.about += (recipe.about.empty() ? "" : ", ") + format.name;
  recipe.about = visq::format("{:.4g} bits of {}, by measured sensitivities",
                              bits_per_weight(space, mix.bytes), recipe.about);
  for (size_t u = 0; u < space.units.size(); ++u)
    if (mix.choices[u])
      for (const std::string& site : space.units[u].sites)
        recipe.rules.push_back({site, space.units[u].choices[*mix.choices[u]].scheme});
  return recipe;
}

}  // namespace visq

#include "visq/quant/knapsack.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <random>

namespace visq {
namespace {

/// The least cost within the limit, by trying all; infinite: nothing fits.
double brute_force(const Knapsack& items, double limit, size_t item = 0) {
  if (limit < 0) return std::numeric_limits<double>::infinity();
  if (item == items.size()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (const KnapsackChoice& choice : items[item])
    least = std::min(least, choice.cost + brute_force(items, limit - choice.weight, item + 1));
  return least;
}

/// Costs mostly fall with the weight, as scores do with bits, but not always.
Knapsack random_knapsack(std::mt19937& random, size_t count, size_t choices) {
  Knapsack items(count);
  for (auto& item : items) {
    const double scale = std::exp(std::normal_distribution<>(0, 2)(random));
    for (size_t c = 0; c < choices; ++c)
      item.push_back({static_cast<double>(std::uniform_int_distribution<>(0, 40)(random)), 0});
    for (KnapsackChoice& choice : item)
      choice.cost = scale * std::exp(-choice.weight / 8 + std::normal_distribution<>(0, 0.5)(random));
  }
  return items;
}

TEST(Knapsack, finds_what_trying_all_finds) {
  std::mt19937 random(1);
  size_t solved = 0;
  for (int i = 0; i < 400; ++i) {
    const Knapsack items =
        random_knapsack(random, 1 + static_cast<size_t>(i) % 6, 1 + static_cast<size_t>(i) % 5);
    const double limit = std::uniform_int_distribution<>(0, 25 * static_cast<int>(items.size()))(random);
    const double least = brute_force(items, limit);
    const auto solution = solve_knapsack(items, limit);
    ASSERT_EQ(solution.has_value(), std::isfinite(least));
    if (!solution) continue;
    ++solved;
    EXPECT_LE(solution->weight, limit);
    EXPECT_NEAR(solution->cost, least, 1e-9 * least);
    EXPECT_EQ(solution->bound, solution->cost);
    double weight = 0, cost = 0;
    for (size_t k = 0; k < items.size(); ++k) {
      weight += items[k][solution->choices[k]].weight;
      cost += items[k][solution->choices[k]].cost;
    }
    EXPECT_EQ(weight, solution->weight);
    EXPECT_EQ(cost, solution->cost);
  }
  EXPECT_GT(solved, 200u);
}

TEST(Knapsack, takes_what_no_multiplier_finds) {
  // Nothing between the hull's two corners is on the hull, but the middle is what fits.
  const Knapsack items = {{{0, 10}, {5, 6}, {10, 0}}};
  const auto solution = solve_knapsack(items, 7);
  ASSERT_TRUE(solution);
  EXPECT_EQ(solution->choices, std::vector<size_t>{1});
  EXPECT_FALSE(solve_knapsack({{{3, 1}}, {{2, 1}}}, 4.5));
}

TEST(Knapsack, proves_a_bound_where_it_has_to_give_up) {
  std::mt19937 random(2);
  const Knapsack items = random_knapsack(random, 60, 5);
  const auto exact = solve_knapsack(items, 600), hasty = solve_knapsack(items, 600, 1);
  ASSERT_TRUE(exact && hasty);
  EXPECT_LE(hasty->weight, 600);
  EXPECT_LE(hasty->bound, exact->cost);
  EXPECT_GE(hasty->cost, exact->cost);
}

TEST(Knapsack, solves_a_large_model_at_once) {
  std::mt19937 random(3);
  Knapsack items;  // 80 layers of 4 units, of 5 formats each: bits · weights
  for (int layer = 0; layer < 80; ++layer)
    for (const double weights : {84e6, 67e6, 470e6, 235e6}) {
      const double scale = std::exp(std::normal_distribution<>(0, 1.5)(random));
      std::vector<KnapsackChoice> item;
      for (const double bits : {4.25, 4.5, 6.25, 8.0, 16.0})
        item.push_back(
            {weights * bits / 8 + 4,
             bits == 16 ? 0
                        : scale * std::exp2(-2 * bits) * std::uniform_real_distribution<>(0.5, 2)(random)});
      items.push_back(item);
    }
  const auto start = std::chrono::steady_clock::now();
  for (const double bits : {4.3, 5.0, 6.1, 7.5, 12.0}) {
    const double limit = 80 * 856e6 * bits / 8;
    const auto solution = solve_knapsack(items, limit);
    ASSERT_TRUE(solution);
    EXPECT_LE(solution->weight, limit);
    EXPECT_EQ(solution->bound, solution->cost);
  }
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 5);
}

TEST(Knapsack, hull_goes_from_lightest_to_cheapest_and_each_point_is_the_best_of_its_weight) {
  std::mt19937 random(4);
  const Knapsack items = random_knapsack(random, 5, 4);
  const auto points = knapsack_hull(items);
  ASSERT_GE(points.size(), 3u);
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_NEAR(points[i].cost, brute_force(items, points[i].weight), 1e-9);
    if (i == 0) continue;
    EXPECT_GT(points[i].weight, points[i - 1].weight);
    EXPECT_LT(points[i].cost, points[i - 1].cost);
  }
  EXPECT_FALSE(solve_knapsack(items, points.front().weight - 1));
}

}  // namespace
}  // namespace visq

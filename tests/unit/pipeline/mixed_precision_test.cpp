#include "visq/pipeline/mixed_precision.h"

#include <gtest/gtest.h>

#include "tests/unit/error_of.h"
#include "tests/unit/pipeline/tiny_checkpoint.h"

namespace visq {
namespace {

class MixTest : public testing::TestWithParam<const char*> {
 protected:
  SearchSpace space(const std::vector<std::string>& formats,
                    const std::vector<std::string>& skip = {}) const {
    QuantizeOptions options;
    for (const std::string& format : formats) options.recipes.push_back(find_preset(format).recipe);
    options.out = "out";
    options.skip = skip;
    options.kv_cache = KvCacheFormat::none;
    options.dry_run = true;
    return make_search_space(model_, options);
  }
  /// The more bits the better, unlike for each unit; alone three times as bad.
  static Scores scores_of(const SearchSpace& space) {
    Scores scores;
    double factor = 1;
    for (const Unit& unit : space.units) {
      scores.of.emplace_back();
      factor = factor > 10 ? 1 : factor * 1.7;
      for (const UnitChoice& choice : unit.choices) {
        const double bits = 8 * static_cast<double>(choice.bytes) / static_cast<double>(unit.weights);
        scores.of.back().push_back({factor * std::exp2(-2 * bits), 3 * factor * std::exp2(-2 * bits)});
      }
    }
    return scores;
  }
  TinyCheckpoint files_{at::kBFloat16, GetParam()};
  Checkpoint checkpoint_{files_.directory()};
  Model model_{checkpoint_, at::kCPU, at::kFloat};
};

TEST_P(MixTest, ThePlanOfAMixHasTheBytesThatWereSearchedFor) {
  const SearchSpace all = space({"nvfp4_awq", "fp8"});
  const Scores scores = scores_of(all);
  double last = std::numeric_limits<double>::infinity();
  for (const double bits : {4.6, 5.0, 6.5, 8.5, 12.0}) {
    const Mix mix = choose_mix(all, scores, {bits, {}, {}});
    EXPECT_LE(bits_per_weight(all, mix.bytes), bits);
    EXPECT_LE(mix.kl, last);
    last = mix.kl;
    const Plan plan = make_plan(model_, recipe_of(all, mix), all.layout->name(), "out");
    EXPECT_EQ(plan.output_bytes, all.other_bytes + mix.bytes);
    const Mix same_size = choose_mix(all, scores, {{}, plan.output_bytes, {}});
    EXPECT_LE(same_size.kl, mix.kl);
    const Mix same_kl = choose_mix(all, scores, {{}, {}, mix.kl});
    EXPECT_LE(same_kl.bytes, mix.bytes);
  }
}

TEST_P(MixTest, ASavedRecipeOfAMixIsTheSameRecipe) {
  const SearchSpace all = space({"nvfp4_awq", "fp8"});
  const Recipe recipe = recipe_of(all, choose_mix(all, scores_of(all), {6.0, {}, {}}));
  const Recipe again = parse_recipe(recipe_text(recipe), "mixed.yaml", [](const auto&) { return nullptr; });
  const Plan first = make_plan(model_, recipe, "modelopt", "out"),
             second = make_plan(model_, again, "modelopt", "out");
  ASSERT_EQ(first.sites.size(), second.sites.size());
  for (size_t i = 0; i < first.sites.size(); ++i)
    EXPECT_EQ(first.sites[i].linear.scheme, second.sites[i].linear.scheme);
}

TEST_P(MixTest, EveryLinearIsInOneUnit) {
  const SearchSpace all = space({"nvfp4", "fp8"});
  std::vector<std::pair<int64_t, nn::LinearId>> in_units, in_plan;
  for (const Unit& unit : all.units)
    for (const nn::LinearId& id : unit.linears) in_units.emplace_back(unit.layer, id);
  for (const Site& site : all.plans.front().sites) in_plan.emplace_back(site.layer, site.id);
  std::ranges::sort(in_units);
  std::ranges::sort(in_plan);
  EXPECT_EQ(in_units, in_plan);
}

TEST_P(MixTest, ABudgetThatCannotBeMetSaysTheSmallestPossible) {
  const SearchSpace all = space({"nvfp4", "fp8"});
  const Scores scores = scores_of(all);
  const std::string bits = error_of([&] { choose_mix(all, scores, {4.0, {}, {}}); });
  const double least = std::stod(bits.substr(bits.rfind(' ')));
  EXPECT_NEAR(least, 4.5, 0.01);
  EXPECT_NO_THROW(choose_mix(all, scores, {least, {}, {}}));
  const uint64_t bytes = all.plans.front().output_bytes;
  const std::string size = error_of([&] { choose_mix(all, scores, {{}, bytes - 1, {}}); });
  EXPECT_NE(size.find(visq::format("the smallest possible with these formats is {} bytes", bytes)),
            std::string::npos);
  EXPECT_NO_THROW(choose_mix(all, scores, {{}, bytes, {}}));
  EXPECT_NE(error_of([&] {
              choose_mix(all, scores, {16.0, {}, {}});
            }).find("the model fits as it is"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              choose_mix(all, scores, {{}, {}, 1e-30});
            }).find("smallest predicted KL divergence"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Models, MixTest, testing::Values("llama", "qwen3_moe", "mllama"),
                         [](const auto& model) { return model.param; });

class DenseMix : public MixTest {};

TEST_P(DenseMix, SmoothingCountsOnlyWhereItCanBeFolded) {
  const SearchSpace all = space({"int4_awq"});
  Scores scores = scores_of(all);
  // q/k/v and gate/up cost so much that they stay as they are: o and down are then not smoothed.
  for (size_t u = 0; u < all.units.size(); ++u)
    for (ChoiceScore& score : scores.of[u])
      score = all.units[u].kind == UnitKind::qkv || all.units[u].kind == UnitKind::gate_up
                  ? ChoiceScore{1000, 1000}
                  : ChoiceScore{1, 3};
  const Mix mix = choose_mix(all, scores, {13.0, {}, {}});
  for (size_t u = 0; u < all.units.size(); ++u)
    if (mix.choices[u]) {
      EXPECT_EQ(mix.scores[u], 3);
    }
  for (size_t u = 0; u < all.units.size(); ++u)
    EXPECT_EQ(uniform_mixes(all, scores).front().scores[u], scores.of[u].front().together);
}

TEST_P(DenseMix, WhatIsSkippedIsNoUnit) {
  const SearchSpace all = space({"nvfp4", "fp8"}, {"*.layers.0.mlp.*"});
  EXPECT_EQ(all.units.size(), 6u);
  EXPECT_EQ(all.find(0, UnitKind::down), nullptr);
  const Mix mix = choose_mix(all, scores_of(all), {5.0, {}, {}});
  const Plan plan = make_plan(model_, recipe_of(all, mix), "auto", "out");
  EXPECT_EQ(plan.output_bytes, all.other_bytes + mix.bytes);
}

TEST_P(DenseMix, FormatsOfPartsLeaveTheRestAsItIs) {
  const SearchSpace all = space({"nvfp4_mlp_only", "fp8"});
  ASSERT_EQ(all.find(0, UnitKind::qkv)->choices.size(), 1u);
  EXPECT_EQ(all.find(0, UnitKind::qkv)->choices.front().format, 1u);
  EXPECT_EQ(all.find(0, UnitKind::down)->choices.size(), 2u);
  const Mix mix = choose_mix(all, scores_of(all), {7.0, {}, {}});
  EXPECT_EQ(make_plan(model_, recipe_of(all, mix), "modelopt", "out").output_bytes,
            all.other_bytes + mix.bytes);
}

TEST_P(DenseMix, FormatsThatNothingReadsBesideEachOtherAreRefused) {
  EXPECT_NE(error_of([&] { space({"w4a16", "nf4"}); }).find("no layout has a place for"), std::string::npos);
  EXPECT_NE(error_of([&] {
              space({"mxfp6", "fp8"});
            }).find("no engine reads these beside each other"),
            std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Models, DenseMix, testing::Values("llama"),
                         [](const auto& model) { return model.param; });

}  // namespace
}  // namespace visq

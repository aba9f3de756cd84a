#include <gtest/gtest.h>

#include "tests/unit/error_of.h"
#include "visq/core/format.h"
#include "visq/quant/presets.h"

namespace visq {
namespace {

Recipe parse(const std::string& text) {
  return parse_recipe(text, "folder/mine.yaml", [](const std::string& name) -> const Recipe* {
    for (const Preset& preset : presets())
      if (preset.name == name) return &preset.recipe;
    return nullptr;
  });
}

std::string error_of_text(const std::string& text) {
  return error_of([&] { parse(text); });
}

const Scheme& scheme_of(const char* preset) { return find_preset(preset).scheme; }

TEST(RecipeFile, RulesFollowThoseOfTheExtendedPreset) {
  const Recipe recipe = parse(R"(
extends: nvfp4
kv_cache: none
skip: ["*.layers.0.*"]
rules:
  - {sites: "*self_attn*", scheme: fp8}
  - sites: "*.layers.1.*"
    scheme: none
)");
  EXPECT_EQ(recipe.name, "mine");
  EXPECT_EQ(recipe.kv_cache, KvCacheFormat::none);
  EXPECT_EQ(recipe.scheme_for("model.layers.2.mlp.up_proj"), scheme_of("nvfp4"));
  EXPECT_EQ(recipe.scheme_for("model.layers.2.self_attn.q_proj"), scheme_of("fp8"));
  EXPECT_EQ(recipe.scheme_for("model.layers.1.self_attn.q_proj"), std::nullopt);
  EXPECT_EQ(recipe.scheme_for("model.layers.0.mlp.up_proj"), std::nullopt);
  EXPECT_EQ(recipe.rules[0].origin, "");
  EXPECT_EQ(recipe.rules[1].origin, "folder/mine.yaml:6");
}

TEST(RecipeFile, KeysChangeTheNamedScheme) {
  Scheme expected = scheme_of("int4_awq");
  expected.block = 64;
  expected.rounding = Rounding::gptq;
  EXPECT_EQ(parse("rules: [{scheme: int4_awq, block: 64, rounding: gptq}]").rules.front().scheme, expected);
}

TEST(RecipeFile, BlocksAreTheCodecsWhereTheRuleSaysNone) {
  EXPECT_EQ(parse("rules: [{weight: int4, smoothing: awq}]").rules.front().scheme,
            scheme_of("int4_awq_lite"));
  EXPECT_EQ(parse("rules: [{weight: nvfp4, input: nvfp4}]").rules.front().scheme, scheme_of("nvfp4_max"));
  EXPECT_EQ(parse("rules: [{weight: int8}]").rules.front().scheme, scheme_of("int8_wo"));
  EXPECT_EQ(parse("rules: [{scheme: int4_awq, weight: nvfp4}]").rules.front().scheme->block, 16);
}

TEST(RecipeFile, WhatIsWrittenReadsTheSame) {
  std::vector<Recipe> recipes;
  for (const Preset& preset : presets()) recipes.push_back(preset.recipe);
  Recipe odd = recipe_of(find_preset("w4a8_awq"), KvCacheFormat::nvfp4_affine, {"*\"q\\: {*"}, {"a", "#b"});
  odd.rules.push_back({"*last", std::nullopt});
  odd.modality_weight.reset();
  odd.without_data = "w4a16";
  odd.rules.front().scheme->alpha = 0.35;
  odd.rules.front().scheme->rounded_inputs = true;
  odd.rules.push_back({"*.o_proj", Scheme{.weight = Codec::nf4, .block = 64, .rotated = true}});
  recipes.push_back(odd);
  for (const Recipe& recipe : recipes) {
    const Recipe again = parse(recipe_text(recipe));
    EXPECT_EQ(again.name, recipe.name);
    EXPECT_EQ(again.about, recipe.about);
    EXPECT_EQ(again.kv_cache, recipe.kv_cache);
    EXPECT_EQ(again.modality_weight, recipe.modality_weight);
    EXPECT_EQ(again.without_data, recipe.without_data);
    EXPECT_EQ(again.only, recipe.only);
    EXPECT_EQ(again.skip, recipe.skip);
    ASSERT_EQ(again.rules.size(), recipe.rules.size());
    for (size_t i = 0; i < recipe.rules.size(); ++i) {
      EXPECT_EQ(again.rules[i].sites, recipe.rules[i].sites);
      EXPECT_EQ(again.rules[i].scheme, recipe.rules[i].scheme);
    }
  }
}

TEST(RecipeFile, EveryPresetIsSuchAFile) {
  for (const Preset& preset : presets()) EXPECT_EQ(parse(preset.text).name, preset.name);
}

TEST(RecipeFile, ErrorsNameTheLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"rules:\n  - {weight: int4}\nblok: 3\n", "folder/mine.yaml:3: unknown key 'blok'"},
      {"rules:\n  - weight: int4\n    bits: 3\n", "folder/mine.yaml:3: unknown key 'bits'"},
      {"rules:\n  - weight: int5\n", "folder/mine.yaml:2: weight: 'int5' is not one of fp8, "},
      {"rules: [\n", "folder/mine.yaml:2: not YAML"},
      {"extends: fp7\nrules: []\n", "folder/mine.yaml:1: no preset is called 'fp7'"},
      {"rules:\n  - {scheme: fp7}\n", "folder/mine.yaml:2: no preset is called 'fp7'"},
      {"rules: []\n", "folder/mine.yaml:1: has no rules"},
      {"- a\n", "folder/mine.yaml:1: a recipe is a mapping"},
      {"", "folder/mine.yaml:1: a recipe is a mapping"},
      {"rules: {a: b}\n", "folder/mine.yaml:1: 'rules' is not a list"},
      {"rules:\n  - {sites: '*'}\n", "folder/mine.yaml:2: says neither 'scheme' nor 'weight'"},
      {"rules:\n  - {weight: int4, block: 100}\n", "folder/mine.yaml:2: block: int4 needs a multiple of 8"},
      {"rules:\n  - {weight: int4, block: many}\n", "folder/mine.yaml:2: block: expected a number from 1"},
      {"rules:\n  - {weight: int4, low_rank: 1025}\n",
       "folder/mine.yaml:2: low_rank: expected a number from 0"},
      {"rules:\n  - {weight: int4, low_rank_by: x}\n", "folder/mine.yaml:2: low_rank_by: 'x' is not one of"},
      {"rules:\n  - {weight: nf4, scales: mse}\n", "folder/mine.yaml:2: scales: those of nf4"},
      {"rules:\n  - {weight: fp8_rows, block: 32}\n", "folder/mine.yaml:2: fp8_rows has no blocks"},
      {"rules:\n  - {weight: int8, block: 4}\n", "folder/mine.yaml:2: block: int8 needs a multiple of 8"},
      {"rules:\n  - {scheme: none, input: fp8}\n", "folder/mine.yaml:2: scheme: none leaves"},
      {"rules:\n  - {weight: fp8, scales: mse}\n", "folder/mine.yaml:2: scales: those of fp8"},
      {"rules:\n  - {weight: mxfp4, rounding: gptq}\n", "folder/mine.yaml:2: rounding: gptq"},
      {"rules:\n  - {weight: int4, second_stage: fp8}\n", "folder/mine.yaml:2: second_stage: fp8 needs"},
      {"kv_cache: fp9\nrules: [{weight: int8}]\n", "folder/mine.yaml:1: --kv-cache fp9"},
      {"name: a/b\nrules: [{weight: int8}]\n", "folder/mine.yaml:1: name: 'a/b' cannot name"},
      {"rules:\n  - {weight: int8, alpha: 0.5}\n", "folder/mine.yaml:2: alpha: there is no smoothing"},
      {"rules:\n  - {scheme: int8_sq, alpha: 2}\n", "folder/mine.yaml:2: alpha: expected a number from 0"},
      {"rules:\n  - {scheme: int4_awq, smoothing_inputs: rounded}\n",
       "folder/mine.yaml:2: smoothing_inputs: rounded needs"},
      {"rules:\n  - {scheme: nvfp4, rotation: hadamard}\n",
       "folder/mine.yaml:2: rotation: calibration does not"},
      {"modality_weight: 0\nrules: [{weight: int8}]\n",
       "folder/mine.yaml:1: modality weight: '0' is neither"},
      {"without_data: fp8\nrules: [{weight: int8}]\n",
       "folder/mine.yaml:1: 'fp8' needs calibration data too"},
      {"only: x\nrules: [{weight: int8}]\n", "folder/mine.yaml:1: expected a list"},
      {"name: x\nname: y\nrules: [{weight: int8}]\n", "folder/mine.yaml:2: key 'name' occurs twice"},
  };
  for (const auto& [text, expected] : cases)
    EXPECT_EQ(error_of_text(text).substr(0, expected.size()), expected) << text;
}

TEST(RecipeFile, DeepNestingIsRefused) {
  EXPECT_NE(error_of_text("rules: " + std::string(100'000, '[')), "");
  EXPECT_NE(error_of_text(std::string(100'000, '{')), "");
}

TEST(RecipeFile, AliasesDoNotMultiply) {
  std::string text = "a: &a [x, x, x, x, x, x, x, x]\n";
  for (char c = 'b'; c <= 'z'; ++c)
    text += visq::format("{}: &{} [*{}, *{}, *{}, *{}, *{}, *{}]\n", c, c, char(c - 1), char(c - 1),
                         char(c - 1), char(c - 1), char(c - 1), char(c - 1));
  EXPECT_NE(error_of_text(text).find("unknown key 'a'"), std::string::npos);
}

}  // namespace
}  // namespace visq

#include "visq/export/module_targets.h"

#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

using Match = ModuleTargets::Match;

Match match(const std::vector<std::string>& entries, const std::string& module, bool other_spellings = true) {
  return ModuleTargets(entries, "config.json").match(module, other_spellings);
}

TEST(ModuleTargets, NamesAreComparedWhateverTheGeneration) {
  EXPECT_EQ(without_prefixes("model.language_model.layers.0.mlp"), "layers.0.mlp");
  EXPECT_EQ(without_prefixes("language_model.model.layers.0.mlp"), "layers.0.mlp");
  EXPECT_EQ(without_prefixes("model.visual.blocks.0"), "visual.blocks.0");
  const std::string module = "language_model.model.layers.1.mlp.up_proj";
  EXPECT_EQ(match({"model.language_model.layers.1.mlp.up_proj"}, module), Match::by_name);
  EXPECT_EQ(match({"model.layers.1.mlp.up_proj"}, module), Match::by_name);
  EXPECT_EQ(match({"model.layers.11.mlp.up_proj"}, module), Match::none);
  EXPECT_EQ(match({"up_proj"}, module), Match::none);
}

TEST(ModuleTargets, ExpressionsMatchFromTheStart) {
  const std::string module = "model.layers.1.mlp.up_proj";
  EXPECT_EQ(match({"re:.*(up|gate)_proj$"}, module), Match::by_expression);
  EXPECT_EQ(match({"re:model\\.layers\\.[0-9]+\\.mlp"}, module), Match::by_expression);
  EXPECT_EQ(match({"re:mlp.*"}, module), Match::none);
  EXPECT_EQ(match({"re:.*mlp.up_proj.+"}, module), Match::none);
}

TEST(ModuleTargets, ExpressionsMayMeanAnotherGenerationsName) {
  const std::vector<std::string> entries = {"re:^model\\.language_model\\..*"};
  EXPECT_EQ(match(entries, "language_model.model.layers.0.mlp"), Match::by_expression);
  EXPECT_EQ(match(entries, "language_model.model.layers.0.mlp", false), Match::none);
}

TEST(ModuleTargets, TheMostTellingEntryCounts) {
  const std::string module = "model.layers.1.mlp.up_proj";
  EXPECT_EQ(match({"Linear"}, module), Match::by_class);
  EXPECT_EQ(match({"LlamaAttention"}, module), Match::none);
  EXPECT_EQ(match({"Linear", "re:.*up_proj"}, module), Match::by_expression);
  EXPECT_EQ(match({"Linear", "re:.*up_proj", module}, module), Match::by_name);
}

TEST(ModuleTargets, RefusesMalformedAndHostileExpressions) {
  EXPECT_THROW(ModuleTargets({"re:.*(up"}, "config.json"), Error);
  const std::string name(60, 'a');
  EXPECT_THROW(match({"re:(a+)+$"}, name + name + "!"), Error);
}

}  // namespace
}  // namespace visq

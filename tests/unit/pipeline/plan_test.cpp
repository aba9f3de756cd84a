#include "visq/pipeline/plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/pipeline/tiny_checkpoint.h"
#include "visq/core/error.h"

namespace visq {
namespace {

class PlanTest : public testing::Test {
 protected:
  Plan plan(const char* preset, std::vector<std::string> only = {}, std::vector<std::string> skip = {}) {
    return make_plan(model_, recipe_of(find_preset(preset), KvCacheFormat::none, only, skip), "auto", "out");
  }
  TinyCheckpoint files_{at::kBFloat16};
  Checkpoint checkpoint_{files_.directory()};
  Model model_{checkpoint_, at::kCPU, at::kFloat};
};

TEST_F(PlanTest, QuantizesTheSevenLinearsOfEachLayerAndNothingElse) {
  EXPECT_EQ(plan("fp8").sites.size(), 14u);
  for (const Site& site : plan("fp8").sites)
    EXPECT_NE(site.linear.module.find("language_model.layers."), std::string::npos);
}

TEST_F(PlanTest, SizeIsTheSumOfItsTensors) {
  const Plan fp8 = plan("fp8");
  // Two layers: q, o [256, 256], k, v [128, 256], gate, up [384, 256], down [256, 384], half the bytes, and
  // two scalars each.
  const uint64_t weights = 2 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 384 * 256);
  EXPECT_EQ(fp8.output_bytes, fp8.source_bytes - weights + 14 * 8);
}

TEST_F(PlanTest, ARecipeThatMatchesNothingIsRefused) { EXPECT_THROW(plan("fp8", {"*nothing*"}), Error); }

TEST_F(PlanTest, ARecipeThatSplitsAFusedGroupIsRefused) {
  EXPECT_THROW(plan("fp8", {}, {"*layers.0.mlp.gate_proj"}), Error);
}

TEST_F(PlanTest, SmoothingIsNotFoldedIntoALinearThatIsLeftOut) {
  const Plan partial = plan("int4_awq", {}, {"*layers.0.self_attn.[qkv]_proj"});
  EXPECT_FALSE(can_fold(partial, model_.spec().decoder, 0, {nn::InputGroup::attn_out}));
  EXPECT_TRUE(can_fold(partial, model_.spec().decoder, 1, {nn::InputGroup::attn_out}));
  EXPECT_TRUE(can_fold(partial, model_.spec().decoder, 0, {nn::InputGroup::mlp_out}));
}

class SparsePlan : public testing::Test {
 protected:
  Plan plan(std::vector<std::string> skip) {
    const Preset& preset = find_preset("int4_awq");
    return make_plan(model_, recipe_of(preset, KvCacheFormat::none, {}, skip), "auto", "out");
  }
  TinyCheckpoint files_{at::kBFloat16, "qwen3_moe"};
  Checkpoint checkpoint_{files_.directory()};
  Model model_{checkpoint_, at::kCPU, at::kFloat};
};

TEST_F(SparsePlan, ExpertsAreQuantizedTogetherOrNotAtAll) {
  EXPECT_EQ(plan({}).sites.size(), 7u + 4 + 3 * 4);
  EXPECT_THROW(plan({"*experts.1.*"}), Error);
  EXPECT_EQ(plan({"*mlp.experts*"}).sites.size(), 7u + 4);
}

TEST_F(SparsePlan, RoutersAndExpertsThatAreLeftOutAreExcluded) {
  const ExportSummary all = plan({}).summary, some = plan({"*mlp.experts*"}).summary;
  const auto has = [](const std::vector<std::string>& names, const std::string& name) {
    return std::ranges::find(names, name) != names.end();
  };
  const std::string mlp = "model.language_model.layers.1.mlp.";
  EXPECT_TRUE(has(all.unquantized_linears, mlp + "gate"));
  EXPECT_FALSE(has(all.unquantized_roots, mlp + "experts"));
  EXPECT_TRUE(has(some.unquantized_roots, mlp + "experts"));
}

}  // namespace
}  // namespace visq

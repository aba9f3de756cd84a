#include <gtest/gtest.h>

#include <set>

#include "visq/core/error.h"
#include "visq/quant/presets.h"

namespace visq {
namespace {

TEST(Recipe, PresetReachesEveryModule) {
  const Recipe recipe = recipe_of(find_preset("fp8"), KvCacheFormat::fp8);
  EXPECT_EQ(recipe.scheme_for("model.layers.3.mlp.up_proj"), find_preset("fp8").scheme);
}

TEST(Recipe, LastMatchingRuleWins) {
  const Recipe recipe =
      recipe_of(find_preset("fp8"), KvCacheFormat::none, {"*layers.1.*", "*layers.2.*"}, {"*layers.2.mlp*"});
  EXPECT_FALSE(recipe.scheme_for("model.layers.0.mlp.up_proj").has_value());
  EXPECT_TRUE(recipe.scheme_for("model.layers.1.mlp.up_proj").has_value());
  EXPECT_TRUE(recipe.scheme_for("model.layers.2.self_attn.q_proj").has_value());
  EXPECT_FALSE(recipe.scheme_for("model.layers.2.mlp.up_proj").has_value());
}

TEST(Recipe, GlobOfLayerOneDoesNotReachLayerTen) {
  EXPECT_TRUE(glob_match("*layers.1.*", "model.layers.1.mlp.up_proj"));
  EXPECT_FALSE(glob_match("*layers.1.*", "model.layers.10.mlp.up_proj"));
}

TEST(Scheme, UnknownPresetIsRefusedWithTheListOfPresets) {
  try {
    find_preset("fp7");
    FAIL();
  } catch (const Error& e) {
    std::string known;
    for (const Preset& preset : presets()) known += (known.empty() ? "" : ", ") + preset.name;
    EXPECT_EQ(e.what(), "--format fp7: no such format; choose from " + known);
  }
}

TEST(Scheme, BitsPerWeightCountTheScales) {
  EXPECT_DOUBLE_EQ(find_preset("fp8").scheme.bits_per_weight(), 8);
  EXPECT_DOUBLE_EQ(find_preset("int4_awq").scheme.bits_per_weight(),
                   4.125);                                               // a 16-bit scale per 128 weights
  EXPECT_DOUBLE_EQ(find_preset("nvfp4").scheme.bits_per_weight(), 4.5);  // an 8-bit scale per 16 weights
  EXPECT_DOUBLE_EQ(find_preset("w4a8_nvfp4_fp8").scheme.bits_per_weight(), 4.25);  // per 32
  EXPECT_DOUBLE_EQ(find_preset("mxfp6").scheme.bits_per_weight(), 6.25);
  EXPECT_DOUBLE_EQ(find_preset("int4_awq_asym").scheme.bits_per_weight(), 4.15625);  // and a zero point
  EXPECT_DOUBLE_EQ(find_preset("nf4").scheme.bits_per_weight(),
                   4.126953125);  // 8 bits per 64, 32 per 256 of these
  EXPECT_DOUBLE_EQ(find_preset("mxint8").scheme.bits_per_weight(), 8.25);
  EXPECT_DOUBLE_EQ(find_preset("int8_wo_g128").scheme.bits_per_weight(), 8.125);
  EXPECT_DOUBLE_EQ((Scheme{.weight = Codec::int4}).bits_per_weight(), 4);  // a scale a row
}

TEST(Scheme, CalibrationIsNeededForInputScalesAndSmoothingOnly) {
  const std::set<std::string> without = {"w4a16_asym",     "nf4",      "fp8_pc_pt",   "fp8_pb_wo",
                                         "int8_wo",        "w4a16",    "w4a16_nvfp4", "w4a16_nvfp4_max",
                                         "w4a8_mxfp4_fp8", "mxfp4",    "mxfp6",       "mxfp8",
                                         "mxint8",         "w4a8",     "w4afp8",      "int8_dynamic",
                                         "int8_wo_g128",   "mxfp4_wo", "q8_0",        "q4_0"};
  for (const Preset& preset : presets())
    EXPECT_EQ(preset.recipe.needs_calibration(), !without.contains(preset.name)) << preset.name;
  EXPECT_FALSE(find_preset("fp8_pc_pt").scheme.has_input_scale());  // each token brings its own
}

TEST(Scheme, NamesWhatFindsScalesAndCodes) {
  EXPECT_EQ(find_preset("nvfp4_max").scheme.solvers(), "max");
  EXPECT_EQ(find_preset("int8_sq").scheme.solvers(), "smoothquant");
  EXPECT_EQ(find_preset("int4_awq_full").scheme.solvers(), "awq + clip");
  EXPECT_EQ(find_preset("nvfp4_awq_gptq").scheme.solvers(), "awq + gptq");
  EXPECT_EQ(find_preset("nvfp4_svdquant").scheme.solvers(), "awq + svdquant");
}

TEST(Scheme, SolversDoNotChangeHowNumbersAreStored) {
  const Scheme& nvfp4 = find_preset("nvfp4").scheme;
  EXPECT_TRUE(nvfp4.stored_like(find_preset("nvfp4_max").scheme));
  EXPECT_FALSE(nvfp4.stored_like(find_preset("w4a16_nvfp4").scheme));
  EXPECT_FALSE(nvfp4.stored_like(find_preset("int4_awq").scheme));
}

TEST(Presets, AreToldApartByTheirSchemesOrByTheirRules) {
  for (const Preset& preset : presets())
    if (preset.recipe.rules.front().sites == "*" && preset.name != "nvfp4_awq")  // another name of nvfp4
      EXPECT_EQ(preset_of(preset.scheme), &preset);
    else
      EXPECT_EQ(preset_of(preset.scheme), &find_preset("nvfp4")) << preset.name;
}

TEST(Presets, ReachWhatTheirNamesSay) {
  const std::string up = "model.layers.3.mlp.up_proj", expert = "model.layers.3.mlp.experts.0.up_proj",
                    output = "model.layers.3.self_attn.o_proj", query = "model.layers.3.self_attn.q_proj";
  const auto reaches = [](const char* preset, const std::string& module) {
    return find_preset(preset).recipe.scheme_for(module).has_value();
  };
  EXPECT_TRUE(reaches("nvfp4_mlp_only", up) && reaches("nvfp4_mlp_only", expert));
  EXPECT_FALSE(reaches("nvfp4_mlp_only", output) || reaches("nvfp4_mlp_only", query));
  EXPECT_TRUE(reaches("nvfp4_omlp_only", up) && reaches("nvfp4_omlp_only", output));
  EXPECT_FALSE(reaches("nvfp4_omlp_only", query));
  EXPECT_TRUE(reaches("nvfp4_experts_only", expert));
  EXPECT_FALSE(reaches("nvfp4_experts_only", up));
}

}  // namespace
}  // namespace visq

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"
#include "visq/families/names.h"

namespace visq {
namespace {

using Order = nn::ProjectorOp::Order;

Json nemotron(const Json& root = Json::object(), const Json& args = Json::object()) {
  Json config = parse_json(R"({
    "architectures": ["Llama_Nemotron_Nano_VL"], "force_image_size": 512, "ps_version": "v2",
    "llm_config": {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
                   "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_config": {"patch_size": 16, "adaptor_names": null, "args": {
      "model": "vit_huge_patch16_224", "cpe_max_size": 2048, "register_multiple": 8, "cls_token_per_teacher": true,
      "teachers": [{"name": "clip"}, {"name": "siglip"}, {"name": "dino_v2"}, {"name": "sam"}]}}})",
                           "nemotron");
  if (root.is_object()) config.update(root);
  if (args.is_object()) config["vision_config"]["args"].update(args);
  return config;
}

using test::describe;
using test::expect_error;

TEST(NemotronVl, HasTheTowerThatItsArgumentsName) {
  const ModelSpec spec = describe(nemotron());
  EXPECT_EQ(spec.family, "nemotron_vl");
  EXPECT_EQ(spec.vision.width, 1280);
  EXPECT_EQ(spec.vision.mlp_width, 5120);
  EXPECT_EQ(spec.vision.layers, 32);
  EXPECT_EQ(spec.vision.heads, 16);
  EXPECT_EQ(spec.vision.class_tokens, 8);  // a token for each teacher, filled up to the next multiple
  EXPECT_EQ(spec.vision.position_rows, 128 * 128);
  EXPECT_EQ(nn::tower_tokens(spec.vision, {32, 32}), 32 * 32);
  EXPECT_EQ(nn::projected_grid(spec.projector, {32, 32}), (nn::Grid{16, 16}));
  EXPECT_FALSE(spec.vision.post_norm);
  EXPECT_TRUE(describe(nemotron({}, {{"model_norm", true}})).vision.post_norm);
  EXPECT_EQ(NameMap::canonical(spec, "language_model.lm_head.weight"), "lm_head.weight");
}

TEST(NemotronVl, CountsTokensAndRegistersAsTheTowerDoes) {
  const auto tokens = [](const Json& args) { return describe(nemotron({}, args)).vision.class_tokens; };
  EXPECT_EQ(tokens({{"register_multiple", 10}}), 10);
  EXPECT_EQ(tokens({{"register_multiple", 4}}), 8);  // a whole multiple gets another one
  EXPECT_EQ(tokens({{"register_multiple", nullptr}}), 4);
  EXPECT_EQ(tokens({{"cpe_num_registers", 6}}), 10);
  EXPECT_EQ(tokens({{"cls_token_per_teacher", false}}), 8);
  EXPECT_EQ(tokens({{"teachers", Json::array({{{"name", "a"}}, {{"name", "a"}}})}}), 8);
}

TEST(NemotronVl, TheFirstPixelShuffleGoesByColumns) {
  const auto order = [](const Json& root) { return describe(nemotron(root)).projector.front().order; };
  EXPECT_EQ(order({{"ps_version", "v2"}}), Order::rows);
  EXPECT_EQ(order({{"ps_version", "v1"}}), Order::columns);
  EXPECT_EQ(order({{"ps_version", nullptr}}), Order::columns);
  expect_error(nemotron({{"ps_version", "v3"}}), "'ps_version' is 'v3'");
  expect_error(nemotron({{"downsample_ratio", 0.3}}), "32 patches a side do not divide by 3");
}

TEST(NemotronVl, RefusesWhatItCannotRun) {
  expect_error(nemotron({{"llm_config", {{"model_type", "nemotron_h"}}}}), "text model 'nemotron_h'");
  expect_error(nemotron({{"image_tag_type", "nvlm"}}), "'image_tag_type' is 'nvlm'");
  expect_error(nemotron({}, {{"model", "eradio"}}), "'model' is 'eradio'");
  expect_error(nemotron({}, {{"model", nullptr}}), "'model' is missing");
  expect_error(nemotron({}, {{"cpe_max_size", nullptr}}), "'cpe_max_size' is missing");
  expect_error(nemotron({}, {{"cpe_max_size", 1e9}}), "'cpe_max_size' is");
  expect_error(nemotron({}, {{"spectral_reparam", true}}), "'spectral_reparam' is set");
  expect_error(nemotron({}, {{"model_kwargs", {{"init_values", 1e-5}}}}), "'model_kwargs.init_values'");
  expect_error(nemotron({}, {{"teachers", {"clip"}}}), "teachers");
  Json windows = nemotron();
  windows["vision_config"]["vitdet_window_size"] = 16;
  expect_error(windows, "'vision_config.vitdet_window_size' is not supported");
  for (const char* hybrid : {"NemotronH_Nano_VL_V2", "NemotronH_Omni_Reasoning_V3"})
    expect_error({{"architectures", {hybrid}}}, "mixes Mamba2 and attention layers");
}

}  // namespace
}  // namespace visq

#include "visq/families/names.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"

namespace visq {
namespace {

// The spellings A to D of spec/models-llava-vila-qwen.md §2.

TEST(CanonicalNames, OfLlavaAreThoseOfTheTreeOfFivePointX) {
  const ModelSpec spec = describe_model(test::llava_config(), "c");
  const std::vector<std::pair<std::string, std::vector<std::string>>> expected = {
      {"model.language_model.layers.3.mlp.up_proj.weight",
       {"language_model.model.layers.3.mlp.up_proj.weight",
        "model.language_model.layers.3.mlp.up_proj.weight"}},
      {"model.language_model.norm.weight",
       {"language_model.model.norm.weight", "model.language_model.norm.weight"}},
      {"lm_head.weight", {"language_model.lm_head.weight", "lm_head.weight"}},
      {"model.vision_tower.encoder.layers.0.mlp.fc1.bias",
       {"vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.bias",
        "model.vision_tower.encoder.layers.0.mlp.fc1.bias", "vision_tower.encoder.layers.0.mlp.fc1.bias"}},
      {"model.multi_modal_projector.linear_1.weight",
       {"multi_modal_projector.linear_1.weight", "model.multi_modal_projector.linear_1.weight"}},
      {"model.image_newline", {"image_newline", "model.image_newline"}}};
  for (const auto& [canonical, spellings] : expected)
    for (const std::string& name : spellings) EXPECT_EQ(NameMap::canonical(spec, name), canonical) << name;
}

TEST(CanonicalNames, OfQwenAreThoseOfTheTreeOfFivePointX) {
  const ModelSpec spec = describe_model(test::qwen_config(), "c");
  const std::vector<std::pair<std::string, std::vector<std::string>>> expected = {
      {"model.language_model.layers.3.self_attn.q_proj.bias",
       {"model.layers.3.self_attn.q_proj.bias", "model.language_model.layers.3.self_attn.q_proj.bias"}},
      {"model.language_model.embed_tokens.weight",
       {"model.embed_tokens.weight", "model.language_model.embed_tokens.weight"}},
      {"lm_head.weight", {"lm_head.weight"}},
      {"model.visual.blocks.0.attn.qkv.weight",
       {"visual.blocks.0.attn.qkv.weight", "model.visual.blocks.0.attn.qkv.weight"}}};
  for (const auto& [canonical, spellings] : expected)
    for (const std::string& name : spellings) EXPECT_EQ(NameMap::canonical(spec, name), canonical) << name;
}

TEST(NameMap, LeadsBackToTheNamesInTheFiles) {
  const test::TemporaryDirectory directory;
  const Json config = test::llava_config();
  test::write_checkpoint(directory.path(), config,
                         {{"language_model.model.layers.1.self_attn.q_proj.weight_packed", at::zeros({2, 2})},
                          {"language_model.model.layers.1.self_attn.q_proj.weight_scale", at::zeros({2})},
                          {"language_model.lm_head.weight", at::zeros({2, 2})}});
  const Checkpoint checkpoint(directory.path());
  const ModelSpec spec = describe_model(config, "c");
  const NameMap names(spec, checkpoint);
  EXPECT_EQ(names.source("lm_head.weight"), "language_model.lm_head.weight");
  EXPECT_EQ(names.source("model.language_model.norm.weight"), "");
  EXPECT_EQ(names.module(spec, 1, {nn::Role::q}), "language_model.model.layers.1.self_attn.q_proj");
  EXPECT_EQ(names.module(spec, 1, {nn::Role::k}), "");
}

TEST(NameMap, RefusesTwoNamesForOneTensor) {
  const test::TemporaryDirectory directory;
  const Json config = test::llava_config();
  test::write_checkpoint(
      directory.path(), config,
      {{"language_model.lm_head.weight", at::zeros({2})}, {"lm_head.weight", at::zeros({2})}});
  const Checkpoint checkpoint(directory.path());
  EXPECT_THROW(NameMap(describe_model(config, "c"), checkpoint), Error);
}

}  // namespace
}  // namespace visq

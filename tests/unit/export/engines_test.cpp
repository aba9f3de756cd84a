// The measured table of spec/export.md §7.6, case by case.
#include "visq/export/engines.h"

#include <gtest/gtest.h>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr const char* kTowerQwen = "visual.blocks.0.attn.qkv";
constexpr const char* kTowerLlava = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj";

bool covers(Engine engine, const std::string& entry, const std::string& module, const char* type) {
  return engine_excludes(engine, {entry}, module, type);
}

TEST(Engines, QwenTowerEntries) {
  EXPECT_TRUE(covers(Engine::vllm, "visual*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers(Engine::sglang, "visual*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers(Engine::vllm, "model.visual.*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers(Engine::sglang, "model.visual.*", kTowerQwen, "qwen2_5_vl"));
}

TEST(Engines, NewLlavaNamesAreLostOnSglang) {
  EXPECT_TRUE(covers(Engine::vllm, "model.vision_tower*", kTowerLlava, "llava"));
  EXPECT_FALSE(covers(Engine::sglang, "model.vision_tower*", kTowerLlava, "llava"));
  EXPECT_TRUE(covers(Engine::sglang, "vision_tower.vision_model*", kTowerLlava, "llava"));
}

TEST(Engines, BareLayerIsASubstringOfLayerTenOnVllm) {
  const char* ten = "model.layers.10.mlp.up_proj";
  EXPECT_TRUE(covers(Engine::vllm, "model.layers.1", ten, "llama"));
  EXPECT_TRUE(covers(Engine::vllm, "model.layers.1*", ten, "llama"));
  EXPECT_FALSE(covers(Engine::vllm, "model.layers.1.*", ten, "llama"));
  EXPECT_FALSE(covers(Engine::sglang, "model.layers.1", ten, "llama"));
  EXPECT_TRUE(covers(Engine::sglang, "model.layers.1*", ten, "llama"));
  EXPECT_TRUE(covers(Engine::tensorrt_llm, "model.layers.1*", ten, "llama"));
  EXPECT_FALSE(covers(Engine::tensorrt_llm, "model.layers.1.*", ten, "llama"));
}

TEST(Engines, MllamaEntriesCoverBothSpellingsAndNoCrossLayer) {
  const std::vector<std::string> roots = {"lm_head",
                                          "language_model.lm_head",
                                          "vision_model",
                                          "model.vision_model",
                                          "multi_modal_projector",
                                          "model.multi_modal_projector"};
  std::vector<std::string> entries;
  for (const std::string& root : roots) {
    entries.push_back(root);
    entries.push_back(root + ".*");
  }
  for (const Engine engine : {Engine::vllm, Engine::sglang, Engine::tensorrt_llm}) {
    const auto excludes = [&](const char* module) {
      return engine_excludes(engine, entries, module, "mllama");
    };
    EXPECT_TRUE(excludes("vision_model.global_transformer.layers.0.self_attn.k_proj"));
    EXPECT_TRUE(excludes("model.vision_model.transformer.layers.0.mlp.fc1"));
    EXPECT_TRUE(excludes("multi_modal_projector"));
    EXPECT_TRUE(excludes("model.multi_modal_projector"));
    EXPECT_TRUE(excludes("language_model.lm_head"));
    EXPECT_FALSE(excludes("language_model.model.layers.3.cross_attn.k_proj"));
    EXPECT_FALSE(excludes("model.language_model.layers.3.cross_attn.k_proj"));
  }
}

TEST(Engines, HeadEntries) {
  EXPECT_TRUE(covers(Engine::vllm, "lm_head", "language_model.lm_head", "llava"));
  EXPECT_TRUE(covers(Engine::sglang, "lm_head", "language_model.lm_head", "llava"));
  EXPECT_FALSE(covers(Engine::sglang, "language_model.lm_head", "lm_head", "llava"));
  EXPECT_FALSE(covers(Engine::tensorrt_llm, "language_model.lm_head", "lm_head", "llava"));
}

TEST(Engines, TensorRtLlmMatchesAncestors) {
  EXPECT_TRUE(covers(Engine::tensorrt_llm, "vision_tower", kTowerLlava, "llava"));
}

TEST(Engines, ExpressionsMatchFromTheStart) {
  EXPECT_TRUE(covers(Engine::vllm, "re:.*vision_tower.*", kTowerLlava, "llava"));
  EXPECT_FALSE(covers(Engine::vllm, "re:tower.*", kTowerLlava, "llava"));
  EXPECT_TRUE(
      covers(Engine::vllm, "re:.*layers\\.1\\.mlp\\.up_proj$", "model.layers.1.mlp.up_proj", "llama"));
  EXPECT_FALSE(covers(Engine::vllm, "re:.*layers\\.1\\.mlp\\.up$", "model.layers.1.mlp.up_proj", "llama"));
}

TEST(Engines, ComponentsAreWholePartsOfANameOrItsFirstOnes) {
  const auto covers = [](const char* entry, const char* module) {
    return engine_excludes(Engine::vllm, {entry}, module, "llama", ExcludeRule::components);
  };
  EXPECT_TRUE(covers("lm_head", "language_model.lm_head"));
  EXPECT_TRUE(covers("vision_tower", "vision_tower.layers.0.mlp.fc1"));
  EXPECT_TRUE(covers("layers.1", "layers.1.mlp.up_proj"));
  EXPECT_FALSE(covers("layers.1", "layers.10.mlp.up_proj"));
  EXPECT_FALSE(covers("layers.1", "model.layers.1.mlp.up_proj"));
  EXPECT_FALSE(covers("head", "language_model.lm_head"));
  EXPECT_FALSE(covers("up", "layers.1.mlp.up_proj"));
}

TEST(Engines, ExpressionsBeyondTheJudgedKindAreNamed) {
  try {
    covers(Engine::vllm, "re:(a+)+$", "aaaa", "llama");
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "exclude entry 're:(a+)+$': visq cannot judge this expression");
  }
}

}  // namespace
}  // namespace visq

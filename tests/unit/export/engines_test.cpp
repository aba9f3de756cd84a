// The measured table of spec/export.md §7.6, case by case.
#include "visq/export/engines.h"

#include <gtest/gtest.h>

#include "tests/unit/error_of.h"

namespace visq {
namespace {

constexpr const char* kTowerQwen = "visual.blocks.0.attn.qkv";
constexpr const char* kTowerLlava = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj";

bool covers(const char* engine, const std::string& entry, const std::string& module, const char* type,
            const char* layout = "modelopt") {
  return ExcludeList(find_engine(engine), layout, {entry}, type).covers(module);
}

TEST(Engines, QwenTowerEntries) {
  EXPECT_TRUE(covers("vllm", "visual*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers("sglang", "visual*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers("vllm", "model.visual.*", kTowerQwen, "qwen2_5_vl"));
  EXPECT_TRUE(covers("sglang", "model.visual.*", kTowerQwen, "qwen2_5_vl"));
}

TEST(Engines, NewLlavaNamesAreLostOnSglang) {
  EXPECT_TRUE(covers("vllm", "model.vision_tower*", kTowerLlava, "llava"));
  EXPECT_FALSE(covers("sglang", "model.vision_tower*", kTowerLlava, "llava"));
  EXPECT_TRUE(covers("sglang", "vision_tower.vision_model*", kTowerLlava, "llava"));
}

TEST(Engines, BareLayerIsASubstringOfLayerTenOnVllm) {
  const char* ten = "model.layers.10.mlp.up_proj";
  EXPECT_TRUE(covers("vllm", "model.layers.1", ten, "llama"));
  EXPECT_TRUE(covers("vllm", "model.layers.1*", ten, "llama"));
  EXPECT_FALSE(covers("vllm", "model.layers.1.*", ten, "llama"));
  EXPECT_FALSE(covers("sglang", "model.layers.1", ten, "llama"));
  EXPECT_TRUE(covers("sglang", "model.layers.1*", ten, "llama"));
  EXPECT_TRUE(covers("tensorrt-llm", "model.layers.1*", ten, "llama"));
  EXPECT_FALSE(covers("tensorrt-llm", "model.layers.1.*", ten, "llama"));
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
  for (const char* engine : {"vllm", "sglang", "tensorrt-llm"}) {
    const auto excludes = [&](const char* module) {
      return ExcludeList(find_engine(engine), "modelopt", entries, "mllama").covers(module);
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
  EXPECT_TRUE(covers("vllm", "lm_head", "language_model.lm_head", "llava"));
  EXPECT_TRUE(covers("sglang", "lm_head", "language_model.lm_head", "llava"));
  EXPECT_FALSE(covers("sglang", "language_model.lm_head", "lm_head", "llava"));
  EXPECT_FALSE(covers("tensorrt-llm", "language_model.lm_head", "lm_head", "llava"));
}

TEST(Engines, TensorRtLlmMatchesAncestors) {
  EXPECT_TRUE(covers("tensorrt-llm", "vision_tower", kTowerLlava, "llava"));
}

TEST(Engines, ExpressionsMatchFromTheStart) {
  const auto covers_by_expression = [](const char* entry, const char* module) {
    return covers("vllm", entry, module, "llava", "compressed-tensors");
  };
  EXPECT_TRUE(covers_by_expression("re:.*vision_tower.*", kTowerLlava));
  EXPECT_FALSE(covers_by_expression("re:tower.*", kTowerLlava));
  const char* up = "model.layers.1.mlp.up_proj";
  EXPECT_FALSE(covers_by_expression("re:.*layers\\.1\\.mlp\\.up_proj$", up));  // fused with gate_proj
  EXPECT_TRUE(covers_by_expression("re:.*layers\\.1\\.mlp\\.(gate|up)_proj$", up));
  EXPECT_TRUE(covers_by_expression("re:.*layers\\.1\\.mlp\\.gate_up_proj$", up));
  EXPECT_FALSE(covers_by_expression("re:.*layers\\.1\\.mlp\\.up$", up));
}

// As they stand in the engines' mappers: what they fuse is known by the fused name alone, unless the model
// says.
TEST(Engines, SglangLooksUpShardsWhereTheModelNamesThem) {
  const std::vector<std::string> shards = {"re:.*layers\\.1\\.self_attn\\.[qkv]_proj$"};
  const char* module = "language_model.model.layers.1.self_attn.q_proj";
  const auto excludes = [&](const char* type) {
    return ExcludeList(find_engine("sglang"), "compressed-tensors", shards, type).covers(module);
  };
  EXPECT_FALSE(excludes("llava"));
  EXPECT_TRUE(excludes("gemma3"));
}

TEST(Engines, WholeNamesAreWholeOnVllmAndRunsOfComponentsOnSglang) {
  EXPECT_FALSE(covers("vllm", "visual", kTowerQwen, "qwen2_5_vl", "hf-fp8"));
  EXPECT_TRUE(covers("sglang", "visual", kTowerQwen, "qwen2_5_vl", "hf-fp8"));
}

TEST(Engines, ComponentsAreWholePartsOfANameOrItsFirstOnes) {
  const auto covers = [](const char* entry, const char* module) {
    return ExcludeList(find_engine("sglang"), "bitsandbytes", {entry}, "llama").covers(module);
  };
  EXPECT_TRUE(covers("lm_head", "language_model.lm_head"));
  EXPECT_TRUE(covers("vision_tower", "vision_tower.layers.0.mlp.fc1"));
  EXPECT_TRUE(covers("layers.1", "layers.1.mlp.up_proj"));
  EXPECT_FALSE(covers("layers.1", "layers.10.mlp.up_proj"));
  EXPECT_FALSE(covers("layers.1", "model.layers.1.mlp.up_proj"));
  EXPECT_FALSE(covers("head", "language_model.lm_head"));
  EXPECT_FALSE(covers("up", "layers.1.mlp.up_proj"));
}

TEST(Engines, VllmTakesAutoAwqAndGptqForWhatIsStored) {
  const auto agrees = [](const char* engine, const char* layout, std::vector<std::string> entries,
                         const char* module, bool quantized) {
    return ExcludeList(find_engine(engine), layout, std::move(entries), "qwen2_5_vl")
        .agrees(module, quantized);
  };
  for (const char* layout : {"autoawq", "gptq"}) {
    EXPECT_TRUE(agrees("vllm", layout, {}, kTowerQwen, false)) << layout;
    EXPECT_FALSE(agrees("sglang", layout, {}, kTowerQwen, false)) << layout;
    for (const char* engine : {"vllm", "sglang"}) {
      EXPECT_TRUE(agrees(engine, layout, {}, "lm_head", false)) << layout;
      EXPECT_FALSE(agrees(engine, layout, {}, "lm_head", true)) << layout;
    }
  }
  const char* up = "model.layers.0.mlp.up_proj";
  EXPECT_FALSE(agrees("vllm", "autoawq", {"visual"}, up, false));  // a list is believed
  EXPECT_TRUE(agrees("vllm", "gptq", {"-:.*visual.*"}, up, false));
  EXPECT_FALSE(agrees("vllm", "gptq", {"-:.*up_proj.*"}, up, true));
}

TEST(Engines, ExpressionsThatTakeTooLongAreNamed) {
  std::string name(40, 'a');
  name += "!";
  const auto error = [&](const std::string& entry) {
    return error_of([&] { covers("vllm", entry, name, "llama", "compressed-tensors"); });
  };
  EXPECT_EQ(error("re:(a+)+$"), "exclude entry 're:(a+)+$': takes too many steps to judge");
  EXPECT_EQ(error("re:("), "exclude entry 're:(': no regular expression (at character 2)");
  EXPECT_EQ(error("re:" + std::string(2000, 'a')),
            "exclude entry 're:" + std::string(40, 'a') +
                "…': an expression of more than 1000 characters is not judged");
}

TEST(EngineModels, NameTheirVersionsAndReadSomething) {
  EXPECT_EQ(engine_models().size(), 3u);
  for (const EngineModel& engine : engine_models()) {
    EXPECT_FALSE(engine.version.empty()) << engine.name;
    EXPECT_NE(engine.serve.find("{model}"), std::string::npos) << engine.name;
    for (const auto& [layout, read] : engine.layouts) EXPECT_FALSE(read.formats.empty()) << layout;
  }
  EXPECT_EQ(error_of([] { find_engine("llama.cpp"); }),
            "--for llama.cpp: choose of vllm, sglang, tensorrt-llm");
}

ServedModel served() {
  ServedModel model{"Qwen2_5_VLForConditionalGeneration",
                    "qwen2_5_vl",
                    "modelopt",
                    {"lm_head", "visual.*"},
                    "ignore",
                    {find_preset("nvfp4_max").scheme},
                    KvCacheFormat::none,
                    {}};
  model.linears = {{"model.layers.0.mlp.down_proj", model.schemes.front(), 64, 128},
                   {"visual.blocks.0.attn.qkv", std::nullopt},
                   {"lm_head", std::nullopt}};
  return model;
}

std::vector<std::string> findings(const char* engine, const ServedModel& model) {
  std::vector<std::string> lines;
  for (const EngineFinding& finding : judge(find_engine(engine), model))
    lines.push_back(finding.what + ": " + finding.fix);
  return lines;
}

TEST(Judge, FindsNothingInWhatLoads) {
  for (const EngineModel& engine : engine_models())
    EXPECT_TRUE(judge(engine, served()).empty()) << engine.name;
}

TEST(Judge, NamesWhatDoesNotLoad) {
  ServedModel model = served();
  model.exclude = {"lm_head", "visual.*", "model.layers.0.*"};
  EXPECT_EQ(findings("vllm", model),
            std::vector<std::string>{
                "'model.layers.0.mlp.down_proj' is quantized, but the entry 'model.layers.0.*' of ignore "
                "covers it: remove the entry, or store the weight in 16 bits"});
  model = served();
  model.exclude = {"lm_head"};
  EXPECT_EQ(findings("vllm", model),
            std::vector<std::string>{"'visual.blocks.0.attn.qkv' is not quantized, but ignore does not cover "
                                     "it: add 'visual.blocks.0.attn.qkv' to ignore"});
  model = served();
  model.linears.front().columns = 136;
  EXPECT_EQ(findings("sglang", model),
            std::vector<std::string>{"'model.layers.0.mlp.down_proj' has 136 columns, not a multiple of 16: "
                                     "leave it in 16 bits (--skip 'model.layers.0.mlp.down_proj')"});
  model = served();
  model.architecture = "Phi4MultimodalForCausalLM";
  EXPECT_EQ(findings("vllm", model),
            std::vector<std::string>{"0.33.0 has no class any more for Phi4MultimodalForCausalLM: serve it "
                                     "with vllm 0.12.0, or with another engine"});
  model = served();
  model.kv_cache = KvCacheFormat::fp8;
  EXPECT_EQ(findings("sglang", model).front(),
            "0.5.23 does not load scales of a KV cache: k_scale and v_scale are not renamed for this model "
            "class: write it with --kv-cache none");
  EXPECT_TRUE(findings("vllm", model).empty());
  model = served();
  model.layout = "hf-fp8";
  model.schemes = {find_preset("fp8_pb_wo").scheme};
  model.exclude = {"visual.blocks.0.attn.qkv", "visual.blocks.0.attn.qkv_proj", "lm_head",
                   "language_model.lm_head"};
  model.linears.front() = {"model.layers.0.self_attn.k_proj", model.schemes.front(), 64, 256};
  EXPECT_EQ(findings("vllm", model),
            std::vector<std::string>{"'model.layers.0.self_attn.k_proj' has 64 rows, not a multiple of 128: "
                                     "leave it in 16 bits (--skip 'model.layers.0.self_attn.k_proj')"});
  model.linears.front().module = "model.layers.0.self_attn.v_proj";  // the last of them may be ragged
  EXPECT_TRUE(findings("vllm", model).empty());
  model.model_type = "llava";
  model.architecture = "LlavaForConditionalGeneration";
  EXPECT_EQ(findings("sglang", model).front().rfind("0.5.23 does not load FP8 E4M3, blocks of 128", 0), 0u);
  model = served();
  model.schemes = {find_preset("int4_awq_lite").scheme};
  EXPECT_EQ(findings("vllm", model),
            std::vector<std::string>{
                "0.33.0 does not read weights INT4, blocks of 128 with inputs as is from "
                "the modelopt layout: write it with --layout autoawq, compressed-tensors, gptq"});
}

TEST(JudgeNames, StopsAtTheFirstThatIsUnknown) {
  const EngineModel& vllm = find_engine("vllm");
  EXPECT_FALSE(judge_names(vllm, "llava", {"vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"}));
  EXPECT_FALSE(judge_names(vllm, "internvl", {"vision_tower.encoder.layer.0.mlp.fc1.weight"}));
  const auto finding =
      judge_names(vllm, "llava", {"lm_head.weight", "model.vision_tower.encoder.layers.0.mlp.fc1.weight"});
  ASSERT_TRUE(finding);
  EXPECT_EQ(
      finding->what,
      "'model.vision_tower.encoder.layers.0.mlp.fc1.weight': 0.33.0 does not know names that begin with "
      "'model.vision_tower.encoder.' in this model");
}

TEST(EngineModels, CommandsHaveWhatAModelNeedsBesides) {
  const EngineModel& sglang = find_engine("sglang");
  EXPECT_EQ(sglang.serve_command("out", "gptq", "qwen3_vl_moe", 1, 1),
            "python -m sglang.launch_server --model-path out --quantization gptq_marlin");
  EXPECT_EQ(sglang.serve_command("out", "gptq", "qwen3_vl", 2, 1),
            "python -m sglang.launch_server --model-path out --tp-size 2 --pp-size 1");
}

}  // namespace
}  // namespace visq

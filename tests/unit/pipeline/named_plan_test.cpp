#include "visq/pipeline/named_plan.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/error_of.h"
#include "tests/unit/pipeline/tiny_checkpoint.h"
#include "visq/core/error.h"

namespace visq {
namespace {

TEST(DecoderLinearNames, AreThoseOfTheTextDecoders) {
  for (const char* name :
       {"model.layers.0.self_attn.q_proj", "language_model.model.layers.31.mlp.gate_up_proj",
        "model.language_model.layers.7.mlp.experts.12.down_proj", "llm.model.layers.3.self_attn.o_proj",
        "transformer.h.11.mlp.fc1", "transformer.blocks.4.attn.out_proj", "layers.0.q_proj",
        "model.decoder.layers.5.fc2", "thinker.model.layers.0.self_attn.qkv_proj",
        "model.layers.2.cross_attn.k_proj"})
    EXPECT_TRUE(is_decoder_linear(name)) << name;
}

TEST(DecoderLinearNames, AreNotThoseOfOtherParts) {
  for (const char* name :
       {"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj", "visual.blocks.3.mlp.up_proj",
        "model.visual.blocks.3.mlp.gate_proj", "model.vision_tower.transformer.layers.0.attention.q_proj",
        "model.VisionModel.layers.0.self_attn.q_proj", "audio_tower.layers.1.fc1",
        "model.embed_tokens_extend.audio_embed.encoder.blocks.0.self_attn.q_proj",
        "model.embed_tokens_extend.image_embed.layers.0.q_proj", "speech_model.layers.0.fc1",
        "model.connector.layers.0.q_proj", "model.resampler.layers.0.out_proj", "visual.merger.layers.0.fc1",
        "model.multi_modal_projector.layers.0.fc1", "model.encoder.layers.0.self_attn.q_proj",
        "model.decoder.layers.0.encoder_attn.q_proj", "model.layers.0.vision_expert.up_proj",
        "img_processor.layers.0.fc1"})
    EXPECT_FALSE(is_decoder_linear(name)) << name;
}

TEST(DecoderLinearNames, AreNotThoseOfOtherMatricesOfALayer) {
  for (const char* name :
       {"model.embed_tokens", "lm_head", "model.layers.0.mlp.gate", "model.layers.0.feed_forward.router",
        "model.layers.0.mlp.shared_expert_gate", "model.layers.0.self_attn.q_norm",
        "model.layers.0.self_attn.q_proj.lora_A.vision", "model.layers.0.self_attn.q_proj.lora_A.default",
        "model.layers.0.lora.q_proj", "model.layers.0.self_attn.q_proj.base_layer",
        "model.layers.0.self_attn.rotary_emb", "model.layers.0.mlp.fc3"})
    EXPECT_FALSE(is_decoder_linear(name)) << name;
}

TEST(DecoderLinearNames, NeedANumberedLayer) {
  for (const std::string& name : {std::string(),
                                  std::string("."),
                                  std::string("q_proj"),
                                  std::string("model.q_proj"),
                                  std::string("layers.q_proj"),
                                  std::string("layers.0"),
                                  std::string("layers..q_proj"),
                                  std::string("layers.x.q_proj"),
                                  std::string("layers.-1.q_proj"),
                                  std::string("layers.1e3.q_proj"),
                                  std::string("layers.12345678.q_proj"),
                                  std::string("xlayers.0.q_proj"),
                                  std::string("model.layers.0q_proj"),
                                  std::string("layers.0.q_proj."),
                                  std::string("layers.0.q_proj "),
                                  std::string("layers.0.Q_proj"),
                                  std::string("layers.\xD9\xA3.q_proj"),
                                  std::string("0.layers.q_proj"),
                                  std::string("layers.0.q_proj\0", 16),
                                  std::string("model.layers.q_proj.0"),
                                  std::string(1000, '.') + "q_proj",
                                  "layers." + std::string(100000, '1') + ".q_proj"})
    EXPECT_FALSE(is_decoder_linear(name)) << name.substr(0, 60);
  EXPECT_TRUE(is_decoder_linear(std::string(100000, '.') + "layers.1.q_proj"));
}

/// A checkpoint of these tensors, of an architecture that nobody knows.
class Grapefruit {
 public:
  explicit Grapefruit(const std::vector<std::pair<std::string, std::vector<int64_t>>>& shapes,
                      at::ScalarType dtype = at::kBFloat16) {
    test::Tensors tensors;
    for (const auto& [name, shape] : shapes) tensors.emplace_back(name, at::randn(shape).to(dtype));
    test::write_checkpoint(directory_.path(), {{"architectures", {"GrapefruitForCausalLM"}}}, tensors);
    checkpoint_.emplace(directory_.path());
  }
  std::vector<std::vector<std::string>> groups() const { return decoder_linears_by_name(*checkpoint_); }
  Plan plan(const char* preset, const std::vector<std::string>& skip = {},
            const std::vector<std::string>& engines = {}) const {
    return make_named_plan(*checkpoint_, recipe_of(find_preset(preset), KvCacheFormat::none, {}, skip),
                           {"auto", engines}, "out");
  }
  const Checkpoint& checkpoint() const { return *checkpoint_; }

 private:
  test::TemporaryDirectory directory_;
  std::optional<Checkpoint> checkpoint_;
};

using Groups = std::vector<std::vector<std::string>>;

std::vector<std::pair<std::string, std::vector<int64_t>>> layer(const std::string& at,
                                                                const std::vector<std::string>& linears) {
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes;
  for (const std::string& linear : linears)
    shapes.emplace_back(at + linear + ".weight", std::vector<int64_t>{128, 128});
  return shapes;
}

TEST(DecoderLinearsByName, ReadTheSameInputAsQKVAndAsGateAndUp) {
  const Grapefruit model(layer("layers.0.", {"attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.out_proj",
                                             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}));
  Groups groups = model.groups();
  std::ranges::sort(groups);
  EXPECT_EQ(groups, (Groups{{"layers.0.attn.out_proj"},
                            {"layers.0.attn.q_proj", "layers.0.attn.k_proj", "layers.0.attn.v_proj"},
                            {"layers.0.mlp.down_proj"},
                            {"layers.0.mlp.gate_proj", "layers.0.mlp.up_proj"}}));
}

TEST(DecoderLinearsByName, LeaveIncompleteGroupsOut) {
  const Grapefruit latent(
      layer("layers.0.", {"attn.q_proj", "attn.kv_b_proj", "mlp.gate_proj", "mlp.down_proj"}));
  EXPECT_EQ(latent.groups(), (Groups{{"layers.0.mlp.down_proj"}}));
  const Grapefruit plain(layer("layers.0.", {"mlp.up_proj"}));  // nothing gates it
  EXPECT_EQ(plain.groups(), (Groups{{"layers.0.mlp.up_proj"}}));
  auto shapes = layer("layers.0.", {"attn.q_proj", "attn.k_proj"});
  shapes.emplace_back("layers.0.attn.v_proj.weight", std::vector<int64_t>{2, 64, 128});
  shapes.emplace_back("layers.0.mlp.down_proj.weight", std::vector<int64_t>{128});
  EXPECT_EQ(Grapefruit(shapes).groups(), Groups{});
}

TEST(DecoderLinearsByName, TakeQueriesOfCrossAttentionForThemselves) {
  const Grapefruit model(layer("layers.0.cross_attn.", {"q_proj", "k_proj", "v_proj"}));
  Groups groups = model.groups();
  std::ranges::sort(groups);
  EXPECT_EQ(groups, (Groups{{"layers.0.cross_attn.k_proj", "layers.0.cross_attn.v_proj"},
                            {"layers.0.cross_attn.q_proj"}}));
}

TEST(DecoderLinearsByName, AreAllExpertsOfALayerOrNone) {
  const std::vector<std::string> linears = {"experts.0.gate_proj", "experts.0.up_proj",
                                            "experts.0.down_proj", "experts.1.gate_proj",
                                            "experts.1.up_proj",   "experts.1.down_proj"};
  EXPECT_EQ(Grapefruit(layer("layers.0.mlp.", linears)).groups().size(), 4u);
  for (const size_t odd : {4u, 5u}) {
    auto torn = layer("layers.0.mlp.", linears), both = layer("layers.1.mlp.", linears);
    torn[odd].second = {2, 2, 2};
    both.insert(both.end(), torn.begin(), torn.end());
    EXPECT_EQ(Grapefruit(both).groups().size(), 4u);
  }
}

TEST(DecoderLinearsByName, HoldValuesThatCanBeQuantized) {
  EXPECT_EQ(Grapefruit(layer("layers.0.", {"fc1"}), at::kDouble).groups(), Groups{});
  EXPECT_EQ(Grapefruit(layer("layers.0.", {"fc1"}), at::kLong).groups(), Groups{});
  EXPECT_EQ(Grapefruit(layer("layers.0.", {"fc1"}), at::kFloat).groups().size(), 1u);
}

std::vector<std::pair<std::string, std::vector<int64_t>>> grapefruit() {
  auto shapes =
      layer("model.layers.0.", {"attn.q_proj", "attn.k_proj", "attn.v_proj", "mlp.fc1", "mlp.gate"});
  for (const auto& more : {layer("model.layers.11.", {"mlp.fc1", "mlp.fc3"}),
                           layer("model.vision_tower.layers.0.", {"fc1"}), layer("", {"lm_head"})})
    shapes.insert(shapes.end(), more.begin(), more.end());
  shapes.emplace_back("model.embed_tokens.weight", std::vector<int64_t>{32, 128});
  shapes.emplace_back("model.norm.weight", std::vector<int64_t>{128});
  return shapes;
}

TEST(NamedPlan, ExcludesByRootsWhereTheyAreDistinct) {
  const Plan plan = Grapefruit(grapefruit()).plan("w4a16_nvfp4");
  EXPECT_EQ(plan.sites.size(), 5u);
  EXPECT_EQ(plan.layers, 2);
  std::vector<std::string> roots = plan.summary.unquantized_roots, linears = plan.summary.unquantized_linears;
  std::ranges::sort(roots);
  EXPECT_EQ(roots, (std::vector<std::string>{"fc3", "gate", "lm_head", "model.layers.0.mlp.gate",
                                             "model.layers.11.mlp.fc3", "model.lm_head", "model.vision_tower",
                                             "vision_tower"}));
  EXPECT_TRUE(linears.empty());
  EXPECT_EQ(plan.summary.other_linears.size(), 4u);
}

TEST(NamedPlan, ASkippedLayerIsNamedInFull) {
  const Plan plan = Grapefruit(grapefruit()).plan("w4a16_nvfp4", {"*layers.0.mlp.fc1"});
  EXPECT_EQ(plan.summary.unquantized_linears, (std::vector<std::string>{"model.layers.0.mlp.fc1"}));
  EXPECT_EQ(plan.left_out, (std::vector<std::string>{"model.layers.0.mlp.fc1"}));
}

// To vLLM an entry is a part of a name, so "….fc1" would cover "….fc10" were that a linear; here a router.
TEST(NamedPlan, ANameThatIsAPartOfAQuantizedOneKeepsThatEngineAway) {
  const Grapefruit model(layer("model.layers.0.mlp.", {"gate", "gate_proj", "up_proj"}));
  const Plan plan = model.plan("w4a16_nvfp4");
  EXPECT_EQ(plan.readers(), std::vector<std::string>{"sglang"});
  const auto& findings = plan.findings.at("vllm");
  EXPECT_TRUE(std::ranges::any_of(findings, [](const EngineFinding& finding) {
    return !finding.warning && finding.what.find(
                                   "'model.layers.0.mlp.gate_proj' is quantized, but the entry "
                                   "'model.layers.0.mlp.gate' of ignore covers it") == 0;
  }));
  EXPECT_EQ(error_of([&] { model.plan("w4a16_nvfp4", {}, {"vllm"}); }).rfind("--for vllm: w4a16_nvfp4", 0),
            0u);
  EXPECT_EQ(model.plan("fp8_pb_wo").readers(), (std::vector<std::string>{"vllm", "sglang", "tensorrt-llm"}));
}

TEST(NamedPlan, SplitGroupsAndEmptyChoicesAreRefused) {
  const Grapefruit model(grapefruit());
  EXPECT_THROW(model.plan("int8_wo", {"*k_proj"}), Error);
  EXPECT_THROW(model.plan("int8_wo", {"*"}), Error);
  EXPECT_EQ(model.plan("int8_wo", {"*attn*"}).sites.size(), 2u);
  EXPECT_THROW(Grapefruit(layer("", {"lm_head"})).plan("int8_wo"), Error);
  EXPECT_THROW(Grapefruit({{"layers.0.fc1.weight", {64, 100}}}).plan("w4a16"), Error);
}

TEST(NamedPlan, TheChoiceIsDescribedByPatterns) {
  const Grapefruit model(grapefruit());
  const std::string text = describe_choice(model.plan("int8_wo"), model.checkpoint());
  EXPECT_NE(text.find("model.layers.*.mlp.fc1 × 2"), std::string::npos) << text;
  EXPECT_NE(text.find("model.layers.*.attn.q_proj × 1"), std::string::npos) << text;
  EXPECT_NE(text.find("model.vision_tower × 1"), std::string::npos) << text;
  EXPECT_NE(text.find("lm_head × 1"), std::string::npos) << text;
}

TEST(NamedPlan, ChoosesWhatThePlanOfAKnownFamilyDoes) {
  for (const char* text_model : {"llama", "qwen3_moe"})
    for (const char* preset : {"fp8_pc_pt", "fp8_pb_wo", "int8_wo", "w4a16", "w4a16_nvfp4"}) {
      const TinyCheckpoint files(at::kBFloat16, text_model);
      const Checkpoint checkpoint(files.directory());
      const Model model(checkpoint, at::kCPU, at::kFloat);
      const Recipe recipe = recipe_of(find_preset(preset), KvCacheFormat::none);
      const Plan known = make_plan(model, recipe, "auto", "out");
      const Plan named = make_named_plan(checkpoint, recipe, "auto", "out");
      const auto described = [](const Plan& plan) {
        std::vector<std::string> tensors;
        for (const PlannedTensor& tensor : plan.tensors)
          tensors.push_back(visq::format("{} {} {}", tensor.name, static_cast<int>(tensor.dtype),
                                         fmt::join(tensor.shape, ",")));
        std::ranges::sort(tensors);
        return tensors;
      };
      EXPECT_EQ(described(named), described(known)) << text_model << " " << preset;
      EXPECT_EQ(named.layers, known.layers);
    }
}

}  // namespace
}  // namespace visq

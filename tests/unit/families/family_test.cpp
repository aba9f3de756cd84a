#include "visq/families/family.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"

namespace visq {
namespace {

using test::error_of;

TEST(DescribeModel, ListsWhatIsSupportedWhenTheArchitectureIsNot) {
  const std::string error = error_of({{"architectures", {"GPT2LMHeadModel"}}});
  EXPECT_NE(error.find("config.json: architecture 'GPT2LMHeadModel' is not supported"), std::string::npos);
  EXPECT_NE(error.find("LlavaForConditionalGeneration"), std::string::npos);
  EXPECT_NE(error.find("Qwen2_5_VLForConditionalGeneration"), std::string::npos);
  EXPECT_NE(error_of(Json::object()).find("'architectures' is missing"), std::string::npos);
}

TEST(Llava, ASparseHubConfigFallsBackToTheClassDefaults) {
  // llava-1.5-7b-hf: the text fields that are not here come from the Llama class.
  const ModelSpec spec = describe_model(parse_json(R"({
      "architectures": ["LlavaForConditionalGeneration"], "image_token_index": 32000, "projector_hidden_act": "gelu",
      "text_config": {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05,
                      "vocab_size": 32064},
      "vision_config": {"hidden_size": 1024, "image_size": 336, "intermediate_size": 4096,
                        "model_type": "clip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 24,
                        "patch_size": 14, "projection_dim": 768, "vocab_size": 32000},
      "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": 32064})",
                                                   "test"),
                                        "config.json");
  EXPECT_EQ(spec.family, "llava");
  const nn::DecoderSpec& text = spec.decoder;
  EXPECT_EQ(text.vocab, 32064);
  EXPECT_EQ(text.hidden, 4096);
  EXPECT_EQ(text.intermediate, 11008);
  EXPECT_EQ(text.layers, 32);
  EXPECT_EQ(text.heads, 32);
  EXPECT_EQ(text.kv_heads, 32);
  EXPECT_EQ(text.head_dim, 128);
  EXPECT_EQ(text.norm_eps, 1e-5);
  EXPECT_EQ(text.rope.theta, 1e4);
  EXPECT_FALSE(text.qkv_bias || text.o_bias || text.mlp_bias || text.tied_head);
  EXPECT_EQ(text.max_tokens, 0);
  EXPECT_EQ(spec.vision.norm_eps, 1e-5);
  EXPECT_EQ(spec.vision.activation, nn::Activation::quick_gelu);
  EXPECT_TRUE(spec.vision.class_token && spec.vision.pre_norm && spec.vision.drop_class_token);
  EXPECT_EQ(spec.vision.feature_layers, std::vector<int64_t>{-2});
  ASSERT_EQ(spec.projector.size(), 3u);
  EXPECT_TRUE(spec.projector[0].bias);
  EXPECT_EQ(spec.projector[1].function, nn::Activation::gelu);
  EXPECT_EQ(spec.image_token_id, 32000);
  EXPECT_EQ(spec.eos_ids, std::vector<int64_t>{2});
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_EQ(spec.prompt, PromptStyle::vicuna);
}

TEST(Llava, WithoutVisionConfigTheTowerIsClipLarge336) {
  Json config = test::llava_config();
  config.erase("vision_config");
  const nn::VisionSpec vision = describe_model(config, "c").vision;
  EXPECT_EQ(vision.width, 1024);
  EXPECT_EQ(vision.layers, 24);
  EXPECT_EQ(vision.image_size, 336);
  EXPECT_EQ(vision.patch, 14);
}

TEST(Llava, APartialVisionConfigFallsBackToTheBaseModelOfItsClass) {
  Json config = test::llava_config();
  config["vision_config"] = {{"model_type", "clip_vision_model"}};
  nn::VisionSpec vision = describe_model(config, "c").vision;
  EXPECT_EQ(vision.width, 768);
  EXPECT_EQ(vision.patch, 32);
  config["vision_config"] = {{"model_type", "siglip_vision_model"}};
  config["vision_feature_select_strategy"] = "full";
  config["vision_feature_layer"] = {-1, 3};
  vision = describe_model(config, "c").vision;
  EXPECT_EQ(vision.patch, 16);
  EXPECT_EQ(vision.norm_eps, 1e-6);
  EXPECT_EQ(vision.activation, nn::Activation::gelu_tanh);
  EXPECT_TRUE(vision.patch_bias);
  EXPECT_FALSE(vision.class_token || vision.pre_norm || vision.drop_class_token);
  EXPECT_EQ(vision.feature_layers, (std::vector<int64_t>{-1, 3}));
}

TEST(Llava, NamesTheTextModelOrTowerThatItDoesNotKnow) {
  Json config = test::llava_config();
  config["text_config"]["model_type"] = "opt";
  EXPECT_NE(error_of(config).find("text model 'opt' is not supported"), std::string::npos);
  config = test::llava_config();
  config["vision_config"]["model_type"] = "dinov2";
  EXPECT_NE(error_of(config).find("vision tower 'dinov2' is not supported"), std::string::npos);
  config = test::llava_config();
  config["vision_feature_layer"] = 4;
  EXPECT_NE(error_of(config).find("'vision_feature_layer' 4 does not exist"), std::string::npos);
}

TEST(Llava, TiesTheHeadWhenEitherConfigSaysSo) {
  Json config = test::llava_config();
  EXPECT_FALSE(describe_model(config, "c").decoder.tied_head);
  config["text_config"]["tie_word_embeddings"] = true;
  EXPECT_TRUE(describe_model(config, "c").decoder.tied_head);
}

TEST(Llava, TakesAQwen2TextModelAsChatml) {
  Json config = test::llava_config();
  config["text_config"]["model_type"] = "qwen2";
  config["text_config"]["eos_token_id"] = {5, 6};
  const ModelSpec spec = describe_model(config, "c");
  EXPECT_EQ(spec.prompt, PromptStyle::chatml_images_first);
  EXPECT_TRUE(spec.decoder.qkv_bias);
  EXPECT_FALSE(spec.decoder.o_bias);
  EXPECT_EQ(spec.eos_ids, (std::vector<int64_t>{5, 6}));
}

TEST(Qwen25Vl, ReadsFlatAndNestedConfigsAlike) {
  const Json flat = test::qwen_config();
  Json nested = flat;
  nested["text_config"] = Json::object();
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "num_key_value_heads"}) {
    nested["text_config"][key] = flat.at(key);
    nested.erase(key);
  }
  nested["text_config"]["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1e6}, {"mrope_section", {1, 1, 2}}};
  nested.erase("rope_scaling");
  for (const Json* const config : std::initializer_list<const Json*>{&flat, &nested}) {
    const ModelSpec spec = describe_model(*config, "c");
    EXPECT_EQ(spec.decoder.hidden, 16);
    EXPECT_EQ(spec.decoder.kv_heads, 1);
    EXPECT_EQ(spec.decoder.norm_eps, 1e-5);
    EXPECT_EQ(spec.decoder.rope.theta, 1e6);
    EXPECT_EQ(spec.decoder.rope.mrope_section, (std::vector<int64_t>{1, 1, 2}));
    EXPECT_TRUE(spec.decoder.tied_head && spec.decoder.qkv_bias && spec.mrope);
    EXPECT_EQ(spec.vision.window, 8);
    EXPECT_EQ(spec.vision.full_blocks, std::vector<int64_t>{1});
    EXPECT_EQ(nn::projected_grid(spec.projector, {4, 6}), (nn::Grid{2, 3}));
    EXPECT_EQ(spec.eos_ids, std::vector<int64_t>{151645});
  }
}

TEST(Qwen25Vl, RefusesSectionsThatDoNotFillAHead) {
  Json config = test::qwen_config();
  config["rope_scaling"]["mrope_section"] = {16, 24, 24};
  EXPECT_NE(error_of(config).find("'mrope_section' must add up to half of the head dimension 8"),
            std::string::npos);
  config = test::qwen_config();
  config["vision_config"]["out_hidden_size"] = 32;
  EXPECT_NE(error_of(config).find("'out_hidden_size' is 32, but the text model's 'hidden_size' is 16"),
            std::string::npos);
}

Json sparse(const std::string& architecture, const std::string& text_type) {
  return {{"architectures", {architecture}}, {"text_config", {{"model_type", text_type}}}};
}

TEST(LlavaNext, PutsItsTilesTogetherWithALearnedRowBehindEachLine) {
  const ModelSpec spec = describe_model(sparse("LlavaNextForConditionalGeneration", "mistral"), "c");
  EXPECT_EQ(spec.family, "llava_next");
  EXPECT_EQ(spec.vision.image_size, 336);
  EXPECT_EQ(spec.vision.width, 1024);
  EXPECT_EQ(spec.vision.feature_layers, std::vector<int64_t>{-2});
  EXPECT_EQ(spec.layout.kind, ImageLayout::Kind::anyres);
  EXPECT_EQ(spec.layout.row_end, "model.image_newline");
  EXPECT_EQ(spec.layout.max_tiles, 0);
}

TEST(LlavaNext, RefusesRowsThatAreNotTheGridOfPatches) {
  Json config = sparse("LlavaNextForConditionalGeneration", "llama");
  config["vision_feature_select_strategy"] = "full";
  EXPECT_NE(error_of(config).find("'vision_feature_select_strategy'"), std::string::npos);
}

TEST(LlavaOneVision, HasTheTowerOfItsClass) {
  Json config = sparse("LlavaOnevisionForConditionalGeneration", "qwen2");
  const ModelSpec spec = describe_model(config, "c");
  EXPECT_EQ(spec.vision.layers, 26);
  EXPECT_EQ(spec.vision.width, 1152);
  EXPECT_FALSE(spec.vision.class_token || spec.vision.drop_class_token);
  EXPECT_EQ(spec.layout.max_tiles, 9);
  EXPECT_EQ(spec.image_token_id, 151646);
  config["vision_aspect_ratio"] = "anyres_max_4";
  EXPECT_EQ(describe_model(config, "c").layout.max_tiles, 4);
  config["vision_aspect_ratio"] = "pad";
  EXPECT_NE(error_of(config).find("'vision_aspect_ratio' is 'pad'"), std::string::npos);
}

TEST(InternVl, ReadsTheSwitchesOfItsTower) {
  Json config = sparse("InternVLForConditionalGeneration", "qwen2");
  config["vision_config"] = {{"image_size", {448, 448}}, {"patch_size", {14, 14}}, {"attention_bias", true}};
  ModelSpec spec = describe_model(config, "c");
  EXPECT_TRUE(spec.vision.class_token && spec.vision.layer_scale && spec.vision.qkv_bias);
  EXPECT_FALSE(spec.vision.qk_norm || spec.vision.rms_norm || spec.vision.post_norm);
  EXPECT_TRUE(spec.vision.feature_layers.empty());
  EXPECT_TRUE(spec.decoder.tied_head);
  EXPECT_EQ(nn::projected_grid(spec.projector, {32, 32}), (nn::Grid{16, 16}));
  config["vision_config"] = {{"norm_type", "rms_norm"}, {"use_qk_norm", true}, {"use_mean_pooling", false}};
  spec = describe_model(config, "c");
  EXPECT_TRUE(spec.vision.qk_norm && spec.vision.rms_norm && spec.vision.post_norm);
  EXPECT_FALSE(spec.vision.qkv_bias);
  config["vision_feature_layer"] = -2;
  EXPECT_FALSE(describe_model(config, "c").vision.post_norm);
}

TEST(Mistral3, HasTheDefaultsOfItsClass) {
  const Json config = {{"architectures", {"Mistral3ForConditionalGeneration"}}};
  const ModelSpec spec = describe_model(config, "c");
  EXPECT_EQ(spec.decoder.hidden, 5120);
  EXPECT_EQ(spec.decoder.head_dim, 128);
  EXPECT_EQ(spec.decoder.max_tokens, 0);
  EXPECT_EQ(spec.vision.patch, 14);
  EXPECT_FALSE(spec.vision.qkv_bias || spec.vision.out_bias || spec.vision.mlp_bias);
  EXPECT_EQ(spec.layout.kind, ImageLayout::Kind::row_breaks);
  EXPECT_EQ(spec.image_token_id, 10);
  ASSERT_EQ(spec.projector.size(), 6u);
  EXPECT_EQ(spec.projector[0].eps, 1e-5);
  EXPECT_EQ(spec.projector[1].channels, nn::ProjectorOp::Channels::channels_first);
  EXPECT_FALSE(spec.projector[3].bias);
}

TEST(Llava, TakesThePixtralTowerOnlyWithAllItsRows) {
  Json config = sparse("LlavaForConditionalGeneration", "mistral");
  config["vision_config"] = {{"model_type", "pixtral"}};
  EXPECT_NE(error_of(config).find("must be full"), std::string::npos);
  config["vision_feature_select_strategy"] = "full";
  const ModelSpec spec = describe_model(config, "c");
  EXPECT_EQ(spec.vision.patch, 16);
  EXPECT_EQ(spec.vision.rope, nn::VisionRope::alternating);
  EXPECT_EQ(spec.image_token, "[IMG]");
}

TEST(Mllama, HasTheDefaultsOfItsClass) {
  const ModelSpec spec = describe_model({{"architectures", {"MllamaForConditionalGeneration"}}}, "c");
  EXPECT_EQ(spec.decoder.layers, 40);
  EXPECT_EQ(spec.decoder.kv_heads, 8);
  EXPECT_EQ(spec.decoder.rope.theta, 5e5);
  EXPECT_EQ(spec.decoder.extra_embeddings, 8);
  for (int64_t layer = 0; layer < 40; ++layer) EXPECT_EQ(spec.decoder.is_cross(layer), layer % 5 == 3);
  EXPECT_EQ(spec.vision.width, 1280);
  EXPECT_EQ(spec.vision.heads, 16);
  EXPECT_EQ(spec.vision.image_size, 448);
  EXPECT_EQ(spec.vision.activation, nn::Activation::gelu);
  EXPECT_EQ(spec.vision.global_layers, 8);
  EXPECT_EQ(spec.vision.joined_tiles, 4);
  EXPECT_EQ(spec.vision.tilings.size(), 8u);
  EXPECT_EQ(spec.vision.tapped_blocks, (std::vector<int64_t>{3, 7, 15, 23, 30}));
  EXPECT_FALSE(spec.vision.patch_bias || spec.vision.qkv_bias || spec.vision.out_bias);
  EXPECT_EQ(spec.image_token_id, 128256);
  EXPECT_EQ(spec.layout.kind, ImageLayout::Kind::cross);
  EXPECT_EQ(spec.eos_ids, std::vector<int64_t>{128001});
}

TEST(Mllama, ReadsWhichLayersAreCrossLayersAndIgnoresThoseBeyondTheLast) {
  Json config = test::mllama_config();
  config["text_config"]["cross_attention_layers"] = {0, 7};
  EXPECT_EQ(describe_model(config, "c").decoder.cross, (std::vector<bool>{true, false}));
  config["text_config"]["cross_attention_layers"] = Json::array();
  EXPECT_EQ(describe_model(config, "c").decoder.cross, (std::vector<bool>{false, false}));
  config["text_config"]["cross_attention_layers"] = {-1};
  EXPECT_NE(error_of(config).find("'cross_attention_layers' holds -1"), std::string::npos);
}

TEST(Mllama, RefusesATowerThatDoesNotFit) {
  const auto error_with = [](const char* key, const Json& value) {
    Json config = test::mllama_config();
    config["vision_config"][key] = value;
    return error_of(config);
  };
  EXPECT_EQ(error_with("max_num_tiles", 4), "");
  EXPECT_NE(
      error_with("vision_output_dim", 16).find("'vision_output_dim' is 16, but the tower's features have 24"),
      std::string::npos);
  EXPECT_NE(error_with("intermediate_layers_indices", {0, 3}).find("'intermediate_layers_indices'"),
            std::string::npos);
  EXPECT_NE(error_with("intermediate_layers_indices", {2, 0}).find("'intermediate_layers_indices'"),
            std::string::npos);
  EXPECT_NE(error_with("supported_aspect_ratios", Json::parse("[[1, 5]]")).find("'supported_aspect_ratios'"),
            std::string::npos);
  EXPECT_NE(error_with("norm_eps", 1e-6).find("'norm_eps'"), std::string::npos);
}

TEST(Qwen2Vl, ReadsTheTowersOwnWidth) {
  Json config = test::qwen_config();
  config["architectures"] = {"Qwen2VLForConditionalGeneration"};
  config["vision_config"] = {{"depth", 2},     {"embed_dim", 16}, {"hidden_size", 16},
                             {"num_heads", 2}, {"mlp_ratio", 4},  {"patch_size", 2}};
  const ModelSpec spec = describe_model(config, "c");
  EXPECT_EQ(spec.vision.width, 16);
  EXPECT_EQ(spec.vision.mlp_width, 64);
  EXPECT_EQ(spec.vision.window, 0);
  EXPECT_EQ(spec.vision.activation, nn::Activation::quick_gelu);
  EXPECT_EQ(spec.projector[0].kind, nn::ProjectorOp::Kind::layer_norm);
  config["vision_config"]["hidden_size"] = 32;
  EXPECT_NE(error_of(config).find("'hidden_size' is 32, but the text model's"), std::string::npos);
}

}  // namespace
}  // namespace visq

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"
#include "visq/families/names.h"

namespace visq {
namespace {

using Order = nn::ProjectorOp::Order;

/// The root's configuration with those of the folders in it, as Checkpoint hands it over.
Json vila(const Json& root = Json::object()) {
  Json config = parse_json(R"({
    "architectures": ["LlavaLlamaModel"], "model_type": "llava_llama", "mm_vision_select_feature": "cls_patch",
    "llm_cfg": {"model_type": "llama", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24,
                "num_hidden_layers": 2, "num_attention_heads": 4},
    "vision_tower_cfg": {"model_type": "siglip_vision_model", "hidden_size": 12, "intermediate_size": 24,
                         "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 6, "patch_size": 3},
    "mm_projector_cfg": {"mm_projector_type": "mlp_downsample"}})",
                           "vila");
  config.update(root);
  return config;
}

Json nvila(Json root = Json::object()) {
  root["fps"] = 0.0;
  root["llm_cfg"] = {{"model_type", "qwen2"},   {"vocab_size", 32},       {"hidden_size", 16},
                     {"intermediate_size", 24}, {"num_hidden_layers", 2}, {"num_attention_heads", 4},
                     {"num_key_value_heads", 2}};
  return vila(root);
}

using test::describe;
using test::expect_error;

TEST(Vila, ReadsWhatIsInTheFolders) {
  const ModelSpec spec = describe(vila());
  EXPECT_EQ(spec.family, "vila");
  EXPECT_EQ(spec.decoder.hidden, 16);
  EXPECT_EQ(spec.vision.width, 12);
  EXPECT_EQ(spec.vision.feature_layers, std::vector<int64_t>{-2});
  EXPECT_FALSE(spec.vision.drop_class_token);
  EXPECT_TRUE(spec.layout.end_text.empty());
  EXPECT_EQ(spec.prompt, PromptStyle::vicuna_v1);
  EXPECT_EQ(spec.eos_ids, std::vector<int64_t>{2});
  EXPECT_EQ(spec.bos_id, 1);
  EXPECT_EQ(NameMap::canonical(spec, "llm.lm_head.weight"), "lm_head.weight");
  EXPECT_EQ(NameMap::canonical(spec, "vision_tower.vision_model.encoder.x"), "vision_tower.encoder.x");
  Json repacked = vila();
  repacked["architectures"] = {"VILAForCausalLM"};
  EXPECT_EQ(describe(repacked).family, "vila");
}

TEST(Vila, OnlyVila15GoesThroughTheGridByColumns) {
  const auto order = [](const Json& root) { return describe(vila(root)).projector.front().order; };
  EXPECT_EQ(order({{"transformers_version", "4.36.2"}}), Order::columns);
  EXPECT_EQ(order(Json::object()), Order::columns);
  EXPECT_EQ(order({{"transformers_version", "4.46.0"}}), Order::rows);
  EXPECT_EQ(order({{"transformers_version", "5.0"}}), Order::rows);
  for (const char* key : {"dynamic_s2", "fps", "num_time_tokens"})
    EXPECT_EQ(order({{"transformers_version", "4.36.2"}, {key, nullptr}}), Order::rows) << key;
  EXPECT_EQ(order({{"mm_projector_token_order", "rows"}}), Order::rows);
  EXPECT_EQ(order({{"fps", 0.0}, {"mm_projector_token_order", "columns"}}), Order::columns);
  expect_error(vila({{"mm_projector_token_order", "both"}}), "choose rows or columns");
  const Json fixed = {{"mm_projector_cfg", {{"mm_projector_type", "mlp_downsample_2x2_fix"}}}};
  EXPECT_EQ(order(fixed), Order::rows);
}

std::vector<std::string> names_of(const std::string& type) {
  std::vector<std::string> names;
  for (const nn::ProjectorOp& op :
       describe(vila({{"mm_projector_cfg", {{"mm_projector_type", type}}}})).projector)
    if (!op.name.empty()) names.push_back(op.name.substr(op.name.rfind('.') + 1));
  return names;
}

TEST(Vila, KnowsTheProjectorsByTheirTensors) {
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of("linear"), Names{"layers"});
  EXPECT_EQ(names_of("mlp1x_gelu"), Names{"0"});
  EXPECT_EQ(names_of("mlp3x_gelu"), (Names{"0", "2", "4"}));
  EXPECT_EQ(names_of("mlp_downsample"), (Names{"1", "2", "4"}));
  EXPECT_EQ(names_of("mlp_downsample_3x3_fix"), (Names{"1", "2", "4", "5", "7"}));
  EXPECT_EQ(names_of("mlp_downsample_3x3_s2"), (Names{"1", "2", "4", "5", "7", "8", "10", "11", "13"}));
  EXPECT_EQ(names_of("mlp_downsample_3x3_s2_new"),
            (Names{"1", "2", "4", "5", "7", "8", "10", "11", "13", "14", "16"}));
  EXPECT_TRUE(names_of("identity").empty());
  for (const char* type : {"mlp0x_gelu", "mlp17x_gelu", "mlp99999999999999999999x_gelu", "mlpx_gelu",
                           "mlp2x_gelu_", "resampler"})
    expect_error(vila({{"mm_projector_cfg", {{"mm_projector_type", type}}}}), "'mm_projector_type' is");
  expect_error(vila({{"mm_projector_cfg", Json::object()}}),
               "mm_projector/config.json: 'mm_projector_type' is missing");
}

TEST(Nvila, EndsImagesWithTheTextOfItsEncoder) {
  EXPECT_EQ(describe(nvila()).layout.end_text, "\n");
  EXPECT_EQ(describe(nvila()).prompt, PromptStyle::nvila);
  const auto end = [](const Json& encoder) {
    return describe(nvila({{"image_encoder", encoder}})).layout.end_text;
  };
  EXPECT_EQ(end(R"({"_target_": "llava.model.encoders.BasicImageEncoder"})"), "\n");
  EXPECT_EQ(end({{"_target_", "llava.model.encoders.BasicImageEncoder"}, {"end_tokens", "."}}), ".");
  EXPECT_EQ(end({{"end_tokens", nullptr}}), "");
  expect_error(nvila({{"image_encoder", R"({"_target_": "TSPImageEncoder"})"}}), "only a BasicImageEncoder");
  expect_error(nvila({{"image_encoder", {{"start_tokens", "a"}}}}), "only a BasicImageEncoder");
  expect_error(nvila({{"image_encoder", "{"}}), "image_encoder: not valid JSON");
}

Json s2(Json root) {
  const Json base = {
      {"dynamic_s2", true}, {"image_aspect_ratio", "dynamic_s2"}, {"s2_scales", "896,448,1344"}};
  for (const auto& [key, value] : base.items())
    if (!root.contains(key)) root[key] = value;
  return nvila(root);
}

TEST(Nvila, StacksTheScalesOfDynamicS2) {
  ImageLayout layout = describe(s2({{"s2_resize_output_to_scale_idx", -1}})).layout;
  EXPECT_EQ(layout.kind, ImageLayout::Kind::scales);
  EXPECT_EQ(layout.scales, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(layout.reference_scale, 2);  // the last, which has rows × columns
  EXPECT_EQ(describe(s2({{"s2_resize_output_to_scale_idx", -2}})).layout.reference_scale, 1);
  EXPECT_EQ(describe(s2(Json::object())).layout.reference_scale, 0);
  for (const int index : {3, -4})
    expect_error(s2({{"s2_resize_output_to_scale_idx", index}}), "but there are 3 scales");
  expect_error(s2({{"s2_scales", "448,x"}}), "'s2_scales' is '448,x'");
  expect_error(s2({{"dynamic_s2", false}}), "'image_aspect_ratio' is 'dynamic_s2'");
  expect_error(s2({{"image_aspect_ratio", "dynamic"}}), "does not go with 'dynamic_s2' true");
}

Json fixed_s2(const Json& more = Json::object()) {
  Json root = {{"s2", true}, {"s2_scales", "896,448,1344"}, {"s2_max_split_size", 448}};
  root.update(more);
  return vila(root);
}

TEST(Vila, StacksTheScalesOfS2OnOneMap) {
  const ImageLayout layout = describe(fixed_s2()).layout;
  EXPECT_EQ(layout.kind, ImageLayout::Kind::scales);
  EXPECT_TRUE(layout.joined_map);
  EXPECT_EQ(layout.scales, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(layout.reference_scale, 0);
  EXPECT_FALSE(describe(s2(Json::object())).layout.joined_map);
  EXPECT_EQ(describe(fixed_s2({{"s2_scales", "896,1344"}, {"s2_max_split_size", 448}})).layout.scales,
            std::vector<int64_t>{2});
  EXPECT_TRUE(
      describe(fixed_s2({{"s2_scales", "448"}, {"s2_max_split_size", nullptr}})).layout.scales.empty());
  expect_error(fixed_s2({{"s2_max_split_size", 336}}), "scale 448 of 's2_scales' is no multiple of 336");
  expect_error(fixed_s2({{"s2_max_split_size", 1}}), "tiles of 1 pixels");
  expect_error(fixed_s2({{"s2_scales", nullptr}}), "'s2_scales' is missing");
  expect_error(fixed_s2({{"dynamic_s2", true}}), "'s2' and 'dynamic_s2' are both true");
  expect_error(fixed_s2({{"image_aspect_ratio", "dynamic"}}), "does not go with 's2' true");
}

TEST(Vila, ReadsInternVitByItsAuthorsKeys) {
  const Json tower = {{"model_type", "intern_vit_6b"}, {"hidden_size", 12},        {"intermediate_size", 24},
                      {"num_hidden_layers", 3},        {"num_attention_heads", 2}, {"image_size", 448}};
  const auto intern = [&](const Json& more, const Json& root = Json::object()) {
    Json vision = tower;
    vision.update(more);
    Json config = vila({{"vision_tower_cfg", vision}, {"mm_vision_select_feature", "patch"}});
    config.update(root);
    return config;
  };
  const ModelSpec spec = describe(intern(Json::object()));
  EXPECT_TRUE(spec.vision.rms_norm && spec.vision.fused_qkv && spec.vision.qk_norm &&
              spec.vision.layer_scale);
  EXPECT_TRUE(spec.vision.class_token && spec.vision.drop_class_token);
  EXPECT_FALSE(spec.vision.qkv_bias);
  EXPECT_EQ(spec.vision.patch, 14);
  EXPECT_EQ(spec.tower_names.qkv, "attn.qkv");
  EXPECT_TRUE(describe(intern({{"qkv_bias", true}})).vision.qkv_bias);
  EXPECT_FALSE(describe(intern({{"qk_normalization", false}})).vision.qk_norm);
  EXPECT_EQ(describe(intern({{"layer_norm_eps", 1e-5}})).vision.qk_norm_eps, 1e-5);
  expect_error(intern({{"norm_type", "layer_norm"}}), "'norm_type' is 'layer_norm' (rms_norm is supported)");
  expect_error(intern(Json::object(), {{"mm_vision_select_feature", "cls_patch"}}),
               "does not leave one row a patch");
  expect_error(intern(Json::object(), {{"image_aspect_ratio", "pad"}}), "has no colour");
}

TEST(Vila, OnlyNvilaReadsTheTokenizersTemplate) {
  EXPECT_TRUE(describe(vila()).own_prompt);
  EXPECT_FALSE(describe(nvila()).own_prompt);
}

TEST(Nvila, DynamicTilesAreEachALine) {
  EXPECT_EQ(describe(nvila({{"image_aspect_ratio", "dynamic"}})).layout.tile_end, "\n");
  EXPECT_EQ(describe(nvila({{"image_aspect_ratio", "resize"}})).layout.tile_end, "");
}

TEST(Vila, RefusesWhatItCannotRun) {
  expect_error(vila({{"ps3", true}}), "'ps3' is true");
  expect_error(vila({{"chat_template", "mistral"}}), "'chat_template' is 'mistral' (qwen2 is supported)");
  expect_error(vila({{"llm_cfg", "/train/llm"}}), "'llm_cfg' is missing");
  expect_error(vila({{"llm_cfg", {{"model_type", "mistral"}}}}),
               "llm/config.json: text model 'mistral' is not supported");
  expect_error(vila({{"vision_tower_cfg", {{"model_type", "radio"}}}}),
               "vision_tower/config.json: vision tower 'radio' is not supported");
  expect_error(vila({{"mm_vision_select_layer", 4}}), "'mm_vision_select_layer' 4 does not exist");
  expect_error(vila({{"mm_vision_select_feature", "cls"}}), "'mm_vision_select_feature' is 'cls'");
  expect_error(vila({{"mm_vision_select_feature", "patch"}}), "does not leave one row a patch");
}

}  // namespace
}  // namespace visq

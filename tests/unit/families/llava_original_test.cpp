#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"
#include "visq/families/names.h"

namespace visq {
namespace {

Json original(const Json& changes = Json::object(),
              const std::string& architecture = "LlavaLlamaForCausalLM") {
  Json config = parse_json(R"({
    "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_projector_type": "mlp2x_gelu",
    "image_aspect_ratio": "pad", "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2})",
                           "original");
  config["architectures"] = {architecture};
  config.update(changes);
  return config;
}

ModelSpec describe(const Json& config) { return describe_model(config, "config.json"); }

void expect_error(const Json& config, const std::string& part) {
  try {
    describe(config);
    ADD_FAILURE() << part;
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(LlavaOriginal, KnowsTheTowersByTheirRepositories) {
  nn::VisionSpec vision = describe(original()).vision;
  EXPECT_EQ(vision.width, 1024);
  EXPECT_EQ(vision.image_size, 336);
  EXPECT_EQ(vision.feature_layers, std::vector<int64_t>{-2});
  EXPECT_TRUE(vision.class_token && vision.drop_class_token);
  vision = describe(original({{"mm_vision_tower", "/data/clip-vit-large-patch14"}})).vision;
  EXPECT_EQ(vision.image_size, 224);
  vision = describe(original({{"mm_vision_tower", "google/siglip-so400m-patch14-384"}})).vision;
  EXPECT_EQ(vision.layers, 26);
  EXPECT_EQ(vision.feature_layers, std::vector<int64_t>{-1});
  EXPECT_FALSE(vision.class_token || vision.drop_class_token);
  expect_error(original({{"mm_vision_tower", "somebody/tower"}}),
               "add the tower's own config.json as 'vision_config'");
  expect_error(original({{"vision_config", {{"model_type", "dinov2"}}}}),
               "vision tower 'dinov2' is not supported");
}

TEST(LlavaOriginal, TakesTheTextModelFromTheArchitecture) {
  EXPECT_EQ(describe(original()).prompt, PromptStyle::llava_v1);
  const ModelSpec mistral = describe(original({{"sliding_window", nullptr}}, "LlavaMistralForCausalLM"));
  EXPECT_EQ(mistral.prompt, PromptStyle::mistral);
  const ModelSpec qwen = describe(original(Json::object(), "LlavaQwenForCausalLM"));
  EXPECT_EQ(qwen.prompt, PromptStyle::qwen_1_5);
  EXPECT_TRUE(qwen.decoder.qkv_bias);
}

TEST(LlavaOriginal, NamesAreThoseOfTheAuthors) {
  ModelSpec spec = describe(original());
  EXPECT_EQ(NameMap::canonical(spec, "model.vision_tower.vision_tower.vision_model.pre_layrnorm.weight"),
            "model.vision_tower.pre_layrnorm.weight");
  EXPECT_EQ(spec.projector_prefix + spec.projector.back().name, "model.mm_projector.2");
  spec = describe(original({{"mm_projector_type", "linear"}}));
  EXPECT_EQ(NameMap::canonical(spec, "model.mm_projector.weight"),
            spec.projector_prefix + spec.projector.front().name + ".weight");
  expect_error(original({{"mm_projector_type", "spatial_pool"}}), "'mm_projector_type' is 'spatial_pool'");
}

TEST(LlavaOriginal, SaysHowImagesAreProcessed) {
  ModelSpec spec = describe(original());
  EXPECT_EQ(spec.image_processor,
            Json::parse(R"({"image_processor_type": "LlavaImageProcessor", "resample": 3,
      "do_center_crop": true, "size": {"shortest_edge": 336}, "crop_size": 336, "do_pad": true})"));
  EXPECT_EQ(spec.layout.kind, ImageLayout::Kind::flat);
  const Json anyres = {{"image_aspect_ratio", "anyres"},
                       {"mm_patch_merge_type", "spatial_unpad"},
                       {"image_grid_pinpoints", "[[336, 672], [1008, 336]]"}};
  spec = describe(original(anyres));
  EXPECT_EQ(spec.image_processor.at("image_processor_type"), "LlavaNextImageProcessor");
  EXPECT_EQ(spec.image_processor.at("image_grid_pinpoints"), Json::parse("[[672, 336], [336, 1008]]"));
  EXPECT_EQ(spec.layout.kind, ImageLayout::Kind::anyres);
  EXPECT_EQ(spec.layout.row_end, "model.image_newline");
  EXPECT_EQ(spec.layout.max_tiles, 0);
  Json limited = anyres;
  limited["image_aspect_ratio"] = "anyres_max_9";
  limited["mm_vision_tower"] = "siglip-so400m-patch14-384";
  spec = describe(original(limited));
  EXPECT_EQ(spec.layout.max_tiles, 9);
  EXPECT_EQ(spec.image_processor.at("image_processor_type"), "LlavaOnevisionImageProcessor");
  EXPECT_EQ(spec.image_processor.at("image_mean"), Json::parse("[0.5, 0.5, 0.5]"));
  Json flat = anyres;
  flat["mm_patch_merge_type"] = "flat";
  EXPECT_EQ(describe(original(flat)).layout.kind, ImageLayout::Kind::flat);

  flat["mm_patch_merge_type"] = "spatial";
  expect_error(original(flat), "'mm_patch_merge_type' is 'spatial'");
  limited["image_aspect_ratio"] = "anyres_max_x";
  expect_error(original(limited), "'image_aspect_ratio' is 'anyres_max_x'");
  for (const Json& pinpoints : {Json("(1x1),...,(6x6)"), Json("[[1]]"), Json("{}"), Json(3)}) {
    Json bad = anyres;
    bad["image_grid_pinpoints"] = pinpoints;
    expect_error(original(bad), "image_grid_pinpoints");
  }
  expect_error(original({{"image_aspect_ratio", "highres"}}), "'image_aspect_ratio' is 'highres'");
  expect_error(original({{"mm_use_im_start_end", true}}), "'mm_use_im_start_end' is not supported");
  expect_error(original({{"mm_resampler_type", "qformer"}}), "'mm_resampler_type' qformer is not supported");
  expect_error(original({{"mm_vision_select_feature", "cls"}}), "'mm_vision_select_feature' is 'cls'");
}

TEST(LlavaOriginal, NamesTheWayOutWhenTheTowerIsNotInTheFiles) {
  const Json config = original({{"vision_config",
                                 {{"model_type", "clip_vision_model"},
                                  {"hidden_size", 8},
                                  {"intermediate_size", 12},
                                  {"num_hidden_layers", 3},
                                  {"num_attention_heads", 2},
                                  {"image_size", 6},
                                  {"patch_size", 3}}}});
  test::Tensors tensors = test::random_tensors(config);
  std::erase_if(tensors, [](const auto& tensor) { return tensor.first.starts_with("model.vision_tower."); });
  const test::TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), config, tensors);
  const Checkpoint checkpoint(directory.path());
  try {
    const Model model(checkpoint, at::kCPU, at::kFloat);
    ADD_FAILURE();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("the vision tower is not in the files"), std::string::npos) << text;
    EXPECT_NE(text.find("'openai/clip-vit-large-patch14-336'. Give the checkpoint as converted"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace visq

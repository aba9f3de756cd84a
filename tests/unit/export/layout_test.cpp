#include "visq/export/layout.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

using Shapes = std::vector<std::tuple<std::string, at::ScalarType, std::vector<int64_t>>>;

Shapes shapes(const Layout& layout, const char* preset, bool standalone) {
  const QuantizedLinear linear{"m", 256, 512, at::kBFloat16, find_preset(preset).scheme, standalone};
  Shapes list;
  for (const LayoutTensor& tensor : layout.tensors(linear))
    list.emplace_back(tensor.planned.name, tensor.planned.dtype, tensor.planned.shape);
  return list;
}

// The rows of spec/export.md §3.4, for [N, K] = [256, 512].
TEST(ModelOptLayout, TensorsPerFormat) {
  const Layout& layout = modelopt_layout();
  EXPECT_EQ(shapes(layout, "fp8", false), (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}},
                                                  {"m.weight_scale", at::kFloat, {}},
                                                  {"m.input_scale", at::kFloat, {}}}));
  EXPECT_EQ(shapes(layout, "nvfp4", true), (Shapes{{"m.weight", at::kByte, {256, 256}},
                                                   {"m.weight_scale", at::kFloat8_e4m3fn, {256, 32}},
                                                   {"m.weight_scale_2", at::kFloat, {}},
                                                   {"m.input_scale", at::kFloat, {}}}));
  EXPECT_EQ(shapes(layout, "int4_awq", false),
            (Shapes{{"m.weight", at::kByte, {128, 512}}, {"m.weight_scale", at::kFloat, {256, 4}}}));
  EXPECT_EQ(shapes(layout, "w4a8_awq", true), (Shapes{{"m.weight", at::kByte, {128, 512}},
                                                      {"m.weight_scale", at::kFloat, {256, 4}},
                                                      {"m.weight_scale_2", at::kFloat, {}},
                                                      {"m.input_scale", at::kFloat, {}},
                                                      {"m.pre_quant_scale", at::kBFloat16, {512}}}));
}

// The rows of spec/export.md §5.2.
TEST(CompressedTensorsLayout, TensorsPerFormat) {
  const Layout& layout = compressed_tensors_layout();
  EXPECT_EQ(shapes(layout, "int4_awq", false), (Shapes{{"m.weight_packed", at::kInt, {256, 64}},
                                                       {"m.weight_scale", at::kBFloat16, {256, 4}},
                                                       {"m.weight_shape", at::kLong, {2}}}));
  EXPECT_EQ(shapes(layout, "int8_sq", false), (Shapes{{"m.weight", at::kChar, {256, 512}},
                                                      {"m.weight_scale", at::kBFloat16, {256, 1}},
                                                      {"m.input_scale", at::kBFloat16, {1}}}));
}

TEST(Layouts, AutoPicksTheOneThatTheMostEnginesRead) {
  const auto chosen = [](const char* preset) {
    return std::string(find_layout("auto", find_preset(preset)).name());
  };
  EXPECT_EQ(chosen("fp8"), "modelopt");
  EXPECT_EQ(chosen("nvfp4"), "modelopt");
  EXPECT_EQ(chosen("w4a8_awq"), "modelopt");
  EXPECT_EQ(chosen("int8_sq"), "compressed-tensors");
  EXPECT_EQ(chosen("int4_awq"), "compressed-tensors");
}

TEST(Layouts, AskingForOneThatDoesNotHoldTheFormatIsRefused) {
  EXPECT_THROW(find_layout("compressed-tensors", find_preset("w4a8_awq")), Error);
  EXPECT_THROW(find_layout("gguf", find_preset("fp8")), Error);
}

TEST(Layouts, RecogniseWhatTheyWrite) {
  for (const Layout* layout : layouts())
    for (const Preset& preset : presets()) {
      if (!layout->holds(preset.scheme)) continue;
      for (const KvCacheFormat kv : {KvCacheFormat::none, KvCacheFormat::fp8}) {
        const Json config = layout->quantization_config({preset.scheme, kv, {"lm_head"}, {}});
        const auto found = layout->recognise(config, "config.json");
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(found->first, preset.scheme);
        EXPECT_EQ(found->second, kv);
        for (const Layout* other : layouts())
          EXPECT_EQ(other->recognise(config, "config.json").has_value(), other == layout);
      }
    }
}

TEST(ModelOptLayout, ExcludeListNamesRootsAndWhatIsBelow) {
  const Json config = modelopt_layout().quantization_config({find_preset("fp8").scheme,
                                                             KvCacheFormat::none,
                                                             {"visual", "model.visual"},
                                                             {"model.layers.1.mlp.up_proj"}});
  EXPECT_EQ(config.at("ignore"),
            (Json{"visual", "visual.*", "model.visual", "model.visual.*", "model.layers.1.mlp.up_proj"}));
}

TEST(AddQuantizationConfig, KeepsTheRestOfTheTextAsItWas) {
  const std::string text = "{\n  \"a\": 1.50,\n  \"b\":   [1,2]\n}\n";
  EXPECT_EQ(add_quantization_config(text, {{"quant_method", "modelopt"}}, "config.json"),
            "{\n  \"a\": 1.50,\n  \"b\":   [1,2],\n  \"quantization_config\": {\n    \"quant_method\": "
            "\"modelopt\"\n  }\n}\n");
}

TEST(AddQuantizationConfig, RefusesACheckpointThatHasOne) {
  EXPECT_THROW(add_quantization_config(R"({"quantization_config": {}})", {{"a", 1}}, "config.json"), Error);
}

}  // namespace
}  // namespace visq

#include "visq/export/layout.h"

#include <ATen/ATen.h>
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
  EXPECT_EQ(shapes(layout, "nvfp4_svdquant", false),
            (Shapes{{"m.weight", at::kByte, {256, 256}},
                    {"m.weight_scale", at::kFloat8_e4m3fn, {256, 32}},
                    {"m.weight_scale_2", at::kFloat, {}},
                    {"m.input_scale", at::kFloat, {}},
                    {"m.weight_quantizer._svdquant_lora_a", at::kBFloat16, {32, 512}},
                    {"m.weight_quantizer._svdquant_lora_b", at::kBFloat16, {256, 32}}}));
  EXPECT_EQ(shapes(layout, "int4_awq", false),
            (Shapes{{"m.weight", at::kByte, {128, 512}}, {"m.weight_scale", at::kFloat, {256, 4}}}));
  EXPECT_EQ(shapes(layout, "w4a8_awq", true), (Shapes{{"m.weight", at::kByte, {128, 512}},
                                                      {"m.weight_scale", at::kFloat, {256, 4}},
                                                      {"m.weight_scale_2", at::kFloat, {}},
                                                      {"m.input_scale", at::kFloat, {}},
                                                      {"m.pre_quant_scale", at::kBFloat16, {512}}}));
  EXPECT_EQ(shapes(layout, "fp8_pc_pt", true),
            (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}}, {"m.weight_scale", at::kFloat, {256}}}));
  EXPECT_EQ(shapes(layout, "fp8_pb_wo", true), (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}},
                                                       {"m.weight_scale", at::kFloat, {2, 1, 4, 1}}}));
  EXPECT_EQ(shapes(layout, "int8_wo", true),
            (Shapes{{"m.weight", at::kChar, {256, 512}}, {"m.weight_scale", at::kFloat, {256}}}));
  EXPECT_EQ(shapes(layout, "w4a16", true), (Shapes{{"m.weight", at::kByte, {128, 512}},
                                                   {"m.weight_scale", at::kFloat, {256, 4}},
                                                   {"m.pre_quant_scale", at::kBFloat16, {512}}}));
  EXPECT_EQ(shapes(layout, "w4a16_nvfp4", true), (Shapes{{"m.weight", at::kByte, {256, 256}},
                                                         {"m.weight_scale", at::kFloat8_e4m3fn, {256, 32}},
                                                         {"m.weight_scale_2", at::kFloat, {}}}));
  EXPECT_EQ(shapes(layout, "int8", true), (Shapes{{"m.weight", at::kChar, {256, 512}},
                                                  {"m.weight_scale", at::kFloat, {256}},
                                                  {"m.input_scale", at::kFloat, {}}}));
  EXPECT_EQ(shapes(layout, "w4a8_nvfp4_fp8", true), (Shapes{{"m.weight", at::kByte, {256, 256}},
                                                            {"m.weight_scale", at::kFloat8_e4m3fn, {256, 16}},
                                                            {"m.weight_scale_2", at::kFloat, {}},
                                                            {"m.input_scale", at::kFloat, {}}}));
  for (const char* preset : {"mxfp4", "w4a8_mxfp4_fp8"})
    EXPECT_EQ(shapes(layout, preset, true),
              (Shapes{{"m.weight", at::kByte, {256, 256}}, {"m.weight_scale", at::kByte, {256, 16}}}));
  EXPECT_EQ(shapes(layout, "mxfp8", true),
            (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}}, {"m.weight_scale", at::kByte, {256, 16}}}));
  // Ours alone.
  EXPECT_EQ(shapes(layout, "mxfp6", true),
            (Shapes{{"m.weight", at::kByte, {256, 384}}, {"m.weight_scale", at::kByte, {256, 16}}}));
  EXPECT_EQ(shapes(layout, "mxint8", true),
            (Shapes{{"m.weight", at::kChar, {256, 512}}, {"m.weight_scale", at::kByte, {256, 16}}}));
}

// spec/export.md §3.3.
TEST(ModelOptLayout, NamesOfTheFormatsWithBlocksOf32) {
  for (const auto& [preset, name] :
       std::vector<std::pair<const char*, const char*>>{{"w4a8_nvfp4_fp8", "W4A8_NVFP4_FP8"},
                                                        {"w4a8_mxfp4_fp8", "W4A8_MXFP4_FP8"},
                                                        {"mxfp8", "MXFP8"},
                                                        {"mxfp4", "mxfp4"}}) {
    const Json config = modelopt_layout().quantization_config(
        {{find_preset(preset).scheme}, KvCacheFormat::none, {"lm_head"}, {}, {}});
    EXPECT_EQ(config.at("quant_algo"), name);
    EXPECT_EQ(config.at("group_size"), 32);
    EXPECT_FALSE(config.contains("config_groups"));
    EXPECT_FALSE(config.contains("pre_quant_scale"));
  }
}

TEST(Layouts, FormatsThatNoEngineReadsSaySo) {
  for (const char* preset : {"mxfp6", "mxint8"})
    for (const Layout* layout : layouts())
      EXPECT_TRUE(layout->engines({find_preset(preset).scheme}).empty()) << preset;
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
  EXPECT_EQ(shapes(layout, "fp8_pc_pt", false), (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}},
                                                        {"m.weight_scale", at::kBFloat16, {256, 1}}}));
  EXPECT_EQ(shapes(layout, "int8_wo", false), (Shapes{{"m.weight_packed", at::kInt, {256, 128}},
                                                      {"m.weight_scale", at::kBFloat16, {256, 1}},
                                                      {"m.weight_shape", at::kLong, {2}}}));
  EXPECT_EQ(shapes(layout, "w4a16_nvfp4", false), (Shapes{{"m.weight_packed", at::kByte, {256, 256}},
                                                          {"m.weight_scale", at::kFloat8_e4m3fn, {256, 32}},
                                                          {"m.weight_global_scale", at::kFloat, {1}}}));
}

// Zero points lie along the rows, eight to a word (spec/export.md §5.2).
TEST(CompressedTensorsLayout, ZeroPointsArePackedAlongTheRows) {
  const Layout& layout = compressed_tensors_layout();
  EXPECT_EQ(shapes(layout, "int4_awq_asym", false), (Shapes{{"m.weight_packed", at::kInt, {256, 64}},
                                                            {"m.weight_scale", at::kBFloat16, {256, 4}},
                                                            {"m.weight_zero_point", at::kInt, {32, 4}},
                                                            {"m.weight_shape", at::kLong, {2}}}));
  PackedLinear linear;
  linear.weight.zero_point = at::arange(-8, 8, at::kChar).view({8, 2});  // rows 0…7: −8, −6, …, 6 in block 0
  const auto tensors = layout.tensors({"m", 8, 256, at::kBFloat16, find_preset("w4a16_asym").scheme, false});
  ASSERT_EQ(tensors.at(2).planned.name, "m.weight_zero_point");
  EXPECT_TRUE(
      at::equal(tensors.at(2).value(linear),
                at::tensor({int64_t{0xECA86420}, int64_t{0xFDB97531}}, at::kLong).to(at::kInt).view({1, 2})));
  const Json config =
      layout.quantization_config({{find_preset("w4a16_asym").scheme}, KvCacheFormat::none, {}, {}, {}});
  EXPECT_EQ(config.at("config_groups").at("group_0").at("weights").at("symmetric"), false);
  EXPECT_FALSE(modelopt_layout().holds(find_preset("w4a16_asym").scheme));
}

TEST(BitsAndBytesLayout, TensorsAndConfiguration) {
  const Layout& layout = bitsandbytes_layout();
  const Shapes found = shapes(layout, "nf4", false);
  ASSERT_EQ(found.size(), 6u);
  EXPECT_EQ(Shapes(found.begin(), found.end() - 1),
            (Shapes{{"m.weight", at::kByte, {256 * 512 / 2, 1}},
                    {"m.weight.absmax", at::kByte, {256 * 512 / 64}},
                    {"m.weight.quant_map", at::kFloat, {16}},
                    {"m.weight.nested_absmax", at::kFloat, {8}},
                    {"m.weight.nested_quant_map", at::kFloat, {256}}}));
  EXPECT_EQ(std::get<0>(found.back()), "m.weight.quant_state.bitsandbytes__nf4");
  // Its size is planned before the offset is known, whatever that will be.
  const QuantizedLinear linear{"m", 256, 512, at::kBFloat16, find_preset("nf4").scheme, false};
  for (const float offset :
       {0.0f, 1.0f, 0.05188658460974693f, 1.1754943508222875e-38f, 3.4028234663852886e+38f}) {
    PackedLinear packed;
    packed.weight.zero_point = at::scalar_tensor(offset, at::kFloat);
    const at::Tensor bytes = layout.tensors(linear).back().value(packed);
    EXPECT_EQ(bytes.sizes(), at::IntArrayRef(std::get<2>(found.back())));
    const std::string text(reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>()),
                           static_cast<size_t>(bytes.numel()));
    const Json state = parse_json(text, "state");
    EXPECT_EQ(state.at("nested_offset").get<float>(), offset);
    EXPECT_EQ(state.at("shape"), (Json{256, 512}));
    EXPECT_EQ(state.at("dtype"), "bfloat16");
  }
  const Json config = layout.quantization_config({{find_preset("nf4").scheme},
                                                  KvCacheFormat::none,
                                                  {"visual", "lm_head"},
                                                  {"model.layers.1.mlp.up_proj"},
                                                  {}});
  EXPECT_EQ(
      config.at("llm_int8_skip_modules"),
      (Json{"visual", "lm_head", "model.layers.1.mlp.up_proj", "language_model.model.layers.1.mlp.up_proj",
            "model.layers.1.mlp.gate_up_proj", "language_model.model.layers.1.mlp.gate_up_proj"}));
  EXPECT_EQ(config.at("bnb_4bit_use_double_quant"), true);
}

TEST(BitsAndBytesLayout, OtherFormatsAreRefused) {
  const Json ours = bitsandbytes_layout().quantization_config(
      {{find_preset("nf4").scheme}, KvCacheFormat::none, {}, {}, {}});
  const Json others = {{"load_in_4bit", false},
                       {"bnb_4bit_quant_type", "fp4"},
                       {"bnb_4bit_use_double_quant", false},
                       {"bnb_4bit_quant_storage", "bfloat16"}};
  for (const auto& [key, value] : others.items()) {
    Json other = ours;
    other[key] = value;
    EXPECT_THROW(bitsandbytes_layout().recognise(other, "config.json"), Error) << key;
  }
}

TEST(Layouts, HoldKvCachesThatTheyHaveAPlaceFor) {
  EXPECT_THROW(find_layout("auto", find_preset("mxint8"), KvCacheFormat::fp8_attn_head), Error);
  EXPECT_THROW(find_layout("modelopt", find_preset("fp8"), KvCacheFormat::fp8_attn_head), Error);
  EXPECT_THROW(find_layout("auto", find_preset("nf4"), KvCacheFormat::fp8), Error);
  EXPECT_STREQ(find_layout("auto", find_preset("int4_awq"), KvCacheFormat::nvfp4).name(), "modelopt");
  EXPECT_STREQ(find_layout("auto", find_preset("int4_awq"), KvCacheFormat::fp8).name(), "compressed-tensors");
}

// spec/export.md §3.9, §5.2; a scale a head as compressed-tensors initialises it.
TEST(Layouts, TensorsOfKvCaches) {
  const auto kv_shapes = [](const Layout& layout, KvCacheFormat format) {
    Shapes list;
    for (const KvLayoutTensor& tensor : layout.kv_tensors({"a", format, 2, 64, at::kBFloat16}))
      list.emplace_back(tensor.planned.name, tensor.planned.dtype, tensor.planned.shape);
    return list;
  };
  using enum KvCacheFormat;
  const Shapes scales = {{"a.k_proj.k_scale", at::kFloat, {}}, {"a.v_proj.v_scale", at::kFloat, {}}};
  for (const KvCacheFormat format : {fp8, nvfp4, nvfp4_rotate})
    EXPECT_EQ(kv_shapes(modelopt_layout(), format), scales);
  for (const KvCacheFormat format : {fp8_cast, nvfp4_cast})
    EXPECT_TRUE(kv_shapes(modelopt_layout(), format).empty());
  for (const KvCacheFormat format : {fp8_affine, nvfp4_affine})
    EXPECT_EQ(kv_shapes(modelopt_layout(), format),
              (Shapes{{"a.k_proj.k_scale", at::kFloat, {}},
                      {"a.k_proj.k_bias", at::kBFloat16, {1, 2, 1, 64}},
                      {"a.v_proj.v_scale", at::kFloat, {}},
                      {"a.v_proj.v_bias", at::kBFloat16, {1, 2, 1, 64}}}));
  for (const KvCacheFormat format : {fp8, fp8_cast})
    EXPECT_EQ(kv_shapes(compressed_tensors_layout(), format),
              (Shapes{{"a.k_scale", at::kBFloat16, {1}}, {"a.v_scale", at::kBFloat16, {1}}}));
  EXPECT_EQ(kv_shapes(compressed_tensors_layout(), fp8_attn_head),
            (Shapes{{"a.k_scale", at::kBFloat16, {2, 1, 1}}, {"a.v_scale", at::kBFloat16, {2, 1, 1}}}));
}

// spec/export.md §6.3.
TEST(HfFp8Layout, TensorsAndConfiguration) {
  const Layout& layout = hf_fp8_layout();
  EXPECT_EQ(shapes(layout, "fp8_pb_wo", false), (Shapes{{"m.weight", at::kFloat8_e4m3fn, {256, 512}},
                                                        {"m.weight_scale_inv", at::kFloat, {2, 4}}}));
  const Json config = layout.quantization_config({{find_preset("fp8_pb_wo").scheme},
                                                  KvCacheFormat::none,
                                                  {"visual", "lm_head"},
                                                  {},
                                                  {"lm_head", "visual.blocks.0.mlp.fc1"}});
  EXPECT_EQ(config, (Json{{"quant_method", "fp8"},
                          {"activation_scheme", "dynamic"},
                          {"weight_block_size", {128, 128}},
                          {"modules_to_not_convert", {"visual", "lm_head", "visual.blocks.0.mlp.fc1"}}}));
}

TEST(HfFp8Layout, OtherBlocksAreRefused) {
  EXPECT_THROW(hf_fp8_layout().recognise({{"quant_method", "fp8"}}, "config.json"), Error);
  EXPECT_THROW(
      hf_fp8_layout().recognise({{"quant_method", "fp8"}, {"weight_block_size", {1, 32}}}, "config.json"),
      Error);
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
  EXPECT_EQ(chosen("fp8_pc_pt"), "compressed-tensors");
  EXPECT_EQ(chosen("fp8_pb_wo"), "hf-fp8");
  EXPECT_EQ(chosen("int8_wo"), "compressed-tensors");
  EXPECT_EQ(chosen("w4a16"), "compressed-tensors");
  EXPECT_EQ(chosen("w4a16_nvfp4"), "modelopt");
  EXPECT_EQ(chosen("int8"), "compressed-tensors");
  EXPECT_EQ(chosen("w4a16_asym"), "compressed-tensors");
  EXPECT_EQ(chosen("int4_awq_asym"), "compressed-tensors");
  EXPECT_EQ(chosen("nf4"), "bitsandbytes");
  EXPECT_EQ(chosen("mxfp4"), "compressed-tensors");
  for (const char* preset : {"w4a8_nvfp4_fp8", "w4a8_mxfp4_fp8", "mxfp6", "mxfp8", "mxint8"})
    EXPECT_EQ(chosen(preset), "modelopt");
}

TEST(Layouts, AskingForOneThatDoesNotHoldTheFormatIsRefused) {
  EXPECT_THROW(find_layout("compressed-tensors", find_preset("w4a8_awq")), Error);
  EXPECT_THROW(find_layout("gguf", find_preset("fp8")), Error);
}

TEST(Layouts, RecogniseWhatTheyWrite) {
  for (const Layout* layout : layouts())
    for (const Preset& preset : presets()) {
      if (!layout->holds(preset.scheme)) continue;
      for (const KvCacheFormat kv :
           {KvCacheFormat::none, KvCacheFormat::fp8, KvCacheFormat::fp8_attn_head, KvCacheFormat::fp8_affine,
            KvCacheFormat::nvfp4, KvCacheFormat::nvfp4_affine, KvCacheFormat::nvfp4_rotate}) {
        if (kv != KvCacheFormat::none && !layout->holds(kv)) continue;
        const Json config =
            layout->quantization_config({{preset.scheme}, kv, {"lm_head"}, {}, {}, {}, preset.name});
        const auto found = layout->recognise(config, "config.json");
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(found->scheme, preset.scheme) << layout->name() << " " << preset.name;
        EXPECT_EQ(found->kv_cache, kv);
        for (const Layout* other : layouts())
          EXPECT_EQ(other->recognise(config, "config.json").has_value(), other == layout);
      }
    }
}

TEST(ModelOptLayout, ExcludeListNamesRootsAndWhatIsBelow) {
  const Json config = modelopt_layout().quantization_config({{find_preset("fp8").scheme},
                                                             KvCacheFormat::none,
                                                             {"visual", "model.visual"},
                                                             {"model.layers.1.mlp.up_proj"},
                                                             {}});
  EXPECT_EQ(config.at("ignore"),
            (Json{"visual", "visual.*", "model.visual", "model.visual.*", "model.layers.1.mlp.up_proj",
                  "layers.1.mlp.up_proj", "model.layers.1.mlp.gate_up_proj", "layers.1.mlp.gate_up_proj"}));
}

// Another tool's checkpoints do not name the preset.
TEST(Layouts, WithoutTheNameOfAPresetInt4IsTakenForAwqs) {
  for (const Layout* layout : {&modelopt_layout(), &compressed_tensors_layout()}) {
    Json config =
        layout->quantization_config({{find_preset("w4a16").scheme}, KvCacheFormat::none, {}, {}, {}});
    config.erase("producer");
    EXPECT_EQ(layout->recognise(config, "config.json")->scheme, find_preset("int4_awq_lite").scheme);
    config["producer"] = {{"preset", 3}};
    EXPECT_EQ(layout->recognise(config, "config.json")->scheme, find_preset("int4_awq_lite").scheme);
  }
}

TEST(ModelOptLayout, WeightOnlyGroupsHaveNoInputs) {
  const Json config = modelopt_layout().quantization_config(
      {{find_preset("w4a16_nvfp4").scheme}, KvCacheFormat::none, {}, {}, {}});
  EXPECT_EQ(config.at("quant_algo"), "W4A16_NVFP4");
  EXPECT_EQ(config.at("config_groups").at("group_0").count("input_activations"), 0u);
  EXPECT_EQ(config.at("group_size"), 16);
}

TEST(AddQuantizationConfig, KeepsTheRestOfTheTextAsItWas) {
  const std::string text = "{\n  \"a\": 1.50,\n  \"b\":   [1,2]\n}\n";
  EXPECT_EQ(add_quantization_config(text, {{"quant_method", "modelopt"}}, "config.json"),
            "{\n  \"a\": 1.50,\n  \"b\":   [1,2],\n  \"quantization_config\": {\n    \"quant_method\": "
            "\"modelopt\"\n  }\n}\n");
}

TEST(RemoveQuantizationConfig, KeepsTheRestOfTheTextAsItWas) {
  for (const std::string text : {R"({"a": 1e-06, "b": {"quantization_config": {"x": 1}}
})",
                                 "{\n \"a\": [1.0,\n  2]\n}\n", "{}"}) {
    const Json value = {{"s", "a \"}{[ b\\"}, {"list", {1, {{"quantization_config", 2}}}}};
    const std::string with = add_quantization_config(text, value, "config.json");
    const std::string without = remove_quantization_config(with, parse_json(with, "config.json"));
    EXPECT_EQ(parse_json(without, "config.json"), parse_json(text, "config.json"));
    EXPECT_EQ(add_quantization_config(without, value, "config.json"), with);
    EXPECT_EQ(remove_quantization_config(text, parse_json(text, "config.json")), text);
  }
  const std::string first = R"({"quantization_config": {"a": [1]}, "b":  2.50})";
  EXPECT_EQ(remove_quantization_config(first, parse_json(first, "config.json")), R"({ "b":  2.50})");
  const std::string null = R"({"b": 2, "quantization_config": null})";
  EXPECT_EQ(parse_json(remove_quantization_config(null, parse_json(null, "config.json")), "config.json"),
            Json({{"b", 2}}));
}

TEST(AddQuantizationConfig, RefusesACheckpointThatHasOne) {
  EXPECT_THROW(add_quantization_config(R"({"quantization_config": {}})", {{"a", 1}}, "config.json"), Error);
}

}  // namespace
}  // namespace visq

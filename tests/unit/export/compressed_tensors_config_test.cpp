#include "visq/export/compressed_tensors_config.h"

#include <gtest/gtest.h>

#include "tests/unit/error_of.h"
#include "visq/export/compressed_tensors_arguments.h"

namespace visq::compressed_tensors {
namespace {

// As llm-compressor writes W4A16.
Json w4a16() {
  return parse_json(R"({"quant_method": "compressed-tensors", "format": "pack-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"],
      "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 128,
                  "dynamic": false, "actorder": null, "observer": "minmax"},
      "input_activations": null, "output_activations": null}},
    "ignore": ["lm_head"], "kv_cache_scheme": null, "quantization_status": "compressed",
    "sparsity_config": {}, "transform_config": {}})",
                    "config.json");
}
Json& weights_of(Json& config) { return config["config_groups"]["group_0"]["weights"]; }

Scheme scheme_of(const Json& config) { return read_config(config, "config.json")->scheme; }

std::string refusal(const Json& config, const std::vector<std::string>& modules = {"model.layers.0.q_proj"}) {
  return error_of([&] {
    auto stored = read_config(config, "config.json");
    resolve(*stored, config, modules, "config.json");
  });
}

void expect_refused(const Json& config, const std::vector<std::string>& words) {
  const std::string text = refusal(config);
  for (const std::string& word : words) EXPECT_NE(text.find(word), std::string::npos) << word << ": " << text;
}

TEST(CompressedTensorsConfig, GroupsOfAnySizeAreRead) {
  Json config = w4a16();
  for (const int64_t block : {32, 64, 128}) {
    weights_of(config)["group_size"] = block;
    EXPECT_EQ(scheme_of(config).weight, Codec::int4);
    EXPECT_EQ(scheme_of(config).block, block);
  }
  weights_of(config)["group_size"] = -1;
  weights_of(config)["strategy"] = "channel";
  EXPECT_EQ(scheme_of(config).block, 0);
}

// num_bits 8, type int, symmetric, not dynamic, the strategy by the group size; no format, no status.
TEST(CompressedTensorsConfig, AbsentKeysHaveThePackagesDefaults) {
  Json config = w4a16();
  config.erase("format");
  config.erase("quant_method");
  config.erase("quantization_status");
  weights_of(config) = {{"group_size", 128}};
  Scheme scheme = scheme_of(config);
  EXPECT_EQ(scheme.weight, Codec::int8);
  EXPECT_EQ(scheme.block, 128);
  weights_of(config) = {{"group_size", -1}};
  EXPECT_EQ(scheme_of(config).block, 0);
  weights_of(config) = {{"type", "float"}};
  EXPECT_EQ(scheme_of(config).weight, Codec::fp8_e4m3);
  config["config_groups"] = nullptr;
  EXPECT_FALSE(read_config({{"quant_method", "gptq"}}, "config.json").has_value());
}

TEST(CompressedTensorsConfig, UnknownArgumentsAreNamed) {
  const std::vector<std::tuple<const char*, Json, const char*>> cases = {
      {"num_bits", 3, "num_bits 3"},
      {"type", "complex", "type 'complex'"},
      {"strategy", "diagonal", "strategy 'diagonal'"},
      {"strategy", "channel", "group_size 128 contradicts strategy channel"},
      {"strategy", "token", "contradicts"},
      {"group_size", 0, "needs a group_size"},
      {"dynamic", true, "dynamic yes"},
      {"dynamic", "sometimes", "dynamic is"},
      {"num_bits", "four", "num_bits"},
      {"type", "float", "num_bits 4, type float"}};
  for (const auto& [key, value, words] : cases) {
    Json config = w4a16();
    weights_of(config)[key] = value;
    expect_refused(config, {"config.json", "config_groups.group_0", words});
  }
  Json config = w4a16();
  weights_of(config)["actorder"] = "weight";  // codes are as without
  EXPECT_EQ(refusal(config), "");
  weights_of(config)["actorder"] = "static";
  EXPECT_EQ(refusal(config), "");
  EXPECT_FALSE(compressed_tensors_layout().recognise(config, "config.json")->scheme.ordered_columns);
  for (const Json& order : {Json("group"), Json("dynamic"), Json(true)}) {
    weights_of(config)["actorder"] = order;
    EXPECT_TRUE(compressed_tensors_layout().recognise(config, "config.json")->scheme.ordered_columns);
  }
}

TEST(CompressedTensorsConfig, WhatIsMoreThanCodesAndScalesIsRefused) {
  Json config = w4a16();
  config["sparsity_config"] = {{"format", "sparse-24-bitmask"}};
  expect_refused(config, {"sparsity_config", "sparse-24-bitmask"});
  config["sparsity_config"] = {{"format", "dense"}, {"global_sparsity", 0.1}};
  EXPECT_EQ(refusal(config), "");
  config = w4a16();
  config["transform_config"] = {{"config_groups", {{"u", {{"type", "hadamard"}}}}}};
  expect_refused(config, {"transform_config"});
  config = w4a16();
  config["config_groups"]["group_0"]["output_activations"] = {{"num_bits", 8}};
  expect_refused(config, {"output_activations"});
  config = w4a16();
  config["format"] = "dense";
  expect_refused(config, {"'dense'"});
  config["format"] = "float-quantized";
  expect_refused(config, {"'float-quantized'", "pack-quantized"});
}

TEST(CompressedTensorsConfig, KvCachesOfEightBitsOfFloatAreRead) {
  Json config = w4a16();
  const auto cache = [&](const Json& scheme) {
    config["kv_cache_scheme"] = scheme;
    return read_config(config, "config.json")->kv_cache;
  };
  EXPECT_EQ(cache({{"num_bits", 8}, {"type", "float"}}), KvCacheFormat::fp8);
  EXPECT_EQ(cache({{"type", "float"}, {"strategy", "attn_head"}}), KvCacheFormat::fp8_attn_head);
  EXPECT_THROW(cache({{"num_bits", 8}}), Error);  // int is the default
  EXPECT_THROW(cache({{"type", "float"}, {"strategy", "channel"}}), Error);
  EXPECT_THROW(cache({{"type", "float"}, {"dynamic", true}}), Error);
}

// Two groups: FP8 per channel for attention, W4A16 for what "Linear" stands for.
Json mixed() {
  Json config = w4a16();
  config["format"] = "mixed-precision";
  config["config_groups"]["group_0"]["format"] = "pack-quantized";
  config["config_groups"]["group_1"] = {
      {"targets", {"re:.*self_attn.*"}},
      {"format", "float-quantized"},
      {"weights", {{"num_bits", 8}, {"type", "float"}, {"strategy", "channel"}}},
      {"input_activations", {{"num_bits", 8}, {"type", "float"}, {"strategy", "token"}, {"dynamic", true}}}};
  return config;
}

TEST(CompressedTensorsConfig, TheGroupThatSaysMostOfALinearHasIt) {
  const Json config = mixed();
  const std::string q = "model.layers.0.self_attn.q_proj", up = "model.layers.0.mlp.up_proj";
  auto stored = read_config(config, "config.json");
  resolve(*stored, config, {q, up}, "config.json");
  EXPECT_EQ(stored->scheme_of(q).weight, Codec::fp8_rows);
  EXPECT_EQ(stored->scheme_of(q).input, InputFormat::fp8_tokens);
  EXPECT_EQ(stored->scheme_of(up).weight, Codec::int4);
  EXPECT_EQ(stored->schemes().size(), 2u);
}

TEST(CompressedTensorsConfig, ContradictionsAreRefused) {
  const std::string q = "model.layers.0.self_attn.q_proj";
  Json config = mixed();
  config["config_groups"]["group_0"]["targets"] = {"re:.*q_proj"};
  std::string text = refusal(config, {q});
  EXPECT_NE(text.find("group_0 and group_1 both claim '" + q + "'"), std::string::npos) << text;
  config = w4a16();
  config["config_groups"]["group_0"]["targets"] = {"model.layers.1.self_attn.q_proj"};
  text = refusal(config, {q});
  EXPECT_NE(text.find("no group targets"), std::string::npos) << text;
  config = w4a16();
  config["ignore"] = {"re:.*q_proj"};
  text = refusal(config, {q});
  EXPECT_NE(text.find("'ignore' has it"), std::string::npos) << text;
  config = w4a16();
  config["config_groups"]["group_0"]["targets"] = Json::array();
  EXPECT_NE(refusal(config).find("targets no module"), std::string::npos);
  config["config_groups"] = Json::object();
  EXPECT_NE(refusal(config).find("no group"), std::string::npos);
}

TEST(CompressedTensorsConfig, MixesNameTheirModules) {
  const Scheme fp8 = find_preset("fp8_pc_pt").scheme, int4 = find_preset("w4a16").scheme;
  const std::string q = "model.layers.0.self_attn.q_proj", up = "model.layers.0.mlp.up_proj";
  const Json config =
      write_config({{fp8, int4}, KvCacheFormat::none, {"lm_head"}, {}, {}, {{q, fp8}, {up, int4}}});
  EXPECT_EQ(config.at("format"), "mixed-precision");
  EXPECT_EQ(config.at("config_groups").at("group_0").at("targets"), (Json{q}));
  EXPECT_EQ(config.at("config_groups").at("group_0").at("format"), "float-quantized");
  EXPECT_EQ(config.at("config_groups").at("group_1").at("targets"), (Json{up}));
  auto stored = read_config(config, "config.json");
  EXPECT_EQ(stored->schemes().size(), 2u);
  resolve(*stored, config, {q, up}, "config.json");
  EXPECT_TRUE(stored->scheme_of(q).stored_like(fp8));
  EXPECT_TRUE(stored->scheme_of(up).stored_like(int4));
}

// Old versions of the package refuse what they do not know (spec/export.md §5.1).
TEST(CompressedTensorsConfig, WritesNoMoreKeysThanItMust) {
  for (const char* preset : {"fp8", "fp8_pc_pt", "fp8_pb_wo", "int8_dynamic", "w4a16", "w4a8", "nvfp4_max"}) {
    const Json config = write_config({{find_preset(preset).scheme}, KvCacheFormat::none, {}, {}, {}});
    const Json& group = config.at("config_groups").at("group_0");
    EXPECT_EQ(group.count("format"), 0u) << preset;
    for (const auto& [key, value] : group.at("weights").items())
      EXPECT_TRUE(std::set<std::string>({"num_bits", "type", "symmetric", "strategy", "group_size",
                                         "block_structure", "dynamic"})
                      .contains(key))
          << preset << " " << key;
  }
}

}  // namespace
}  // namespace visq::compressed_tensors

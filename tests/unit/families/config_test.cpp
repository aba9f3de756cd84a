#include "visq/families/config.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

nn::DecoderSpec decoder(const std::string& type, const Json& config) {
  return read_decoder(config, text_defaults(type, "c"), "c");
}

TEST(ReadDecoder, TellsAnAbsentKeyFromNull) {
  const Json absent = Json::object(), null = {{"num_key_value_heads", nullptr}, {"sliding_window", nullptr}};
  EXPECT_EQ(decoder("llama", absent).kv_heads, 32);
  EXPECT_EQ(decoder("mistral", absent).kv_heads, 8);
  EXPECT_EQ(decoder("mistral", null).kv_heads, 32);
  EXPECT_EQ(decoder("qwen2", absent).kv_heads, 32);
  EXPECT_EQ(decoder("qwen2", {{"num_attention_heads", 16}, {"num_key_value_heads", nullptr}}).kv_heads, 16);
  EXPECT_EQ(decoder("mistral", absent).window, 4096);
  EXPECT_EQ(decoder("mistral", null).window, 0);
}

TEST(ReadDecoder, KnowsWhichLayersAttendInAWindow) {
  const Json three = {{"num_hidden_layers", 3}, {"sliding_window", 1024}};
  const auto with = [&three](const Json& more) {
    Json config = three;
    config.update(more);
    return config;
  };
  using Layers = std::vector<bool>;
  EXPECT_EQ(decoder("mistral", three).windowed, (Layers{true, true, true}));
  EXPECT_EQ(decoder("qwen2", three).windowed, Layers{});  // not switched on
  EXPECT_EQ(decoder("qwen2", with({{"use_sliding_window", true}, {"max_window_layers", 2}})).windowed,
            (Layers{false, false, true}));
  EXPECT_EQ(decoder("gemma2", three).windowed, (Layers{true, false, true}));
  EXPECT_EQ(decoder("gemma3_text", with({{"sliding_window_pattern", 3}})).windowed,
            (Layers{true, true, false}));
  EXPECT_EQ(decoder("gemma3_text",
                    with({{"layer_types", {"full_attention", "sliding_attention", "full_attention"}}}))
                .windowed,
            (Layers{false, true, false}));
  EXPECT_EQ(decoder("phi3", {{"sliding_window", nullptr}}).window, 0);
  EXPECT_THROW(decoder("gemma3_text", with({{"layer_types", {"full_attention"}}})), Error);
}

TEST(ReadDecoder, FillsInWhatSparseGemmaFilesLeaveOut) {
  const nn::DecoderSpec spec =
      decoder("gemma3_text", {{"hidden_size", 2560},
                              {"num_hidden_layers", 34},
                              {"rope_scaling", {{"rope_type", "linear"}, {"factor", 8.0}}}});
  EXPECT_EQ(spec.heads, 8);
  EXPECT_EQ(spec.head_dim, 256);
  EXPECT_EQ(spec.score_scale, 1.0 / 16);
  EXPECT_NEAR(spec.embed_scale, 50.596, 1e-3);
  EXPECT_EQ(spec.rope.kind, nn::Rope::Kind::linear);
  EXPECT_EQ(spec.rope.theta, 1e6);
  EXPECT_EQ(spec.local_rope->kind, nn::Rope::Kind::standard);
  EXPECT_EQ(spec.local_rope->theta, 1e4);
}

TEST(ReadDecoder, LongropeStretchesByTheLogarithmOfTheLengths) {
  const std::vector<double> factors(48, 1.5);
  const Json config = {
      {"max_position_embeddings", 131072},
      {"original_max_position_embeddings", 4096},
      {"rope_scaling", {{"type", "su"}, {"short_factor", factors}, {"long_factor", factors}}}};
  const nn::Rope rope = decoder("phi3", config).rope;
  EXPECT_EQ(rope.kind, nn::Rope::Kind::longrope);
  EXPECT_NEAR(rope.attention_factor, 1.1902381, 1e-7);
  EXPECT_EQ(rope.original_max_positions, 4096);
  Json wrong = config;
  wrong["rope_scaling"]["long_factor"] = {1.0};
  EXPECT_THROW(decoder("phi3", wrong), Error);
}

TEST(ReadDecoder, ReadsBothSpellingsOfRope) {
  const Json old_style = {{"rope_theta", 5e5},
                          {"rope_scaling",
                           {{"rope_type", "llama3"},
                            {"factor", 8.0},
                            {"low_freq_factor", 1.0},
                            {"high_freq_factor", 4.0},
                            {"original_max_position_embeddings", 8192}}}};
  Json new_style = {{"rope_parameters", old_style.at("rope_scaling")}};
  new_style["rope_parameters"]["rope_theta"] = 5e5;
  for (const Json& config : {old_style, new_style}) {
    const nn::Rope rope = decoder("llama", config).rope;
    EXPECT_EQ(rope.kind, nn::Rope::Kind::llama3);
    EXPECT_EQ(rope.theta, 5e5);
    EXPECT_EQ(rope.factor, 8);
    EXPECT_EQ(rope.original_max_positions, 8192);
  }
  const nn::Rope linear = decoder("llama", {{"rope_scaling", {{"type", "linear"}, {"factor", 2.0}}}}).rope;
  EXPECT_EQ(linear.kind, nn::Rope::Kind::linear);
  EXPECT_EQ(linear.theta, 1e4);
}

TEST(ReadDecoder, TreatsDynamicRopeAsStandardUpToItsLength) {
  const nn::DecoderSpec spec = decoder("qwen2", {{"rope_scaling", {{"type", "dynamic"}, {"factor", 2.0}}},
                                                 {"max_position_embeddings", 32768}});
  EXPECT_EQ(spec.rope.kind, nn::Rope::Kind::standard);
  EXPECT_EQ(spec.max_tokens, 32768);
}

TEST(ReadDecoder, RefusesWhatItCannotCompute) {
  EXPECT_THROW(decoder("llama", {{"rope_scaling", {{"type", "yarn"}, {"factor", 2.0}}}}), Error);
  EXPECT_THROW(decoder("llama", {{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}), Error);
  EXPECT_THROW(decoder("llama", {{"num_key_value_heads", 5}}), Error);
  EXPECT_THROW(decoder("llama", {{"hidden_size", 0}}), Error);
  EXPECT_THROW(decoder("llama", {{"hidden_size", "wide"}}), Error);
  EXPECT_THROW(decoder("llama", {{"num_hidden_layers", 1000000}}), Error);
  EXPECT_THROW(text_defaults("gpt2", "c"), Error);
}

TEST(ReadDecoder, TakesBiasesFromTheClassOrTheConfig) {
  EXPECT_TRUE(decoder("qwen2", {{"attention_bias", false}}).qkv_bias);
  const nn::DecoderSpec llama = decoder("llama", {{"attention_bias", true}, {"mlp_bias", true}});
  EXPECT_TRUE(llama.qkv_bias && llama.o_bias && llama.mlp_bias);
  EXPECT_FALSE(decoder("mistral", {{"attention_bias", true}}).qkv_bias);
}

TEST(ReadExtent, TakesANumberOrAListOfEqualOnes) {
  EXPECT_EQ(read_extent({{"a", 14}}, "a", 3, 100, "c"), 14);
  EXPECT_EQ(read_extent({{"a", {14, 14}}}, "a", 3, 100, "c"), 14);
  EXPECT_EQ(read_extent(Json::object(), "a", 3, 100, "c"), 3);
  EXPECT_THROW(read_extent({{"a", {14, 16}}}, "a", 3, 100, "c"), Error);
  EXPECT_THROW(read_extent({{"a", 101}}, "a", 3, 100, "c"), Error);
}

}  // namespace
}  // namespace visq

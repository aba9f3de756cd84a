#include "visq/export/tensorrt_llm_form.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace visq::trt {
namespace {

using Shapes = std::vector<std::tuple<std::string, at::ScalarType, std::vector<int64_t>>>;

Shapes shapes(const char* preset) {
  Form form;
  form.scheme = find_preset(preset).scheme;
  Shapes list;
  for (const LinearTensor& tensor : linear_tensors(form, {256, 512}))
    list.emplace_back(tensor.suffix, tensor.dtype, tensor.shape);
  return list;
}

// The rows of spec/export.md §4.2, for [N, K] = [256, 512].
TEST(LinearTensors, PerFormat) {
  EXPECT_EQ(shapes("int8_sq"), (Shapes{{".weight", at::kChar, {256, 512}},
                                       {".weights_scaling_factor", at::kFloat, {256}},
                                       {".activation_scaling_factor", at::kFloat, {1}},
                                       {".prequant_scaling_factor", at::kBFloat16, {512}}}));
  EXPECT_EQ(shapes("int8_wo"),
            (Shapes{{".weight", at::kChar, {256, 512}}, {".weights_scaling_factor", at::kFloat, {256}}}));
  EXPECT_EQ(shapes("fp8"), (Shapes{{".weight", at::kFloat8_e4m3fn, {256, 512}},
                                   {".weights_scaling_factor", at::kFloat, {1}},
                                   {".activation_scaling_factor", at::kFloat, {1}}}));
  EXPECT_EQ(shapes("fp8_pc_pt"),
            (Shapes{{".weight", at::kFloat8_e4m3fn, {256, 512}}, {".per_channel_scale", at::kFloat, {256}}}));
  EXPECT_EQ(shapes("int4_awq"), (Shapes{{".weight", at::kChar, {128, 512}},
                                        {".weights_scaling_factor", at::kFloat, {256, 4}},
                                        {".prequant_scaling_factor", at::kBFloat16, {512}}}));
  EXPECT_EQ(shapes("w4a8_awq"), (Shapes{{".weight", at::kChar, {128, 512}},
                                        {".weights_scaling_factor", at::kFloat, {256, 4}},
                                        {".weights_scaling_factor_2", at::kFloat, {1}},
                                        {".activation_scaling_factor", at::kFloat, {1}},
                                        {".prequant_scaling_factor", at::kBFloat16, {512}}}));
  EXPECT_EQ(shapes("nvfp4"), (Shapes{{".weight", at::kByte, {256, 256}},
                                     {".weights_scaling_factor", at::kFloat8_e4m3fn, {256, 32}},
                                     {".weights_scaling_factor_2", at::kFloat, {}},
                                     {".activation_scaling_factor", at::kFloat, {}}}));
}

TEST(FindAlgorithm, KnowsNoneForFormatsThatTensorRtLlmLacks) {
  EXPECT_STREQ(find_algorithm(find_preset("int4_awq").scheme)->name, "W4A16_AWQ");
  for (const char* preset : {"mxfp8", "w4a16_nvfp4", "nvfp4_svdquant", "nf4", "fp8_pb_wo"})
    EXPECT_EQ(find_algorithm(find_preset(preset).scheme), nullptr) << preset;
}

TEST(FormVocabulary, IsMadeEvenForAllRanks) {
  Form form;
  form.vocabulary = 32003;
  form.sharding.tensor_parallel = 4;
  EXPECT_EQ(form.vocabulary_rows(), 8001);
  EXPECT_EQ(padded_vocabulary(32003), 32064);
  EXPECT_EQ(padded_vocabulary(32064), 32064);
}

nn::DecoderSpec decoder(bool fused) {
  nn::DecoderSpec spec;
  spec.heads = 8;
  spec.kv_heads = 2;
  spec.head_dim = 16;
  spec.hidden = 128;
  spec.intermediate = 320;
  spec.fused_qkv = spec.fused_gate_up = fused;
  return spec;
}

TEST(Modules, ShareHeadsOutAndCopyThoseThatAreTooFew) {
  const std::vector<Module> four = modules(decoder(false), {4, 1});
  EXPECT_EQ(four.size(), 5U);
  EXPECT_STREQ(four[0].name, "attention.qkv");
  EXPECT_EQ(four[0].pieces[0].shards, 4);  // of the queries
  EXPECT_EQ(four[0].pieces[1].shards, 2);  // of the keys: two ranks have one head
  const nn::Extent qkv = extent_of(decoder(false), four[0], {4, 1});
  EXPECT_EQ(qkv.rows, 2 * 16 + 16 + 16);
  const nn::Extent proj = extent_of(decoder(false), four[4], {4, 1});
  EXPECT_EQ(proj.rows, 128);
  EXPECT_EQ(proj.columns, 80);
}

TEST(Modules, TurnTheHalvesOfAJoinedGateAndUp) {
  const std::vector<Module> all = modules(decoder(true), {2, 1});
  EXPECT_EQ(all.size(), 4U);
  EXPECT_STREQ(all[2].name, "mlp.fc");
  EXPECT_EQ(all[2].pieces[0].begin, 320);  // up
  EXPECT_EQ(all[2].pieces[1].begin, 0);    // gate
  EXPECT_EQ(extent_of(decoder(true), all[2], {2, 1}).rows, 320);
  EXPECT_EQ(all[0].pieces[2].begin, 8 * 16 + 2 * 16);
}

}  // namespace
}  // namespace visq::trt

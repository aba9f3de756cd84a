// Blocks against bytes worked by hand, and files written and read back.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "tests/unit/error_of.h"
#include "visq/export/gguf_blocks.h"
#include "visq/export/gguf_dequantize.h"
#include "visq/export/gguf_file.h"
#include "visq/export/gguf_stored.h"
#include "visq/export/gguf_text.h"
#include "visq/export/gguf_writer.h"
#include "visq/quant/presets.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

std::vector<int64_t> bytes_of(const at::Tensor& blocks) {
  const at::Tensor flat = blocks.flatten().to(at::kLong);
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

std::span<const std::byte> span_of(const at::Tensor& blocks) {
  return {static_cast<const std::byte*>(blocks.const_data_ptr()), blocks.nbytes()};
}

/// One row of 32 codes, first and last given.
at::Tensor codes(int64_t first, int64_t last, int64_t columns = 32) {
  at::Tensor row = at::zeros({1, columns}, at::kChar);
  row[0][0] = first;
  row[0][columns - 1] = last;
  return row;
}

PackedTensor packed(Codec codec, int64_t block, const at::Tensor& codes, const std::vector<float>& scales,
                    int64_t columns = 32) {
  PackedTensor packed;
  packed.codec = codec;
  packed.rows = 1;
  packed.columns = columns;
  packed.block = block;
  packed.codes = codes;
  packed.scale = at::tensor(scales);
  if (block > 0) packed.scale = packed.scale.view({1, -1});
  return packed;
}

void expect_same(const PackedTensor& a, const PackedTensor& b) {
  EXPECT_EQ(a.codec, b.codec);
  EXPECT_EQ(a.block, b.block);
  EXPECT_TRUE(a.codes.equal(b.codes));
  EXPECT_TRUE(a.scale.equal(b.scale));
  EXPECT_EQ(a.zero_point.defined(), b.zero_point.defined());
  if (a.zero_point.defined()) {
    EXPECT_TRUE(a.zero_point.equal(b.zero_point));
  }
}

TEST(GgmlBlocks, Q8_0IsAScaleAndThirtyTwoCodes) {
  const PackedTensor row = packed(Codec::int8, 0, codes(-128, 127), {0.5f});
  std::vector<int64_t> expected(34, 0);
  expected[1] = 0x38;  // 0.5 is 0x3800
  expected[2] = 0x80;
  expected[33] = 0x7F;
  EXPECT_EQ(bytes_of(to_ggml_blocks(row, "a")), expected);
}

TEST(GgmlBlocks, Q4_0HasTheFirstHalfOfABlockInLowNibbles) {
  at::Tensor row = codes(-8, 7);
  row[0][16] = 1;
  const at::Tensor blocks = to_ggml_blocks(packed(Codec::int4, 32, row, {2.0f}), "a");
  std::vector<int64_t> expected(18, 0x88);  // zeros
  expected[0] = 0;
  expected[1] = 0x40;  // 2 is 0x4000
  expected[2] = 0x90;  // element 0 is −8, element 16 is 1
  expected[17] = 0xF8;
  EXPECT_EQ(bytes_of(blocks), expected);
}

TEST(GgmlBlocks, Q4_1HasTheOffsetOfCodeMinusEight) {
  PackedTensor row = packed(Codec::int4_asym, 32, codes(-8, 7), {0.5f});
  row.zero_point = at::full({1, 1}, -6, at::kChar);
  const at::Tensor blocks = to_ggml_blocks(row, "a");
  EXPECT_EQ(bytes_of(blocks.narrow(1, 0, 5)),
            (std::vector<int64_t>{0, 0x38, 0, 0xBC, 0x80}));  // −1 is 0xBC00
  expect_same(from_ggml_blocks(GgmlType::q4_1, span_of(blocks), 1, 32, "a"), row);
}

TEST(GgmlBlocks, AnOffsetThatIsNoF16NumberIsRefused) {
  PackedTensor row = packed(Codec::int4_asym, 32, codes(0, 1), {1.0009765625f});  // 1 + 2^-10
  row.zero_point = at::full({1, 1}, 5, at::kChar);
  EXPECT_EQ(error_of([&] { to_ggml_blocks(row, "a"); }),
            "'a': the offset -13.012695 is no F16 number, which GGUF has; quantize the original with "
            "--layout gguf");
}

TEST(GgmlBlocks, Mxfp4IsTheExponentAndCodesInHalves) {
  PackedTensor row = packed(Codec::mxfp4, 32, {}, {});
  row.scale = at::full({1, 1}, 120, at::kByte);
  row.codes = at::zeros({1, 16}, at::kByte);
  row.codes[0][0] = 0x21;  // elements 0 and 1
  row.codes[0][8] = 0x0F;  // element 16
  const at::Tensor blocks = to_ggml_blocks(row, "a");
  std::vector<int64_t> expected(17, 0);
  expected[0] = 120;
  expected[1] = 0xF1;
  expected[2] = 0x02;
  EXPECT_EQ(bytes_of(blocks), expected);
  expect_same(from_ggml_blocks(GgmlType::mxfp4, span_of(blocks), 1, 32, "a"), row);
  row.scale.fill_(255);
  EXPECT_EQ(error_of([&] { to_ggml_blocks(row, "a"); }),
            "'a': a scale is NaN, which the MXFP4 of GGUF does not know");
}

TEST(GgmlBlocks, Nvfp4IsFourScalesAndCodesInHalvesOfSixteen) {
  PackedTensor row = packed(Codec::nvfp4, 16, {}, {}, 64);
  row.scale = at::tensor({0x38, 0x40, 0x7E, 0x01}, at::kByte).view({1, 4}).view(at::kFloat8_e4m3fn);
  row.codes = at::zeros({1, 32}, at::kByte);
  row.codes[0][0] = 0x21;   // elements 0 and 1
  row.codes[0][4] = 0x0F;   // element 8
  row.codes[0][31] = 0x70;  // element 63
  const at::Tensor blocks = to_ggml_blocks(row, "a");
  std::vector<int64_t> expected(36, 0);
  std::ranges::copy(std::vector<int64_t>{0x38, 0x40, 0x7E, 0x01, 0xF1, 0x02}, expected.begin());
  expected[35] = 0x70;
  EXPECT_EQ(bytes_of(blocks), expected);
  const PackedTensor read = from_ggml_blocks(GgmlType::nvfp4, span_of(blocks), 1, 64, "a");
  EXPECT_EQ(read.codec, Codec::nvfp4);
  EXPECT_EQ(read.block, 16);
  EXPECT_TRUE(read.codes.equal(row.codes));
  EXPECT_TRUE(read.scale.view(at::kByte).equal(row.scale.view(at::kByte)));
  const at::Tensor nan = at::full({1, 36}, 0x7F, at::kByte);
  EXPECT_EQ(error_of([&] { from_ggml_blocks(GgmlType::nvfp4, span_of(nan), 1, 64, "a"); }),
            "'a': a scale is negative or NaN");
  row.scale = nan.narrow(1, 0, 4).view(at::kFloat8_e4m3fn);
  EXPECT_EQ(error_of([&] { to_ggml_blocks(row, "a"); }),
            "'a': a scale is NaN, which the NVFP4 of GGUF does not know");
}

// Of super-blocks of one number each: Q4_K d = 1, dmin = 2, scales 33 and 5, minima 17 and 6 of the first and
// the last sub-block; Q6_K d = 0.5.
TEST(GgmlDequantize, ScalesAndCodesLieWhereLlamaCppHasThem) {
  at::Tensor block = at::zeros({1, 144}, at::kByte);
  const auto set = [&](int64_t at, int64_t byte) { block[0][at] = byte; };
  set(1, 0x3C);        // d
  set(3, 0x40);        // dmin
  set(4, 33);          // scale of sub-block 0; nothing above it
  set(8, 17);          // minimum of sub-block 0
  set(15, 0x65);       // sub-block 7: scale 5, minimum 6
  set(16, 0x09);       // column 0: 9
  set(16 + 96, 0x30);  // column 224: 3
  const at::Tensor values = dequantize_ggml(GgmlType::q4_k, span_of(block), 1, 256);
  EXPECT_EQ(values[0][0].item<float>(), 33 * 9 - 2 * 17);
  EXPECT_EQ(values[0][1].item<float>(), -2 * 17);
  EXPECT_EQ(values[0][32].item<float>(), 0);
  EXPECT_EQ(values[0][224].item<float>(), 5 * 3 - 2 * 6);

  block = at::zeros({1, 210}, at::kByte);
  set(0, 0x0F);    // column 0: 15 of the low bits
  set(128, 0x03);  // and 3 · 16: 63 − 32
  set(192, 0xFE);  // scale −2 of columns 0 … 15
  set(209, 0x38);  // d
  const at::Tensor six = dequantize_ggml(GgmlType::q6_k, span_of(block), 1, 256);
  EXPECT_EQ(six[0][0].item<float>(), 0.5 * -2 * 31);
  EXPECT_EQ(six[0][1].item<float>(), 0.5 * -2 * -32);
  EXPECT_EQ(six[0][16].item<float>(), 0);
}

TEST(GgmlBlocks, AScaleOfManyColumnsIsRepeatedAndFoundAgain) {
  for (const int64_t block : {0, 128, 64}) {
    const PackedTensor row = packed(Codec::int8, block, codes(3, -4, 256),
                                    std::vector<float>(block == 0 ? 1 : 256 / block, 0.25f), 256);
    const at::Tensor blocks = to_ggml_blocks(row, "a");
    EXPECT_EQ(blocks.size(1), 8 * 34);
    const PackedTensor fine = from_ggml_blocks(GgmlType::q8_0, span_of(blocks), 1, 256, "a");
    EXPECT_EQ(shared_columns(fine, {block}), block);
    expect_same(with_block(fine, block), row);
  }
  PackedTensor uneven = packed(Codec::int8, 32, codes(3, -4, 64), {0.25f, 0.5f}, 64);
  EXPECT_EQ(shared_columns(uneven, {0, 64}), 32);
}

TEST(GgmlBlocks, AScaleThatIsNoF16NumberIsRefused) {
  EXPECT_EQ(
      error_of([] { to_ggml_blocks(packed(Codec::int8, 0, codes(1, 1), {0.1f}), "a.b"); }),
      "'a.b': the scale 0.1 is no F16 number, which GGUF has; quantize the original with --layout gguf");
  EXPECT_NE(error_of([] { to_ggml_blocks(packed(Codec::int8, 0, codes(1, 1), {1e6f}), "a"); }), "");
}

TEST(GgmlBlocks, WhatHasAPlaceIsKnownFromTheScheme) {
  const auto type = [](const char* preset) { return ggml_type_of(find_preset(preset).scheme); };
  EXPECT_EQ(type("q8_0"), GgmlType::q8_0);
  EXPECT_EQ(type("q4_0"), GgmlType::q4_0);
  EXPECT_EQ(type("int8_wo"), GgmlType::q8_0);
  EXPECT_EQ(type("int4_awq"), GgmlType::q4_0);
  EXPECT_EQ(type("w4a16_asym"), GgmlType::q4_1);
  EXPECT_EQ(type("mxfp4"), GgmlType::mxfp4);
  EXPECT_EQ(type("nvfp4"), GgmlType::nvfp4);
  EXPECT_EQ(type("w4a16_nvfp4"), GgmlType::nvfp4);
  for (const char* preset : {"fp8", "w4a8_nvfp4_fp8", "nf4", "mxfp6", "mxfp8", "fp8_pb_wo"})
    EXPECT_FALSE(type(preset));
}

TEST(GgufText, HalvesOfHeadsAreInterleavedAndSeparated) {
  const at::Tensor rows = at::arange(8).view({8, 1});
  const at::Tensor expected = at::tensor({0, 2, 1, 3, 4, 6, 5, 7}, at::kLong).view({8, 1});
  EXPECT_TRUE(interleave_halves(rows, 2).equal(expected));
  EXPECT_TRUE(separate_halves(expected, 2).equal(rows));
}

TEST(GgufFile, WhatIsWrittenIsRead) {
  const fs::path path = fs::temp_directory_path() / "visq_gguf_test.gguf";
  const GgufMetadata metadata = {{"general.architecture", GgufValue::text("llama")},
                                 {"a.u32", GgufValue::u32(7)},
                                 {"a.f32", GgufValue::f32(0.5)},
                                 {"a.flag", GgufValue::flag(true)},
                                 {"a.texts", GgufValue::texts({"x", "", "▁y"})},
                                 {"a.i32s", GgufValue::i32s({-1, 2})},
                                 {"a.f32s", GgufValue::f32s({0.25, -1})},
                                 {"a.flags", GgufValue::flags({true, false})}};
  const at::Tensor vector = at::arange(3, at::kFloat), matrix = at::arange(34, at::kByte);
  {
    GgufWriter writer(path, metadata, {{"v", GgmlType::f32, {3}}, {"m", GgmlType::q8_0, {1, 32}}});
    writer.write("m", matrix);
    EXPECT_EQ(error_of([&] { writer.write("m", matrix); }), path.string() + ": tensor 'm' is written twice");
    EXPECT_EQ(error_of([&] { writer.close(); }),
              path.string() + ": tensor 'v' was planned but never written");
    writer.write("v", vector);
    writer.close();
  }
  const GgufFile file(path);
  ASSERT_EQ(file.metadata().size(), metadata.size());
  for (size_t i = 0; i < metadata.size(); ++i) {
    EXPECT_EQ(file.metadata()[i].first, metadata[i].first);
    EXPECT_EQ(file.metadata()[i].second.type, metadata[i].second.type);
    EXPECT_EQ(file.metadata()[i].second.data, metadata[i].second.data);
  }
  const GgufTensor& m = *file.find_tensor("m");
  EXPECT_EQ(m.shape, (std::vector<int64_t>{1, 32}));
  EXPECT_EQ(m.begin % kGgufAlignment, 0u);
  EXPECT_EQ(std::memcmp(file.bytes(m).data(), matrix.const_data_ptr(), 34), 0);
  EXPECT_EQ(file.find_tensor("v")->shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(file.number("a.u32"), 7u);
  EXPECT_NE(error_of([&] { file.text("a.u32"); }), "");
  fs::remove(path);
}

/// The demo model as a GGUF whose linears are BF16, but for the queries of layer 1.
fs::path write_demo(const GgufTextModel& text, const Checkpoint& checkpoint, GgmlType queries,
                    const at::Tensor& blocks) {
  const fs::path path = fs::temp_directory_path() / "visq_gguf_demo.gguf";
  std::vector<GgufPlannedTensor> planned;
  for (const GgufTextTensor& tensor : text.tensors())
    planned.push_back({tensor.name,
                       tensor.name == "blk.1.attn_q.weight" ? queries
                       : tensor.shape.size() == 1           ? GgmlType::f32
                                                            : GgmlType::bf16,
                       tensor.shape});
  GgufWriter writer(path, {{"general.architecture", GgufValue::text(text.architecture())}}, planned);
  for (size_t i = 0; i < planned.size(); ++i) {
    const GgufTextTensor& tensor = text.tensors()[i];
    const bool wide = planned[i].type == GgmlType::f32;
    const at::Tensor value = checkpoint.tensor(tensor.source).to(wide ? at::kFloat : at::kBFloat16);
    writer.write(tensor.name, tensor.name == "blk.1.attn_q.weight"
                                  ? blocks
                                  : interleave_halves(value, tensor.permuted_heads).contiguous());
  }
  writer.close();
  return path;
}

TEST(GgufStored, LinearsComeBackInTheirOrderAndOthersAsTheyWere) {
  const Checkpoint checkpoint(VISQ_SOURCE_DIR "/demo/model");
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const GgufTextModel text(model);
  const nn::LinearId q{nn::Role::q}, o{nn::Role::o};
  const PackedTensor expected = pack_int8(model.linear_weight(1, q), at::kHalf, 64);
  PackedTensor turned = expected;
  turned.codes = interleave_halves(expected.codes, 4);
  turned.scale = interleave_halves(expected.scale, 4);
  const fs::path path = write_demo(text, checkpoint, GgmlType::q8_0, to_ggml_blocks(turned, "q"));
  const auto stored = open_gguf(path, model);
  EXPECT_FALSE(stored->scheme(1, o));
  ASSERT_TRUE(stored->scheme(1, q));
  EXPECT_EQ(stored->scheme(1, q)->weight, Codec::int8);
  EXPECT_EQ(stored->scheme(1, q)->block, 64);
  expect_same(stored->read(1, q).weight, expected);
  for (const GgufTextTensor& tensor : text.tensors()) {
    if (tensor.name == "blk.1.attn_q.weight") continue;
    const auto other = stored->other(tensor.source);
    ASSERT_TRUE(other) << tensor.source;
    EXPECT_TRUE(other->equal(checkpoint.tensor(tensor.source))) << tensor.source;
  }
  EXPECT_FALSE(stored->other("nothing"));
  fs::remove(path);
}

TEST(GgufStored, ATypeThatIsNotReadIsNamed) {
  const Checkpoint checkpoint(VISQ_SOURCE_DIR "/demo/model");
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const GgufTextModel text(model);
  const auto iq3_s = static_cast<GgmlType>(21);
  const fs::path path = write_demo(text, checkpoint, iq3_s, at::zeros({256 * 110}, at::kByte));
  EXPECT_EQ(
      error_of([&] { open_gguf(path, model); }),
      path.string() +
          ": tensor 'blk.1.attn_q.weight' is IQ3_S, which visq does not read: matrices can be Q8_0, Q4_0, "
          "Q4_1, MXFP4, NVFP4, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, F32, F16 or "
          "BF16, other tensors the latter three");
  fs::remove(path);
}

TEST(GgufWriter, ShapesThatTheFormatDoesNotHaveAreRefused) {
  EXPECT_NE(error_of([] { GgufPlannedTensor{"a", GgmlType::q4_0, {2, 48}}.bytes(); }), "");
  EXPECT_NE(error_of([] { GgufPlannedTensor{std::string(64, 'a'), GgmlType::f32, {2}}.bytes(); }), "");
  EXPECT_EQ((GgufPlannedTensor{"a", GgmlType::mxfp4, {2, 64}}.bytes()), 2u * 2 * 17);
}

}  // namespace
}  // namespace visq

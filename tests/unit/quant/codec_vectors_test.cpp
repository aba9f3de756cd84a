// Worked numbers for every codec, and what it refuses. Sources: spec/quantization.md and spec/export.md, by
// section.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "visq/core/error.h"
#include "visq/quant/codec.h"

namespace visq {
namespace {

using Floats = std::vector<float>;
using Bytes = std::vector<int>;
using Codes = std::vector<int>;

at::Tensor matrix(const std::vector<Floats>& rows) {
  std::vector<at::Tensor> tensors;
  for (const Floats& row : rows) tensors.push_back(at::tensor(row));
  return at::stack(tensors);
}

/// A row, filled with zeros up to a multiple of 16.
at::Tensor padded_row(Floats values) {
  values.resize((values.size() + 15) / 16 * 16, 0.0f);
  return matrix({values});
}

Bytes bytes_of(const at::Tensor& x) {
  const at::Tensor bytes = x.contiguous().view(at::kByte).flatten();
  return {bytes.const_data_ptr<uint8_t>(), bytes.const_data_ptr<uint8_t>() + bytes.numel()};
}

Codes ints_of(const at::Tensor& x) {
  const at::Tensor ints = x.to(at::kInt).contiguous().flatten();
  return {ints.const_data_ptr<int>(), ints.const_data_ptr<int>() + ints.numel()};
}

Floats floats_of(const at::Tensor& x) {
  const at::Tensor floats = x.to(at::kFloat).contiguous().flatten();
  return {floats.const_data_ptr<float>(), floats.const_data_ptr<float>() + floats.numel()};
}

Codes nibbles_of(const at::Tensor& packed) {
  Codes codes;
  for (int byte : bytes_of(packed)) {
    codes.push_back(byte & 15);
    codes.push_back(byte >> 4);
  }
  return codes;
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "(no error)";
}

// E4M3: quantization.md §1.1, §3.2; export.md §9. amax 448 makes the scale 1.

TEST(Fp8, RoundsToNearestTiesToEven) {
  const at::Tensor w = matrix({{17, 19, 0x1p-10f, 3 * 0x1p-10f, 1.0625f, 1.1875f, 464, 0x1p-9f}});
  const PackedTensor packed = pack_fp8(w, 448.0f);
  EXPECT_EQ(packed.scale.item<float>(), 1.0f);
  EXPECT_EQ(packed.scale.dim(), 0);
  EXPECT_EQ(floats_of(packed.codes), (Floats{16, 20, 0, 0x1p-8f, 1.0f, 1.25f, 448, 0x1p-9f}));
}

TEST(Fp8, SaturatesWhatAGivenAmaxDoesNotReach) {
  const PackedTensor packed = pack_fp8(matrix({{448, 455, 464, 465, 480, 3e38f, -3e38f}}), 448.0f);
  EXPECT_EQ(bytes_of(packed.codes), (Bytes{0x7E, 0x7E, 0x7E, 0x7E, 0x7E, 0x7E, 0xFE}));
}

TEST(Fp8, KeepsTheSignOfZero) {
  EXPECT_EQ(bytes_of(pack_fp8(matrix({{0.0f, -0.0f, -1e-6f, 448}})).codes), (Bytes{0x00, 0x80, 0x80, 0x7E}));
}

TEST(Fp8, RoundsTheQuotientOnce) {
  // Q1: 0.56640625 / 0.00913783 = 61.98474 → 60; rounded to bf16 first it would be 62 and then 64.
  const PackedTensor packed = pack_fp8(matrix({{0.56640625f, 4.09375f}}).to(at::kBFloat16));
  EXPECT_NEAR(packed.scale.item<float>(), 0.00913783f, 1e-8f);
  EXPECT_EQ(floats_of(packed.codes), (Floats{60, 448}));
}

TEST(Fp8, SimulatesAnEnginesInput) {
  EXPECT_EQ(floats_of(simulate_fp8(at::tensor(Floats{0.3f, 500, -1000}), 1.0f)),
            (Floats{0.3125f, 448, -448}));
}

TEST(Fp8, PacksZerosWithScaleOne) {
  const PackedTensor packed = pack_fp8(at::zeros({2, 5}, at::kBFloat16));  // Q3
  EXPECT_EQ(packed.scale.item<float>(), 1.0f);
  EXPECT_EQ(bytes_of(packed.codes), Bytes(10, 0));
}

TEST(Fp8, PacksDenormalsWithANormalScale) {
  const PackedTensor packed = pack_fp8(matrix({{1e-45f, -1e-44f, 0}}));
  EXPECT_EQ(packed.scale.item<float>(), 0x1p-126f / 448);
  EXPECT_EQ(bytes_of(packed.codes), (Bytes{0x00, 0x80, 0x00}));  // 1e-45 is 5e-5 of a code
}

// E2M1: quantization.md §1.2, §5.5; export.md §9. amax 2688 makes scale_2 1, a block amax of 6 makes the
// block scale 1.

TEST(Nvfp4, RoundsByTheTieRule) {
  const Floats upper = {0,       .25f, .2500001f, .75f, .7499f,  1.25f, 1.2501f, 1.75f,
                        1.7499f, 2.5f, 2.51f,     3.5f, 3.4999f, 5,     5.01f,   6};
  const PackedTensor packed = pack_nvfp4(matrix({upper}), 2688.0f);
  EXPECT_EQ(packed.scale_2.item<float>(), 1.0f);
  EXPECT_EQ(floats_of(packed.scale), (Floats{1.0f}));
  EXPECT_EQ(nibbles_of(packed.codes), (Codes{0, 0, 1, 2, 1, 2, 3, 4, 3, 4, 5, 6, 5, 6, 7, 7}));
}

TEST(Nvfp4, GivesNegativeValuesThatRoundToZeroTheirSignButNotMinusZero) {
  const PackedTensor packed = pack_nvfp4(padded_row({-0.0f, -.1f, -.25f, -.75f, -5, 6}), 2688.0f);
  EXPECT_EQ(nibbles_of(packed.codes), (Codes{0, 8, 8, 10, 14, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Nvfp4, PacksTheEvenColumnIntoTheLowNibble) {
  const at::Tensor w = padded_row({6, 0, -.1f, .25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -.75f, -5});
  EXPECT_EQ(bytes_of(pack_nvfp4(w, 2688.0f).codes), (Bytes{0x07, 0x08, 0x22, 0x44, 0x66, 0xEA, 0, 0}));
}

TEST(Nvfp4, PacksARowOfThreeBlocks) {
  Floats row(48, 0.0f);  // §5.5
  for (size_t i = 0; i < 16; ++i) row[i] = 0.1f * static_cast<float>(i);
  row[32] = 6e-4f;
  const PackedTensor packed = pack_nvfp4(matrix({row}));
  EXPECT_FLOAT_EQ(packed.scale_2.item<float>(), 5.5803571e-4f);
  EXPECT_EQ(packed.scale_2.dim(), 0);
  EXPECT_EQ(floats_of(packed.scale), (Floats{448, 1, 0.171875f}));
  EXPECT_EQ(bytes_of(packed.codes), (Bytes{0x10, 0x22, 0x43, 0x54, 0x65, 0x66, 0x76, 0x77,  //
                                           0,    0,    0,    0,    0,    0,    0,    0,     //
                                           0x07, 0,    0,    0,    0,    0,    0,    0}));
  EXPECT_FLOAT_EQ(dequantize(packed)[0][32].item<float>(), 5.754743e-4f);
}

TEST(Nvfp4, KeepsTheBlockScaleAboveZero) {
  Floats row(32, 0.0f);  // Q6: 1e-3 / (6 · 1000/2688) is 4.48e-4, below the smallest E4M3
  row[0] = 1000;
  row[16] = 1e-3f;
  const PackedTensor packed = pack_nvfp4(matrix({row}));
  EXPECT_EQ(floats_of(packed.scale), (Floats{448, 0x1p-9f}));
  EXPECT_EQ(nibbles_of(packed.codes)[16], 3);  // 1e-3 / 7.266e-4 = 1.376 → 1.5
  EXPECT_FLOAT_EQ(dequantize(packed)[0][16].item<float>(), 1.5f * 7.2660896e-4f);
}

TEST(Nvfp4, SaturatesWhatAGivenAmaxDoesNotReach) {
  const PackedTensor packed = pack_nvfp4(padded_row({1, .5f}), 0.5f);  // Q23
  EXPECT_EQ(floats_of(packed.scale), (Floats{448}));
  const Floats values = floats_of(dequantize(packed));
  EXPECT_FLOAT_EQ(values[0], 0.5f);
  EXPECT_FLOAT_EQ(values[1], 0.5f);
}

TEST(Nvfp4, PacksZerosAsIfAmaxWereOne) {
  const PackedTensor packed = pack_nvfp4(at::zeros({2, 32}, at::kBFloat16));  // Q3
  EXPECT_EQ(packed.scale_2.item<float>(), 1.0f / 2688);
  EXPECT_EQ(floats_of(packed.scale), (Floats{1, 1, 1, 1}));
  EXPECT_EQ(bytes_of(packed.codes), Bytes(32, 0));
}

TEST(Nvfp4, PacksDenormalsWithAPositiveScale) {
  const PackedTensor packed = pack_nvfp4(padded_row({1e-45f, -1e-40f}));
  EXPECT_EQ(packed.scale_2.item<float>(), 0x1p-126f / 2688);
  EXPECT_TRUE(at::isfinite(packed.scale.to(at::kFloat)).all().item<bool>());
  EXPECT_EQ(nibbles_of(packed.codes)[0], 0);
  EXPECT_EQ(nibbles_of(packed.codes)[1], 15);
}

TEST(Nvfp4, SimulatesSmallBlocksWithoutModelOptsFloor) {
  const Floats values = floats_of(simulate_nvfp4(padded_row({5e-5f, 2e-5f}), 1.0f / 2688));  // Q5
  EXPECT_NEAR(values[0], 4.7956e-5f, 1e-9f);
  EXPECT_NEAR(values[1], 2.3978e-5f, 1e-9f);
}

TEST(Nvfp4, SimulatesZerosAsZeros) {
  EXPECT_EQ(floats_of(simulate_nvfp4(at::zeros({1, 32}), 1.0f / 2688)), Floats(32, 0.0f));
}

TEST(Nvfp4, InBlocksOf32KeepsTheProductOfCodeAndScaleWithinFp8) {
  Floats row(64, 0.0f);
  row[0] = 12;
  row[33] = -3;
  const PackedTensor packed = pack_nvfp4(matrix({row}), std::nullopt, 32, kFp8Max);
  EXPECT_EQ(packed.scale_2.item<float>(), 12.0f / 448);
  EXPECT_EQ(floats_of(packed.scale), (Floats{72, 18}));  // 448/6 = 74.67 → 72; 112/6 = 18.67 → 18
  EXPECT_EQ(packed.block, 32);
  EXPECT_EQ(nibbles_of(packed.codes)[0], 7);
  EXPECT_EQ(nibbles_of(packed.codes)[33], 15);
  EXPECT_FLOAT_EQ(dequantize(packed)[0][0].item<float>(), 6 * 72 * (12.0f / 448));
  EXPECT_THROW(pack_nvfp4(matrix({row}), std::nullopt, 64), Error);
}

// MX: quantization.md §3.5, §5.6, §5.10, Q10; export.md §9.

/// A block of 32, zeros at its end.
at::Tensor block_of(Floats values) {
  values.resize(32, 0.0f);
  return matrix({values});
}

Bytes first(Bytes bytes, size_t n) {
  bytes.resize(n);
  return bytes;
}

TEST(Mxfp4, RoundsTiesDownAndGivesZeroTheSignBit) {
  const PackedTensor packed = pack_mx(block_of({0, .25f, .75f, 1.75f, 2.5f, 3.5f, 5, 6}), Codec::mxfp4);
  EXPECT_EQ(bytes_of(packed.scale), Bytes{127});
  EXPECT_EQ(first(bytes_of(packed.codes), 5), (Bytes{0x08, 0x31, 0x54, 0x76, 0x88}));
  const at::Tensor w = block_of({6, 0, -.1f, .25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, -.75f, -5, -0.0f});
  EXPECT_EQ(first(bytes_of(pack_mx(w, Codec::mxfp4).codes), 7),
            (Bytes{0x87, 0x08, 0x21, 0x43, 0x65, 0xE9, 0x88}));
}

TEST(Mxfp4, SimulatesTiesToEven) {
  const at::Tensor x = block_of({.25f, .75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, 6, -.75f});
  const Floats values = floats_of(simulate_mx(x, Codec::mxfp4));
  EXPECT_EQ(Floats(values.begin(), values.begin() + 9), (Floats{0, 1, 1, 2, 2, 4, 4, 6, -1}));
  EXPECT_EQ(dequantize(pack_mx(x, Codec::mxfp4))[0][1].item<float>(), 0.5f);
}

TEST(Mx, PacksZeroBlocksWithTheSmallestScale) {
  const at::Tensor zeros = at::zeros({2, 32}, at::kBFloat16);
  for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8, Codec::mxint8}) {
    const PackedTensor packed = pack_mx(zeros, codec);
    EXPECT_EQ(bytes_of(packed.scale), (Bytes{0, 0}));
    EXPECT_EQ(bytes_of(packed.codes),
              Bytes(static_cast<size_t>(8 * mx_bits(codec)), codec == Codec::mxfp4 ? 0x88 : 0));
    EXPECT_EQ(floats_of(dequantize(packed)), Floats(64, 0.0f));
    EXPECT_EQ(floats_of(simulate_mx(zeros, codec)), Floats(64, 0.0f));
  }
}

TEST(Mxfp8, DoublesTheScaleJustAbove448) {
  const PackedTensor packed = pack_mx(block_of({450, 448, -449, 17}), Codec::mxfp8);
  EXPECT_EQ(bytes_of(packed.scale), Bytes{128});
  const Floats codes = floats_of(packed.codes);
  EXPECT_EQ(Floats(codes.begin(), codes.begin() + 4), (Floats{224, 224, -224, 8}));
  EXPECT_EQ(bytes_of(pack_mx(block_of({448}), Codec::mxfp8).scale), Bytes{127});
}

TEST(Mx, TakesTheExactPowerOfTwoOneUlpAboveAPower) {
  // amax / fmax = 2^10 · (1 + 2^-23): a logarithm in f32 says 10, and 448 · 2^10 would not hold it (§5.6).
  for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8}) {
    const float power = mx_max(codec) * 0x1p10f;
    EXPECT_EQ(bytes_of(pack_mx(block_of({power}), codec).scale), Bytes{137});
    EXPECT_EQ(bytes_of(pack_mx(block_of({std::nextafter(power, 1e9f)}), codec).scale), Bytes{138});
  }
}

TEST(Mx, ScalesReachFromDenormalsToTheLargestNumbers) {
  for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8}) {
    const auto byte_of = [&](double ratio) {
      return bytes_of(pack_mx(block_of({static_cast<float>(ratio * mx_max(codec))}), codec).scale).front();
    };
    EXPECT_EQ(byte_of(0x1p-127), 0);
    EXPECT_EQ(byte_of(0x1.8p-127), 1);
    EXPECT_EQ(byte_of(0x1p-126), 1);
    EXPECT_EQ(byte_of(0x1.8p-126), 2);
  }
  EXPECT_EQ(bytes_of(pack_mx(block_of({3e38f}), Codec::mxfp4).scale), Bytes{253});  // 5e37 ≤ 2^126
}

TEST(Mxfp6, PacksFourColumnsInThreeBytes) {
  // 28, 0, 2^-4 and −1.75 are the codes 31, 0, 1 and 32 + 15.
  const PackedTensor packed = pack_mx(block_of({28, 0, 0x1p-4f, -1.75f, -28}), Codec::mxfp6);
  EXPECT_EQ(bytes_of(packed.scale), Bytes{127});
  // 011111 | 000000 | 000001 | 101111 from the lowest bits: 0x1F + (1 << 12) + (0x2F << 18) = 0xBC101F.
  EXPECT_EQ(first(bytes_of(packed.codes), 6), (Bytes{0x1F, 0x10, 0xBC, 0x3F, 0x00, 0x00}));
  EXPECT_EQ(packed.codes.sizes(), (at::IntArrayRef{1, 24}));
}

TEST(Mxfp6, RoundsHalvesToEven) {
  const at::Tensor x = block_of({28, 26, 22, 1.125f, 1.375f, 0x1p-5f, 0x3p-5f, -27.9f});
  const Floats values = floats_of(dequantize(pack_mx(x, Codec::mxfp6)));
  EXPECT_EQ(Floats(values.begin(), values.begin() + 8), (Floats{28, 24, 24, 1, 1.5f, 0, 0x1p-3f, -28}));
  EXPECT_EQ(floats_of(simulate_mx(x, Codec::mxfp6)), values);
}

TEST(Mxint8, RoundsHalvesToEvenAndIntegersStandForThemselves) {
  const PackedTensor packed = pack_mx(block_of({127, 0.5f, 1.5f, -2.5f, -127}), Codec::mxint8);
  EXPECT_EQ(bytes_of(packed.scale), Bytes{127});
  const Codes codes = ints_of(packed.codes);
  EXPECT_EQ(Codes(codes.begin(), codes.begin() + 5), (Codes{127, 0, 2, -2, -127}));
  EXPECT_EQ(bytes_of(pack_mx(block_of({128}), Codec::mxint8).scale), Bytes{128});
}

TEST(Mx, RefusesWhatItCannotHold) {
  for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8, Codec::mxint8}) {
    EXPECT_NE(message_of([&] { pack_mx(at::ones({2, 48}), codec); }).find("block of 32"), std::string::npos);
    EXPECT_THROW(simulate_mx(at::ones({2, 48}), codec), Error);
    at::Tensor w = at::ones({3, 160});
    w[2][133] = -std::numeric_limits<float>::infinity();
    EXPECT_NE(message_of([&] { pack_mx(w, codec); }).find("the first at element 453"), std::string::npos);
  }
}

// INT8: quantization.md §5.4, §3.1.

TEST(Int8, RoundsHalvesToEven) {
  const PackedTensor packed = pack_int8(matrix({{0.5f, 1.5f, 2.5f, -0.5f, 127}}));
  EXPECT_EQ(floats_of(packed.scale), (Floats{1}));
  EXPECT_EQ(ints_of(packed.codes), (Codes{0, 2, 2, 0, 127}));
}

TEST(Int8, GivesEachRowItsScale) {
  const PackedTensor packed = pack_int8(matrix({{254, -254, 3}, {0, 0, 0}, {0.5f, -1, 0.25f}}));
  EXPECT_EQ(floats_of(packed.scale), (Floats{2, 1, 1.0f / 127}));
  EXPECT_EQ(ints_of(packed.codes), (Codes{127, -127, 2, 0, 0, 0, 64, -127, 32}));
}

TEST(Int8, ComputesTheCodesFromTheScaleThatIsStored) {
  // 100/127 = 0.78740 is 0.7890625 in bf16; 64.7/0.78740 = 82.17, 64.7/0.7890625 = 81.996:
  // equal; 65.5: 83.19, 83.01; 99/0.78740 = 125.73 → 126, 99/0.7890625 = 125.47 → 125.
  const PackedTensor packed = pack_int8(matrix({{100, 99}}), at::kBFloat16);
  EXPECT_EQ(floats_of(packed.scale), (Floats{0.7890625f}));
  EXPECT_EQ(ints_of(packed.codes), (Codes{127, 125}));
}

TEST(Int8, KeepsAStoredScalePositiveAndFinite) {
  const PackedTensor small = pack_int8(matrix({{1e-9f, -1e-6f}}), at::kHalf);
  EXPECT_EQ(floats_of(small.scale), (Floats{0x1p-24f}));
  EXPECT_EQ(ints_of(small.codes), (Codes{0, -17}));  // 1e-6 · 2^24 = 16.78
  const PackedTensor large = pack_int8(matrix({{1e30f, -1e30f, 6.5504e6f}}), at::kHalf);
  EXPECT_EQ(floats_of(large.scale), (Floats{65504}));
  EXPECT_EQ(ints_of(large.codes), (Codes{127, -128, 100}));
}

TEST(Int8, PacksDenormalsWithAPositiveScale) {
  const PackedTensor packed = pack_int8(matrix({{1e-45f, -1e-38f}}));
  EXPECT_EQ(floats_of(packed.scale), (Floats{0x1p-126f / 127}));
  EXPECT_EQ(ints_of(packed.codes), (Codes{0, -108}));  // 127 · 1e-38 / 2^-126 = 108.04
}

TEST(Int8, SimulatesAnEnginesInput) {
  const at::Tensor x = at::tensor(Floats{0.5f, 1.5f, 2.5f, -0.5f, 127, -128.4f});
  EXPECT_EQ(floats_of(simulate_int8(x, 1.0f)), (Floats{0, 2, 2, 0, 127, -128}));
  const Floats values = floats_of(simulate_int8(at::tensor(Floats{0.00394f, -1.5f, 1.5f}), 1.0f / 127));
  EXPECT_FLOAT_EQ(values[0], 0.007874016f);  // 0.50038 of a code rounds to 1
  EXPECT_FLOAT_EQ(values[1], -1.0078740f);
  EXPECT_FLOAT_EQ(values[2], 1.0f);
}

// INT4: quantization.md §5.8, §5.10; export.md §5.2, §9.

TEST(Int4, RoundsHalvesToEvenAndPairsRows) {
  const at::Tensor codes = pack_int4(matrix({{7, -7, 3.5f, -3.5f}, {7, 2, -6.5f, 0.5f}}), 4).codes;
  EXPECT_EQ(ints_of(codes), (Codes{7, -7, 4, -4, 7, 2, -6, 0}));
  EXPECT_EQ(bytes_of(int4_to_row_pairs(codes)), (Bytes{0x77, 0x29, 0xA4, 0x0C}));
}

TEST(Int4, PacksTwoRowsAByte) {
  const PackedTensor packed = pack_int4(matrix({{1, -2, 3, 7}, {-7, 0, 5, -1}}), 4);
  EXPECT_EQ(floats_of(packed.scale), (Floats{1, 1}));
  EXPECT_EQ(packed.block, 4);
  EXPECT_EQ(bytes_of(int4_to_row_pairs(packed.codes)), (Bytes{0x91, 0x0E, 0x53, 0xF7}));

  const at::Tensor codes = at::tensor(Codes{7, -7, 4, -4, 1, 2, -8, 0}).to(at::kChar).view({2, 4});
  const at::Tensor bytes = int4_to_row_pairs(codes);
  EXPECT_EQ(bytes_of(bytes), (Bytes{0x17, 0x29, 0x84, 0x0C}));
  EXPECT_TRUE(at::equal(int4_from_row_pairs(bytes), codes));
}

TEST(Int4, PacksEightColumnsAWord) {
  const at::Tensor codes = at::arange(-8, 8, at::kChar).view({2, 8});
  const at::Tensor words = int4_to_words(codes);
  EXPECT_EQ(ints_of(words), (Codes{0x76543210, static_cast<int>(0xFEDCBA98)}));
  EXPECT_TRUE(at::equal(int4_from_words(words), codes));
}

// spec/export.md §9: codes 0…7 of n…n+7.
TEST(Int4, ReordersWordsAsAutoAwqHasThem) {
  const at::Tensor words = int4_to_words(at::arange(-8, 8, at::kChar).view({2, 8}));
  const at::Tensor reordered = words_to_awq_order(words);
  EXPECT_EQ(ints_of(reordered), (Codes{0x75316420, static_cast<int>(0xFDB9ECA8)}));
  EXPECT_TRUE(at::equal(words_from_awq_order(reordered), words));
  const at::Tensor any = at::randint(-(int64_t{1} << 31), int64_t{1} << 31, {13, 7}, at::kInt);
  EXPECT_TRUE(at::equal(words_from_awq_order(words_to_awq_order(any)), any));
}

TEST(Int4, GivesEachBlockItsScaleAndZeroBlocksOne) {
  const PackedTensor packed = pack_int4(matrix({{14, -7, 0, 0}, {0.7f, 0.1f, -21, 10.5f}}), 2);
  EXPECT_EQ(floats_of(packed.scale), (Floats{2, 1, 0.7f / 7, 3}));
  EXPECT_EQ(packed.scale.sizes(), (at::IntArrayRef{2, 2}));
  EXPECT_EQ(ints_of(packed.codes), (Codes{7, -4, 0, 0, 7, 1, -7, 4}));  // −3.5 → −4, 3.5 → 4
  EXPECT_EQ(floats_of(dequantize(packed)), (Floats{14, -8, 0, 0, 7 * (0.7f / 7), 0.7f / 7, -21, 12}));
}

// What is refused.

TEST(Codec, RefusesNanAndInfinity) {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, -nan, infinity, -infinity})
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      at::Tensor w = at::ones({3, 144}, dtype);
      w[2][133] = bad;
      const char* found = "holds 1 NaN or infinite values, the first at element 421";
      for (const auto& pack : std::vector<std::function<void()>>{
               [&] { absolute_maximum(w); }, [&] { pack_fp8(w); }, [&] { pack_fp8(w, 1.0f); },
               [&] { pack_int8(w); }, [&] { pack_int4(w, 16); }, [&] { pack_nvfp4(w); },
               [&] { pack_nvfp4(w, 1.0f); }})
        EXPECT_NE(message_of(pack).find(found), std::string::npos) << message_of(pack);
    }
}

TEST(Codec, RefusesBlocksThatDoNotDivideTheColumns) {
  const at::Tensor w = at::ones({4, 40});
  EXPECT_NE(message_of([&] { pack_nvfp4(w); }).find("40 columns"), std::string::npos);
  EXPECT_NE(message_of([&] { pack_int4(w, 128); }).find("block of 128"), std::string::npos);
  EXPECT_THROW(pack_int4(w, 0), Error);
  EXPECT_THROW(simulate_nvfp4(w, 1.0f), Error);
}

TEST(Codec, RefusesOtherTypesAndShapes) {
  EXPECT_THROW(pack_fp8(at::ones({2, 2}, at::kInt)), Error);
  EXPECT_THROW(pack_int8(at::ones({2})), Error);
  EXPECT_THROW(pack_int8(at::ones({0, 4})), Error);
  EXPECT_THROW(pack_int8(at::ones({2, 2}), at::kInt), Error);
  EXPECT_THROW(pack_fp8(at::ones({2, 2}), -1.0f), Error);
  EXPECT_THROW(simulate_fp8(at::ones({2, 2}), 0.0f), Error);
  EXPECT_THROW(dequantize(pack_fp8(at::ones({2, 2})), at::kInt), Error);
  EXPECT_THROW(int4_to_row_pairs(at::zeros({3, 4}, at::kChar)), Error);
  EXPECT_THROW(int4_to_words(at::zeros({4, 12}, at::kChar)), Error);
  EXPECT_THROW(words_to_awq_order(at::zeros({4, 8}, at::kLong)), Error);
}

TEST(Codec, ReadsTensorsThatAreNotContiguous) {
  const at::Tensor w = at::randn({32, 48});
  EXPECT_TRUE(at::equal(pack_nvfp4(w.t()).codes, pack_nvfp4(w.t().contiguous()).codes));
}

}  // namespace
}  // namespace visq

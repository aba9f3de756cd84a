// The CPU kernels, at every vector width, against the ATen twin and against a plain reference.
#include "visq/quant/codec_backend.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <bit>
#include <cmath>
#include <limits>

#include "visq/core/error.h"
#include "visq/quant/codec.h"

namespace visq {
namespace {

// ATen's generators and casts on random bits prepare the inputs; nothing below shares code with the codecs.

/// Floats with any finite bit pattern.
at::Tensor random_bits(int64_t rows, int64_t columns) {
  const at::Tensor bits = at::randint(std::numeric_limits<int32_t>::min(),
                                      std::numeric_limits<int32_t>::max(), {rows, columns}, at::kInt);
  const at::Tensor floats = bits.view(at::kFloat);
  return at::where(at::isfinite(floats), floats, at::zeros_like(floats));
}

struct Weight {
  std::string name;
  at::Tensor values;  // f32
};

std::vector<Weight> adversarial_weights(int64_t columns) {
  at::manual_seed(7);
  const int64_t rows = 5;
  const at::Tensor gauss = at::randn({rows, columns});
  std::vector<Weight> weights = {{"gauss", gauss * 0.02},
                                 {"heavy tails", gauss / at::randn({rows, columns}).abs().clamp_min(1e-3)},
                                 {"zeros", at::zeros({rows, columns})},
                                 {"minus zeros", -at::zeros({rows, columns})},
                                 {"any bits", random_bits(rows, columns)},
                                 {"denormals", gauss * 1e-39},
                                 {"smallest denormals", gauss.sign() * 1.5e-45},
                                 {"largest bf16", gauss.sign() * 3.3895314e38},
                                 // Small multiples of powers of two are ties of every format for some amax.
                                 {"ties", at::randint(-64, 65, {rows, columns}).to(at::kFloat) * 0.125}};
  Weight outliers{"one outlier a row", gauss * 1e-3};
  outliers.values.select(1, columns / 2).fill_(900.0f);
  Weight mixed{"zero row, zero blocks, minus zero, denormal", gauss.clone()};
  mixed.values[0].zero_();
  mixed.values[1].slice(0, 0, columns / 2).zero_();
  mixed.values[2].slice(0, 0, columns / 2).fill_(-0.0f);
  mixed.values[3].slice(0, 0, columns / 2).mul_(1e-40);
  weights.push_back(outliers);
  weights.push_back(mixed);
  return weights;
}

const std::vector<at::ScalarType> kTypes = {at::kFloat, at::kBFloat16, at::kHalf};

/// The weight in `dtype`, saturated to its range.
at::Tensor in_type(const Weight& weight, at::ScalarType dtype) {
  const double limit = dtype == at::kHalf ? 65504.0 : 3.3895314e38;
  return weight.values.clamp(-limit, limit).to(dtype);
}

/// Same bits; NaN equals NaN.
::testing::AssertionResult same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type())
    return ::testing::AssertionFailure() << "shape";
  const at::ScalarType ints = a.element_size() == 4   ? at::kInt
                              : a.element_size() == 2 ? at::kShort
                                                      : at::kByte;
  at::Tensor same = a.contiguous().view(ints) == b.contiguous().view(ints);
  if (a.is_floating_point()) same = same | (at::isnan(a.to(at::kFloat)) & at::isnan(b.to(at::kFloat)));
  const int64_t different = same.numel() - same.sum().item<int64_t>();
  if (different == 0) return ::testing::AssertionSuccess();
  const int64_t first = same.flatten().to(at::kByte).argmin().item<int64_t>();
  return ::testing::AssertionFailure() << different << " differ, the first at " << first << ": "
                                       << a.to(at::kFloat).flatten()[first].item<float>() << " and "
                                       << b.to(at::kFloat).flatten()[first].item<float>();
}

/// Runs each test with one set of vector instructions.
class CodecTwins : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override {
    hwy::SetSupportedTargetsForTest(GetParam());
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  void TearDown() override {
    hwy::SetSupportedTargetsForTest(0);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
  const CodecBackend& cpu = cpu_codecs();
  const CodecBackend& aten = aten_codecs();

  template <class Body>
  void for_weights(const std::vector<int64_t>& widths, const Body& body) {
    for (const int64_t columns : widths)
      for (const Weight& weight : adversarial_weights(columns))
        for (const at::ScalarType dtype : kTypes) {
          SCOPED_TRACE(weight.name + ", " + std::to_string(columns) + " columns, " + c10::toString(dtype));
          body(in_type(weight, dtype));
        }
  }
};

std::vector<int64_t> targets() {
  std::vector<int64_t> supported = {HWY_STATIC_TARGET};
  for (const int64_t target : {HWY_AVX3, HWY_AVX2})
    if (HWY_ARCH_X86 && (hwy::SupportedTargets() & target) && target != HWY_STATIC_TARGET)
      supported.push_back(target);
  return supported;
}

INSTANTIATE_TEST_SUITE_P(Widths, CodecTwins, ::testing::ValuesIn(targets()),
                         [](const auto& instance) { return std::string(hwy::TargetName(instance.param)); });

// Whole vectors, tails, single columns; runs longer than the 256 values that the kernels take at a time.
const std::vector<int64_t> kWidths = {1, 7, 16, 33, 250, 1040};
const std::vector<int64_t> kBlockWidths = {16, 48, 272, 528};
const std::vector<int64_t> kWideBlockWidths = {32, 96, 288, 544};
const std::vector<Codec> kMx = {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8, Codec::mxint8};

TEST_P(CodecTwins, FindTheSameMaximum) {
  for_weights(kWidths,
              [&](const at::Tensor& w) { EXPECT_EQ(cpu.absolute_maximum(w), aten.absolute_maximum(w)); });
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const int64_t at_element : {0, 17, 32}) {
      at::Tensor w = at::ones({33});
      w[at_element] = bad;
      EXPECT_FALSE(std::isfinite(cpu.absolute_maximum(w)));
      EXPECT_FALSE(std::isfinite(aten.absolute_maximum(w)));
    }
}

TEST_P(CodecTwins, EncodeTheSameFp8) {
  for_weights(kWidths, [&](const at::Tensor& w) {
    for (const float amax : {aten.absolute_maximum(w), 0.5f}) {
      const float scale = scale_for(amax, kFp8Max, at::kFloat);
      EXPECT_TRUE(same_bits(cpu.encode_fp8(w, scale), aten.encode_fp8(w, scale)));
    }
  });
}

// Whole rows; blocks that divide neither extent; blocks larger than the matrix.
const std::vector<std::pair<int64_t, int64_t>> kFp8Blocks = {{1, 0}, {2, 16}, {4, 24}, {128, 128}};

TEST_P(CodecTwins, EncodeTheSameFp8InBlocks) {
  for_weights(kWidths, [&](const at::Tensor& w) {
    for (const auto& [rows, columns] : kFp8Blocks)
      for (const at::ScalarType scale_dtype : kTypes) {
        const int64_t across = columns == 0 ? w.size(1) : columns;
        const EncodedMatrix a = cpu.encode_fp8_blocks(w, rows, across, scale_dtype),
                            b = aten.encode_fp8_blocks(w, rows, across, scale_dtype);
        ASSERT_EQ(a.scale.size(0), (w.size(0) + rows - 1) / rows);
        ASSERT_EQ(a.scale.size(1), (w.size(1) + across - 1) / across);
        EXPECT_TRUE(same_bits(a.codes, b.codes));
        EXPECT_TRUE(same_bits(a.scale, b.scale));
        for (const at::ScalarType dtype : kTypes)
          EXPECT_TRUE(same_bits(cpu.decode_fp8_blocks(a.codes, a.scale, rows, across, dtype),
                                aten.decode_fp8_blocks(a.codes, a.scale, rows, across, dtype)));
      }
  });
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    at::Tensor w = at::ones({5, 40});
    w[4][39] = bad;
    for (const CodecBackend* codecs : {&cpu, &aten})
      for (const auto& [rows, columns] : kFp8Blocks)
        EXPECT_FALSE(codecs->encode_fp8_blocks(w, rows, std::max<int64_t>(columns, 16), at::kFloat).finite);
  }
}

TEST_P(CodecTwins, EncodeTheSameIntegers) {
  for_weights(kWidths, [&](const at::Tensor& w) {
    for (const at::ScalarType scale_dtype : kTypes)
      for (const int code_max : {127, 7}) {
        const EncodedMatrix a = cpu.encode_int(w, w.size(1), code_max, scale_dtype);
        const EncodedMatrix b = aten.encode_int(w, w.size(1), code_max, scale_dtype);
        EXPECT_TRUE(same_bits(a.codes, b.codes));
        EXPECT_TRUE(same_bits(a.scale, b.scale));
      }
  });
  for_weights({48, 240}, [&](const at::Tensor& w) {
    for (const int64_t block : {8, 24}) {
      const EncodedMatrix a = cpu.encode_int(w, block, 7, at::kFloat),
                          b = aten.encode_int(w, block, 7, at::kFloat);
      EXPECT_TRUE(same_bits(a.codes, b.codes));
      EXPECT_TRUE(same_bits(a.scale, b.scale));
    }
  });
}

TEST_P(CodecTwins, EncodeTheSameZeroPoints) {
  const auto expect_same = [&](const at::Tensor& w, int64_t block, at::ScalarType scale_dtype) {
    const EncodedMatrix a = cpu.encode_int4_asym(w, block, scale_dtype),
                        b = aten.encode_int4_asym(w, block, scale_dtype);
    EXPECT_TRUE(a.finite && b.finite);
    EXPECT_TRUE(same_bits(a.codes, b.codes));
    EXPECT_TRUE(same_bits(a.scale, b.scale));
    EXPECT_TRUE(same_bits(a.zero_point, b.zero_point));
  };
  for_weights(kWidths, [&](const at::Tensor& w) {
    for (const at::ScalarType scale_dtype : kTypes) {
      expect_same(w, w.size(1), scale_dtype);
      expect_same(w.abs(), w.size(1), scale_dtype);
      expect_same(-w.abs(), w.size(1), scale_dtype);
    }
  });
  for_weights({48, 240}, [&](const at::Tensor& w) {
    for (const int64_t block : {8, 24}) expect_same(w, block, at::kFloat);
  });
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    at::Tensor w = at::ones({3, 40});
    w[2][37] = bad;
    for (const CodecBackend* codecs : {&cpu, &aten})
      EXPECT_FALSE(codecs->encode_int4_asym(w, 8, at::kFloat).finite);
  }
}

TEST_P(CodecTwins, EncodeTheSameNvfp4) {
  for (const int64_t block : {16, 32})
    for_weights(block == 16 ? kBlockWidths : kWideBlockWidths, [&](const at::Tensor& w) {
      for (const float amax : {std::max(aten.absolute_maximum(w), kSmallestAmax), 0.5f, 2688.0f})
        for (const float range : {kNvfp4Max, kFp8Max}) {
          const EncodedMatrix a = cpu.encode_nvfp4(w, block, amax / range),
                              b = aten.encode_nvfp4(w, block, amax / range);
          ASSERT_EQ(a.scale.size(1), w.size(1) / block);
          EXPECT_TRUE(same_bits(a.scale, b.scale));
          EXPECT_TRUE(same_bits(a.codes, b.codes));
          const at::Tensor scale_2 = at::scalar_tensor(amax / range, at::kFloat);
          EXPECT_TRUE(same_bits(cpu.decode_nvfp4(a.codes, a.scale, scale_2, at::kBFloat16),
                                aten.decode_nvfp4(a.codes, a.scale, scale_2, at::kBFloat16)));
        }
    });
}

TEST_P(CodecTwins, EncodeDecodeAndSimulateTheSameMx) {
  for (const Codec codec : kMx) {
    SCOPED_TRACE(codec_name(codec));
    for_weights({32, 288}, [&](const at::Tensor& w) {
      const EncodedMatrix a = cpu.encode_mx(w, codec), b = aten.encode_mx(w, codec);
      EXPECT_TRUE(a.finite && b.finite);
      EXPECT_TRUE(same_bits(a.scale, b.scale));
      EXPECT_TRUE(same_bits(a.codes, b.codes));
      for (const at::ScalarType dtype : kTypes)
        EXPECT_TRUE(same_bits(cpu.decode_mx(a.codes, a.scale, codec, dtype),
                              aten.decode_mx(a.codes, a.scale, codec, dtype)));

      const at::Tensor x = w.view({5, 1, -1}).clone();
      x[1][0][3] = std::numeric_limits<float>::quiet_NaN();
      x[2][0][5] = -std::numeric_limits<float>::infinity();
      const at::Tensor y = cpu.simulate_mx(x, codec);
      EXPECT_TRUE(same_bits(y, aten.simulate_mx(x, codec)));
      EXPECT_TRUE(at::isnan(y[1][0].slice(0, 0, 32)).all().item<bool>());
      EXPECT_EQ(at::isnan(y).sum().item<int64_t>(), 32);
      EXPECT_EQ(y[2][0][5].item<float>(), -mx_max(codec));
    });
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      at::Tensor w = at::ones({3, 544});
      w[2][543] = bad;
      EXPECT_FALSE(cpu.encode_mx(w, codec).finite);
      EXPECT_FALSE(aten.encode_mx(w, codec).finite);
    }
  }
}

TEST_P(CodecTwins, DecodeEveryMxCodeWithEveryScaleTheSameWay) {
  for (const Codec codec : kMx) {
    SCOPED_TRACE(codec_name(codec));
    const int64_t codes = 256 * 32 * mx_bits(codec) / 8;  // a row of 32 values a scale
    const at::Tensor bytes = at::arange(codes, at::kInt).to(at::kByte).view({256, -1}).view(mx_dtype(codec));
    const at::Tensor scale = at::arange(256, at::kInt).to(at::kByte).view({256, 1});
    for (const at::ScalarType dtype : kTypes) {
      const at::Tensor values = cpu.decode_mx(bytes, scale, codec, dtype);
      EXPECT_TRUE(same_bits(values, aten.decode_mx(bytes, scale, codec, dtype)));
      EXPECT_TRUE(at::isnan(values[255]).all().item<bool>());
    }
  }
}

TEST_P(CodecTwins, DecodeTheSameValues) {
  for_weights({16, 272}, [&](const at::Tensor& w) {
    for (const at::ScalarType dtype : kTypes)
      for (const PackedTensor& packed : {pack_fp8(w), pack_int8(w), pack_int4(w, 8), pack_nvfp4(w)}) {
        SCOPED_TRACE(codec_name(packed.codec));
        const auto decode = [&](const CodecBackend& codecs) {
          if (packed.codec == Codec::fp8_e4m3) return codecs.decode_fp8(packed.codes, packed.scale, dtype);
          if (packed.codec == Codec::nvfp4)
            return codecs.decode_nvfp4(packed.codes, packed.scale, packed.scale_2, dtype);
          return codecs.decode_int(packed.codes, packed.scale, dtype);
        };
        EXPECT_TRUE(same_bits(decode(cpu), decode(aten)));
      }
  });
}

TEST_P(CodecTwins, DecodeEveryFp8CodeWithAnyScaleToEveryType) {
  const at::Tensor codes = at::arange(256, at::kInt).to(at::kByte).view(at::kFloat8_e4m3fn).view({1, 256});
  at::manual_seed(3);
  for (const at::Tensor& scale : random_bits(300, 1).abs().unbind(0))
    for (const at::ScalarType dtype : kTypes)
      EXPECT_TRUE(same_bits(cpu.decode_fp8(codes, scale, dtype), aten.decode_fp8(codes, scale, dtype)));
  for (int exponent = -40; exponent < 20; ++exponent) {  // around the edges of f16, with ties
    const at::Tensor scale = at::scalar_tensor(std::ldexp(1.0f + 0x1p-10f + 0x1p-11f, exponent), at::kFloat);
    EXPECT_TRUE(same_bits(cpu.decode_fp8(codes, scale, at::kHalf), aten.decode_fp8(codes, scale, at::kHalf)));
  }
}

TEST_P(CodecTwins, SimulateTheSameInputs) {
  for_weights({16, 272}, [&](const at::Tensor& w) {
    at::Tensor x = w.view({5, 1, -1}).clone();
    x[1][0][3] = std::numeric_limits<float>::quiet_NaN();
    x[2][0][5] = -std::numeric_limits<float>::infinity();
    for (const float amax : {std::max(aten.absolute_maximum(w), kSmallestAmax), 0.5f}) {
      EXPECT_TRUE(same_bits(cpu.simulate_fp8(x, amax / 448), aten.simulate_fp8(x, amax / 448)));
      EXPECT_TRUE(same_bits(cpu.simulate_int8(x, amax / 127), aten.simulate_int8(x, amax / 127)));
      EXPECT_TRUE(same_bits(cpu.simulate_nvfp4(x, amax / 2688), aten.simulate_nvfp4(x, amax / 2688)));
    }
    for (const auto of_tokens : {&CodecBackend::simulate_fp8_tokens, &CodecBackend::simulate_int8_tokens}) {
      const at::Tensor y = (cpu.*of_tokens)(x);
      EXPECT_TRUE(same_bits(y, (aten.*of_tokens)(x)));
      EXPECT_TRUE(at::isnan(y[1]).all().item<bool>());
      EXPECT_FALSE(at::isnan(y[0]).any().item<bool>());
    }
  });
}

TEST_P(CodecTwins, RearrangeInt4TheSameWay) {
  at::manual_seed(5);
  for (const int64_t columns : {8, 24, 2064}) {
    const at::Tensor codes = at::randint(-8, 8, {6, columns}, at::kChar);
    const at::Tensor bytes = cpu.int4_to_row_pairs(codes), words = cpu.int4_to_words(codes);
    EXPECT_TRUE(same_bits(bytes, aten.int4_to_row_pairs(codes)));
    EXPECT_TRUE(same_bits(words, aten.int4_to_words(codes)));
    for (const CodecBackend* codecs : {&cpu, &aten}) {
      EXPECT_TRUE(same_bits(codecs->int4_from_row_pairs(bytes), codes));
      EXPECT_TRUE(same_bits(codecs->int4_from_words(words), codes));
    }
  }
}

TEST(Int8Words, HoldFourColumnsEachFromTheLowestByteOffsetBy128) {
  const at::Tensor codes = at::tensor({-128, -127, -1, 0, 1, 2, 126, 127}, at::kChar).view({2, 4});
  const at::Tensor words = int8_to_words(codes);
  EXPECT_TRUE(at::equal(
      words, at::tensor({int64_t{0x807F0100}, int64_t{0xFFFE8281}}, at::kLong).to(at::kInt).view({2, 1})));
  EXPECT_TRUE(at::equal(int8_from_words(words), codes));
  EXPECT_THROW(int8_to_words(codes.slice(1, 0, 3)), Error);
}

// A plain reference: the nearest number of a list, halves to the even code.

std::vector<double> e4m3_magnitudes() {
  std::vector<double> values;
  for (int code = 0; code < 0x7F; ++code) {
    const int exponent = code >> 3, mantissa = code & 7;
    values.push_back(exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10));
  }
  return values;
}
const std::vector<double> kE4m3 = e4m3_magnitudes();
const std::vector<double> kE2m1 = {0, 0.5, 1, 1.5, 2, 3, 4, 6};

int nearest(const std::vector<double>& magnitudes, float v) {
  const double a = std::min<double>(std::abs(v), magnitudes.back());
  size_t best = 0;
  for (size_t code = 1; code < magnitudes.size(); ++code) {
    const double now = std::abs(magnitudes[code] - a), before = std::abs(magnitudes[best] - a);
    if (now < before || (now == before && code % 2 == 0)) best = code;
  }
  return static_cast<int>(best);
}

std::vector<double> e3m2_magnitudes() {
  std::vector<double> values;
  for (int code = 0; code < 32; ++code) {
    const int exponent = code >> 2, mantissa = code & 3;
    values.push_back(exponent == 0 ? mantissa / 16.0 : std::ldexp(4 + mantissa, exponent - 5));
  }
  return values;
}
const std::vector<double> kE3m2 = e3m2_magnitudes();

int fp8_code(float v) { return nearest(kE4m3, v) + (std::signbit(v) ? 0x80 : 0); }
int fp4_code(float v) { return nearest(kE2m1, v) + (v < 0 ? 8 : 0); }

int int_code(float v, int code_max) {
  const double floor = std::floor(v), fraction = v - floor;
  const bool up = fraction > 0.5 || (fraction == 0.5 && std::fmod(floor, 2.0) != 0);
  return static_cast<int>(std::clamp<double>(floor + (up ? 1 : 0), -code_max - 1, code_max));
}

float largest(const float* x, int64_t n) {
  float result = 0;
  for (int64_t i = 0; i < n; ++i) result = std::max(result, std::abs(x[i]));
  return result;
}

float reference_scale(float amax, float code_max) {
  return amax == 0 ? 1.0f : std::max(amax, 0x1p-126f) / code_max;
}

TEST_P(CodecTwins, EncodeEveryBf16AsTheNearestE4m3) {
  const at::Tensor bits = at::arange(65536, at::kInt).to(at::kShort);
  const at::Tensor all = bits.view(at::kBFloat16);
  const at::Tensor w = at::where(at::isfinite(all), all, at::zeros_like(all)).view({256, 256});
  const at::Tensor codes = pack_fp8(w, 448.0f).codes;  // scale 1
  EXPECT_TRUE(same_bits(codes, w.to(at::kFloat).clamp(-448, 448).to(at::kFloat8_e4m3fn)));
  const at::Tensor wide = w.to(at::kFloat).flatten(), bytes = codes.view(at::kByte).flatten();
  for (int64_t i = 0; i < wide.numel(); ++i)
    ASSERT_EQ(bytes.const_data_ptr<uint8_t>()[i], fp8_code(wide.const_data_ptr<float>()[i])) << i;
}

TEST_P(CodecTwins, EncodeAnyF32AsTheNearestE4m3) {
  at::manual_seed(11);
  at::Tensor w = random_bits(1, 1 << 18);
  // Uniform exponents rarely hit the format's range: add values there, and both neighbours of every midpoint.
  const at::Tensor in_range = at::randn({1, 1 << 18}) * at::exp2(at::rand({1, 1 << 18}) * 24 - 14);
  std::vector<float> midpoints;
  for (size_t code = 0; code + 1 < kE4m3.size(); ++code) {
    const float middle = static_cast<float>((kE4m3[code] + kE4m3[code + 1]) / 2);
    for (const float v : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e9f)}) {
      midpoints.push_back(v);
      midpoints.push_back(-v);
    }
  }
  w = at::cat({w, in_range, at::tensor(midpoints).unsqueeze(0)}, 1);
  EXPECT_TRUE(same_bits(pack_fp8(w, 448.0f).codes, w.clamp(-448, 448).to(at::kFloat8_e4m3fn)));
}

TEST_P(CodecTwins, EncodeEveryF16LikeItsF32) {
  const at::Tensor all = at::arange(65536, at::kInt).to(at::kShort).view(at::kHalf);
  const at::Tensor w = at::where(at::isfinite(all), all, at::zeros_like(all)).view({256, 256});
  EXPECT_TRUE(same_bits(pack_int8(w).codes, pack_int8(w.to(at::kFloat)).codes));
  EXPECT_TRUE(same_bits(pack_fp8(w, 448.0f).codes, pack_fp8(w.to(at::kFloat), 448.0f).codes));
  EXPECT_EQ(absolute_maximum(w), 65504.0f);
}

TEST_P(CodecTwins, EncodeLikeThePlainReference) {
  for_weights({48, 272}, [&](const at::Tensor& weight) {
    const at::Tensor wide = weight.to(at::kFloat).contiguous();
    const float* w = wide.const_data_ptr<float>();
    const int64_t rows = wide.size(0), columns = wide.size(1);
    const float amax = largest(w, wide.numel());

    const PackedTensor fp8 = pack_fp8(weight);
    const at::Tensor fp8_bytes = fp8.codes.view(at::kByte);
    const float fp8_scale = reference_scale(amax, 448);
    ASSERT_EQ(fp8.scale.item<float>(), fp8_scale);
    for (int64_t i = 0; i < wide.numel(); ++i)
      ASSERT_EQ(fp8_bytes.const_data_ptr<uint8_t>()[i], fp8_code(w[i] / fp8_scale)) << i;

    const auto expect_fp8 = [&](const PackedTensor& packed, int64_t block_rows, int64_t block_columns) {
      const at::Tensor bytes = packed.codes.view(at::kByte), values = dequantize(packed);
      const int64_t across = (columns + block_columns - 1) / block_columns;
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < columns; ++c) {
          const int64_t top = r / block_rows * block_rows, left = c / block_columns * block_columns;
          float block_amax = 0;
          for (int64_t row = top; row < std::min(rows, top + block_rows); ++row)
            block_amax = std::max(block_amax,
                                  largest(w + row * columns + left, std::min(block_columns, columns - left)));
          const float scale = reference_scale(block_amax, 448);
          ASSERT_EQ(packed.scale.const_data_ptr<float>()[r / block_rows * across + c / block_columns], scale);
          const int code = fp8_code(w[r * columns + c] / scale);
          ASSERT_EQ(bytes.const_data_ptr<uint8_t>()[r * columns + c], code) << r << ", " << c;
          const float magnitude = static_cast<float>(kE4m3[static_cast<size_t>(code & 0x7F)]) * scale;
          ASSERT_EQ(values.const_data_ptr<float>()[r * columns + c], code & 0x80 ? -magnitude : magnitude);
        }
    };
    expect_fp8(pack_fp8_rows(weight), 1, columns);
    expect_fp8(pack_fp8_blocks(weight), 128, 128);

    const auto expect_int = [&](const PackedTensor& packed, int64_t block, int code_max) {
      for (int64_t b = 0; b < wide.numel() / block; ++b) {
        const float scale = reference_scale(largest(w + b * block, block), static_cast<float>(code_max));
        ASSERT_EQ(packed.scale.const_data_ptr<float>()[b], scale);
        for (int64_t i = b * block; i < (b + 1) * block; ++i)
          ASSERT_EQ(packed.codes.const_data_ptr<int8_t>()[i], int_code(w[i] / scale, code_max)) << i;
      }
    };
    expect_int(pack_int8(weight), columns, 127);
    expect_int(pack_int4(weight, 8), 8, 7);

    const PackedTensor fp4 = pack_nvfp4(weight);
    const at::Tensor values = dequantize(fp4);
    const float scale_2 = (amax == 0 ? 1.0f : std::max(amax, 0x1p-126f)) / 2688.0f;
    ASSERT_EQ(fp4.scale_2.item<float>(), scale_2);
    for (int64_t b = 0; b < rows * columns / 16; ++b) {
      float t = largest(w + b * 16, 16) / (6.0f * scale_2);
      if (t == 0) t = 1;
      const int scale_code = fp8_code(std::clamp(t, 0x1p-9f, 448.0f));
      ASSERT_EQ(fp4.scale.view(at::kByte).const_data_ptr<uint8_t>()[b], scale_code);
      const float divisor = static_cast<float>(kE4m3[static_cast<size_t>(scale_code)]) * scale_2;
      for (int64_t i = b * 16; i < (b + 1) * 16; ++i) {
        const int byte = fp4.codes.const_data_ptr<uint8_t>()[i / 2],
                  code = i % 2 == 0 ? byte & 15 : byte >> 4;
        ASSERT_EQ(code, fp4_code(w[i] / divisor)) << i;
        const float magnitude = static_cast<float>(kE2m1[static_cast<size_t>(code & 7)]) * divisor;
        ASSERT_EQ(values.const_data_ptr<float>()[i], code & 8 ? -magnitude : magnitude) << i;
      }
    }
  });
}

// One value of a block: the element that real = element · 2^exponent gives back.
double mx_element(Codec codec, float v, bool on_disk) {
  const auto signed_value = [&](double magnitude) { return std::signbit(v) ? -magnitude : magnitude; };
  const std::vector<double>& values = codec == Codec::mxfp4 ? kE2m1 : codec == Codec::mxfp6 ? kE3m2 : kE4m3;
  if (codec == Codec::mxint8) return std::clamp(int_code(v, 127), -127, 127);
  int code = nearest(values, v);
  if (codec == Codec::mxfp4 && on_disk && code > 0) {  // ties to the smaller magnitude
    const auto i = static_cast<size_t>(code);
    if (std::abs(v) == (values[i - 1] + values[i]) / 2) --code;
  }
  return signed_value(values[static_cast<size_t>(code)]);
}

TEST_P(CodecTwins, PackAndSimulateMxLikeThePlainReference) {
  for (const Codec codec : kMx) {
    SCOPED_TRACE(codec_name(codec));
    for_weights({96, 288}, [&](const at::Tensor& weight) {
      const at::Tensor wide = weight.to(at::kFloat).contiguous();
      const float* w = wide.const_data_ptr<float>();
      const PackedTensor packed = pack_mx(weight, codec);
      const at::Tensor values = dequantize(packed), simulated = simulate_mx(wide, codec);
      ASSERT_EQ(packed.scale.size(1), weight.size(1) / 32);
      for (int64_t b = 0; b < wide.numel() / 32; ++b) {
        const float ratio = largest(w + b * 32, 32) / mx_max(codec);
        int exponent = -127;  // the smallest power of two that is not below the ratio
        while (exponent < 127 && std::ldexp(1.0, exponent) < ratio) ++exponent;
        ASSERT_EQ(packed.scale.const_data_ptr<uint8_t>()[b], exponent + 127) << b;
        for (int64_t i = b * 32; i < (b + 1) * 32; ++i) {
          const float v = static_cast<float>(std::ldexp(static_cast<double>(w[i]), -exponent));
          const auto real = [&](bool on_disk) {
            return static_cast<float>(std::ldexp(mx_element(codec, v, on_disk), exponent));
          };
          ASSERT_EQ(values.const_data_ptr<float>()[i], real(true)) << i;
          ASSERT_EQ(simulated.const_data_ptr<float>()[i], real(false)) << i;
        }
      }
    });
  }
}

TEST_P(CodecTwins, SimulateWhatPackingAndDequantizingGives) {
  for_weights({48, 272}, [&](const at::Tensor& x) {
    const at::ScalarType dtype = x.scalar_type();
    const PackedTensor fp8 = pack_fp8(x), fp4 = pack_nvfp4(x);
    EXPECT_TRUE(same_bits(simulate_fp8(x, fp8.scale.item<float>()), dequantize(fp8, dtype)));
    EXPECT_TRUE(same_bits(simulate_nvfp4(x, fp4.scale_2.item<float>()), dequantize(fp4, dtype)));
    EXPECT_TRUE(same_bits(simulate_fp8_tokens(x), dequantize(pack_fp8_rows(x), dtype)));
    EXPECT_TRUE(same_bits(simulate_int8_tokens(x), dequantize(pack_int8(x), dtype)));
    const PackedTensor int8 = pack_int8(x.view({1, -1}));
    EXPECT_TRUE(same_bits(simulate_int8(x.view({1, -1}), int8.scale.item<float>()), dequantize(int8, dtype)));
  });
}

TEST(CodecThreads, DoNotChangeTheResult) {
  at::manual_seed(2);
  const at::Tensor w = at::randn({300, 1040}).to(at::kBFloat16);
  const auto run = [&](int threads) {
    at::set_num_threads(threads);
    std::vector<at::Tensor> results = {simulate_fp8(w, 0.01f), simulate_int8(w, 0.02f),
                                       simulate_nvfp4(w, 0.001f), simulate_fp8_tokens(w)};
    for (const Codec codec : kMx) {
      const at::Tensor whole_blocks = w.slice(1, 0, 1024).contiguous();
      const PackedTensor packed = pack_mx(whole_blocks, codec);
      for (const at::Tensor& result :
           {packed.codes, packed.scale, dequantize(packed), simulate_mx(whole_blocks, codec)})
        results.push_back(result);
    }
    for (const PackedTensor& packed :
         {pack_fp8(w), pack_fp8_rows(w), pack_fp8_blocks(w), pack_int8(w), pack_int4(w, 16), pack_nvfp4(w)}) {
      results.push_back(packed.codes);
      results.push_back(packed.scale);
      results.push_back(dequantize(packed));
      if (packed.codec == Codec::int4) {
        results.push_back(int4_to_row_pairs(packed.codes));
        results.push_back(int4_to_words(packed.codes));
      }
    }
    return results;
  };
  const int before = at::get_num_threads();
  const std::vector<at::Tensor> one = run(1), two = run(2), three = run(3);
  at::set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) {
    EXPECT_TRUE(same_bits(one[i], two[i])) << i;
    EXPECT_TRUE(same_bits(one[i], three[i])) << i;
  }
}

TEST(CodecDevices, GiveTheSameBytes) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  for (const int64_t columns : kBlockWidths)
    for (const Weight& weight : adversarial_weights(columns))
      for (const at::ScalarType dtype : kTypes) {
        SCOPED_TRACE(weight.name + ", " + std::to_string(columns) + " columns, " + c10::toString(dtype));
        const at::Tensor w = in_type(weight, dtype), on_device = w.to(at::kCUDA);
        const auto pack_all = [&](const at::Tensor& x) {
          return std::vector<PackedTensor>{pack_fp8(x),         pack_fp8_rows(x, dtype), pack_fp8_blocks(x),
                                           pack_int8(x, dtype), pack_int4(x, 16),        pack_nvfp4(x)};
        };
        const std::vector<PackedTensor> here = pack_all(w), there = pack_all(on_device);
        for (size_t i = 0; i < here.size(); ++i) {
          SCOPED_TRACE(codec_name(here[i].codec));
          EXPECT_TRUE(there[i].codes.is_cuda() && there[i].scale.is_cuda());
          EXPECT_TRUE(same_bits(here[i].codes, there[i].codes.cpu()));
          EXPECT_TRUE(same_bits(here[i].scale, there[i].scale.cpu()));
          EXPECT_TRUE(same_bits(dequantize(here[i], dtype), dequantize(there[i], dtype).cpu()));
        }
        const PackedTensor asym = pack_int4_asym(w, 16, dtype),
                           asym_there = pack_int4_asym(on_device, 16, dtype);
        EXPECT_TRUE(same_bits(asym.codes, asym_there.codes.cpu()));
        EXPECT_TRUE(same_bits(asym.scale, asym_there.scale.cpu()));
        EXPECT_TRUE(same_bits(asym.zero_point, asym_there.zero_point.cpu()));
        EXPECT_TRUE(same_bits(dequantize(asym, dtype), dequantize(asym_there, dtype).cpu()));
        const at::Tensor fourfold = at::cat({w, w, w, w}, 1);
        const PackedTensor nf4 = pack_nf4(fourfold), nf4_there = pack_nf4(fourfold.to(at::kCUDA));
        EXPECT_TRUE(same_bits(nf4.codes, nf4_there.codes.cpu()));
        EXPECT_TRUE(same_bits(nf4.scale, nf4_there.scale.cpu()));
        EXPECT_TRUE(same_bits(nf4.scale_2, nf4_there.scale_2.cpu()));
        EXPECT_TRUE(same_bits(dequantize(nf4, dtype), dequantize(nf4_there, dtype).cpu()));
        const float scale = std::max(absolute_maximum(w), kSmallestAmax) / 448;
        EXPECT_TRUE(same_bits(simulate_fp8(w, scale), simulate_fp8(on_device, scale).cpu()));
        EXPECT_TRUE(same_bits(simulate_fp8_tokens(w), simulate_fp8_tokens(on_device).cpu()));
        EXPECT_TRUE(same_bits(simulate_int8_tokens(w), simulate_int8_tokens(on_device).cpu()));
        EXPECT_TRUE(same_bits(simulate_int8(w, scale), simulate_int8(on_device, scale).cpu()));
        EXPECT_TRUE(same_bits(simulate_nvfp4(w, scale / 6), simulate_nvfp4(on_device, scale / 6).cpu()));
        const at::Tensor twice = at::cat({w, w}, 1), twice_there = twice.to(at::kCUDA);
        for (const Codec codec : kMx) {
          SCOPED_TRACE(codec_name(codec));
          const PackedTensor a = pack_mx(twice, codec), b = pack_mx(twice_there, codec);
          EXPECT_TRUE(same_bits(a.codes, b.codes.cpu()));
          EXPECT_TRUE(same_bits(a.scale, b.scale.cpu()));
          EXPECT_TRUE(same_bits(dequantize(a, dtype), dequantize(b, dtype).cpu()));
          EXPECT_TRUE(same_bits(simulate_mx(twice, codec), simulate_mx(twice_there, codec).cpu()));
        }
      }
}

}  // namespace
}  // namespace visq

// What is quantized once stays as it is (spec/export.md §8, F1).
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "visq/quant/codec.h"
#include "visq/quant/codec_backend.h"
#include "visq/quant/grid.h"

namespace visq {
namespace {

std::vector<at::Tensor> weights() {
  at::manual_seed(11);
  at::Tensor outliers = at::randn({48, 256});
  outliers.select(1, 5).mul_(40);
  outliers.select(0, 3).zero_();
  return {at::randn({48, 256}) * 0.02, outliers, at::rand({48, 256}) + 0.5, at::randn({48, 256}) * 1e-6};
}

bool same_codes(const at::Tensor& a, const at::Tensor& b) {
  return a.contiguous().view(at::kByte).equal(b.contiguous().view(at::kByte));
}

std::vector<PackedTensor> packed_in_every_searched_format(const at::Tensor& w) {
  std::vector<PackedTensor> all = {pack_nvfp4(w), pack_nvfp4(w, std::nullopt, 32, kFp8Max), pack_nf4(w)};
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (PackedTensor packed :
         {pack_fp8(w, std::nullopt, dtype), pack_fp8_rows(w, dtype), pack_fp8_blocks(w, dtype),
          pack_int8(w, dtype), pack_int8(w, dtype, 64), pack_int4(w, 128, dtype), pack_int4(w, 32, dtype),
          pack_int4_asym(w, 64, dtype)})
      all.push_back(std::move(packed));
  return all;
}

TEST(Idempotence, CodesOfDequantizedValuesUnderTheStoredScalesAreTheCodes) {
  for (const at::Tensor& w : weights())
    for (const PackedTensor& packed : packed_in_every_searched_format(w)) {
      SCOPED_TRACE(testing::Message() << codec_name(packed.codec) << ", block " << packed.block);
      const at::Tensor values = dequantize(packed);
      const PackedTensor again = repack(packed, values);
      // A zero has two codes in floating point, of which either is one of its sign.
      EXPECT_TRUE(dequantize(again).equal(values));
      EXPECT_TRUE(packed.codec == Codec::nvfp4 || same_codes(again.codes, packed.codes));
    }
}

// MX scales follow from the values: one whose largest was rounded down to a power of two is halved, which
// holds them too.
TEST(Idempotence, ValuesOfMxFormatsStayWhenTheirScalesAreFoundAgain) {
  for (const at::Tensor& w : weights())
    for (const Codec codec : {Codec::mxfp4, Codec::mxfp6, Codec::mxfp8, Codec::mxint8}) {
      SCOPED_TRACE(codec_name(codec));
      const PackedTensor packed = pack_mx(w, codec);
      const at::Tensor values = dequantize(packed);
      const PackedTensor again = pack_mx(values, codec);
      EXPECT_TRUE(dequantize(again).equal(values));
      EXPECT_TRUE((again.scale <= packed.scale).all().item<bool>());
    }
}

TEST(Idempotence, OfInputsToo) {
  for (const at::Tensor& w : weights()) {
    EXPECT_TRUE(simulate_int8_tokens(simulate_int8_tokens(w)).allclose(simulate_int8_tokens(w), 1e-6, 0));
    EXPECT_TRUE(simulate_fp8_tokens(simulate_fp8_tokens(w)).allclose(simulate_fp8_tokens(w), 1e-6, 0));
    const at::Tensor fp8 = simulate_fp8(w, 0.125f), int8 = simulate_int8(w, 0.125f);
    EXPECT_TRUE(simulate_fp8(fp8, 0.125f).equal(fp8));
    EXPECT_TRUE(simulate_int8(int8, 0.125f).equal(int8));
  }
}

}  // namespace
}  // namespace visq

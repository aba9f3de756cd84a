#include "visq/export/tensorrt_llm_split.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace visq::trt {
namespace {

PackedLinear linear_of(const char* preset) {
  const at::Tensor weight = at::arange(8 * 64, at::kFloat).reshape({8, 64}).sin();
  PackedLinear linear;
  const std::string name = preset;
  if (name == "int8") linear.weight = pack_int8(weight);
  if (name == "fp8") linear.weight = pack_fp8(weight);
  if (name == "int4") linear.weight = pack_int4(weight, 16);
  if (name == "nvfp4") linear.weight = pack_nvfp4(weight);
  linear.input_scale = 0.5f;
  linear.pre_quant_scale = at::arange(64, at::kFloat) + 1;
  return linear;
}

TEST(RowsOf, AreRowsOfTheDequantizedWeight) {
  for (const char* format : {"int8", "fp8", "int4", "nvfp4"}) {
    const PackedLinear linear = linear_of(format), part = rows_of(linear, 2, 4);
    EXPECT_TRUE(dequantize(part.weight).equal(dequantize(linear.weight).narrow(0, 2, 4))) << format;
    EXPECT_EQ(part.weight.rows, 4);
    EXPECT_EQ(part.pre_quant_scale.size(0), 64);
  }
}

TEST(ColumnsOf, AreColumnsOfTheDequantizedWeight) {
  for (const char* format : {"int8", "fp8", "int4", "nvfp4"}) {
    const PackedLinear linear = linear_of(format), part = columns_of(linear, 16, 32);
    PackedTensor whole = part.weight;
    for (at::Tensor* tensor : {&whole.codes, &whole.scale}) *tensor = tensor->contiguous();
    EXPECT_TRUE(dequantize(whole).equal(dequantize(linear.weight).narrow(1, 16, 32))) << format;
    EXPECT_EQ(part.pre_quant_scale[0].item<float>(), 17);
  }
}

TEST(JoinRows, PutsPartsBehindOneAnother) {
  for (const char* format : {"int8", "fp8", "int4", "nvfp4"}) {
    const PackedLinear linear = linear_of(format);
    const PackedLinear swapped = join_rows({rows_of(linear, 4, 4), rows_of(linear, 0, 4)});
    const at::Tensor whole = dequantize(linear.weight);
    EXPECT_TRUE(dequantize(swapped.weight).equal(at::cat({whole.narrow(0, 4, 4), whole.narrow(0, 0, 4)})))
        << format;
    EXPECT_EQ(swapped.weight.rows, 8);
  }
}

TEST(JoinColumns, PutsPartsBesideOneAnother) {
  for (const char* format : {"int8", "fp8", "int4", "nvfp4"}) {
    const PackedLinear linear = linear_of(format);
    const PackedLinear joined = join_columns({columns_of(linear, 0, 32), columns_of(linear, 32, 32)});
    EXPECT_TRUE(dequantize(joined.weight).equal(dequantize(linear.weight))) << format;
    EXPECT_TRUE(joined.pre_quant_scale.equal(linear.pre_quant_scale));
    EXPECT_EQ(joined.weight.columns, 64);
  }
}

TEST(Unshared, NamesWhatOneLinearCannotHaveTwice) {
  const PackedLinear linear = linear_of("fp8");
  EXPECT_STREQ(unshared(linear, linear), "");
  PackedLinear other = linear;
  other.weight.scale = linear.weight.scale * 2;
  EXPECT_STREQ(unshared(linear, other), "weight scale");
  other = linear;
  other.input_scale = 0.25f;
  EXPECT_STREQ(unshared(linear, other), "input scale");
  other = linear;
  other.pre_quant_scale = at::Tensor();
  EXPECT_STREQ(unshared(linear, other), "factors of the input (pre_quant_scale)");
  // Rows have scales of their own, which columns share.
  const PackedLinear rows = linear_of("int8");
  other = rows;
  other.weight.scale = rows.weight.scale * 2;
  EXPECT_STREQ(unshared(rows, other), "");
  EXPECT_STREQ(unshared_columns(rows, other), "weight scales");
}

}  // namespace
}  // namespace visq::trt

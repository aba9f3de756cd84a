#include "visq/export/grouped_layout.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/unit/error_of.h"
#include "tests/unit/io/fixtures.h"
#include "visq/export/engines.h"
#include "visq/export/quantized_checkpoint.h"

namespace visq {
namespace {

constexpr int64_t kRows = 24, kColumns = 64, kBlock = 32;  // no square: axes cannot be mixed up

Scheme int4_scheme(Codec codec, int64_t block = kBlock) {
  Scheme scheme;
  scheme.weight = codec;
  scheme.block = block;
  return scheme;
}

QuantizedLinear linear_of(const Scheme& scheme) {
  return {"m", kRows, kColumns, at::kBFloat16, scheme, false};
}

PackedLinear packed_of(const Scheme& scheme) {
  const auto generator = at::detail::createCPUGenerator(5);
  const auto codes = [&](at::IntArrayRef shape, int64_t half) {
    return at::randint(-half, half, shape, generator, at::kChar);
  };
  PackedLinear linear;
  PackedTensor& packed = linear.weight;
  packed.codec = scheme.weight;
  packed.rows = kRows;
  packed.columns = kColumns;
  packed.block = scheme.block;
  packed.codes = codes({kRows, kColumns}, scheme.weight == Codec::int8 ? 128 : 8);
  packed.scale =
      at::rand({kRows, groups_of(scheme, kColumns)}, generator).add(0.01).to(at::kHalf).to(at::kFloat);
  if (scheme.block == 0) packed.scale = packed.scale.squeeze(1);
  if (scheme.weight == Codec::int4_asym) packed.zero_point = codes({kRows, kColumns / kBlock}, 8);
  return linear;
}

using Values = std::vector<std::pair<std::string, at::Tensor>>;

Values values_of(const Layout& layout, const Scheme& scheme, const PackedLinear& linear) {
  Values values;
  for (const LayoutTensor& tensor : layout.tensors(linear_of(scheme))) {
    values.emplace_back(tensor.planned.name, tensor.value(linear));
    EXPECT_EQ(values.back().second.scalar_type(), tensor.planned.dtype) << tensor.planned.name;
    EXPECT_EQ(values.back().second.sizes(), at::IntArrayRef(tensor.planned.shape)) << tensor.planned.name;
  }
  return values;
}

at::Tensor& named(Values& values, const std::string& name) {
  for (auto& [found, value] : values)
    if (found == name) return value;
  throw std::out_of_range(name);
}

Json config_of(const Layout& layout, const Scheme& scheme) {
  return layout.quantization_config({{scheme}, KvCacheFormat::none, {}, {}, {}, {}, {}});
}

/// A directory with these tensors and this quantization_config, or one beside config.json.
class Stored {
 public:
  Stored(const Values& values, const Json& quantization, const std::string& file = "") {
    Json config = Json::object();
    if (file.empty())
      config["quantization_config"] = quantization;
    else
      std::ofstream(directory_.path() / file) << json_text(quantization);
    std::ofstream(directory_.path() / "config.json") << json_text(config);
    write_safetensors(directory_.path() / "model.safetensors", values);
  }
  PackedLinear read() const {
    const Checkpoint checkpoint(directory_.path());
    return QuantizedCheckpoint::open(checkpoint).value().read("m");
  }
  Scheme scheme() const {
    const Checkpoint checkpoint(directory_.path());
    return QuantizedCheckpoint::open(checkpoint).value().scheme("m");
  }
  std::string error() const {
    return error_of([&] { read(); });
  }

 private:
  TemporaryDirectory directory_;
};

void expect_same(const PackedTensor& a, const PackedTensor& b) {
  EXPECT_EQ(a.codec, b.codec);
  EXPECT_EQ(a.block, b.block);
  EXPECT_TRUE(at::equal(a.codes, b.codes));
  EXPECT_TRUE(at::equal(a.scale, b.scale));
  ASSERT_EQ(a.zero_point.defined(), b.zero_point.defined());
  if (a.zero_point.defined()) {
    EXPECT_TRUE(at::equal(a.zero_point, b.zero_point));
  }
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.columns, b.columns);
}

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(GroupedLayouts, WhatIsWrittenIsRead) {
  std::vector<std::pair<const Layout*, Scheme>> cases;
  for (const Layout* layout : {&autoawq_layout(), &gptq_layout()})
    for (const Codec codec : {Codec::int4, Codec::int4_asym}) cases.emplace_back(layout, int4_scheme(codec));
  cases.emplace_back(&gptq_layout(), find_preset("int8_wo").scheme);
  for (const auto& [layout, scheme] : cases) {
    ASSERT_TRUE(layout->holds(scheme));
    const PackedLinear linear = packed_of(scheme);
    const Stored stored(values_of(*layout, scheme, linear), config_of(*layout, scheme));
    expect_same(stored.read().weight, linear.weight);
    EXPECT_TRUE(stored.scheme().stored_like(scheme)) << layout->name();
  }
}

TEST(GroupedLayouts, ColumnsByImportanceComeBackInTheirOrder) {
  Scheme scheme = int4_scheme(Codec::int4);
  scheme.ordered_columns = true;
  EXPECT_FALSE(autoawq_layout().holds(scheme));
  PackedLinear linear = packed_of(scheme);
  const int64_t columns = linear.weight.columns, groups = columns / scheme.block;
  // Of each group those that stand first in the input come first.
  linear.column_order =
      std::get<0>(at::arange(columns, at::kLong).view({scheme.block, groups}).t().flip(0).sort(1)).flatten();
  const Values values = values_of(gptq_layout(), scheme, linear);
  const Stored stored(values, config_of(gptq_layout(), scheme));
  EXPECT_TRUE(stored.scheme().ordered_columns);
  const PackedLinear read = stored.read();
  expect_same(read.weight, linear.weight);
  ASSERT_TRUE(read.column_order.defined());
  EXPECT_TRUE(read.column_order.equal(linear.column_order));
  const at::Tensor weight = QuantizedCheckpoint::effective_weight(read), packed = dequantize(linear.weight);
  for (int64_t i = 0; i < columns; ++i)
    EXPECT_TRUE(weight.select(1, linear.column_order[i].item<int64_t>()).equal(packed.select(1, i))) << i;
}

// spec/export.md §9, and both axes of a matrix that is not square: code (n, k) is n of 0…7 in column 0.
TEST(GroupedLayouts, WordsLieAlongTheAxesOfTheSpecification) {
  const Scheme scheme = int4_scheme(Codec::int4, 8);
  PackedLinear linear;
  linear.weight.codes = at::arange(-8, 8, at::kChar).view({16, 1}).expand({16, 24}).contiguous();
  linear.weight.scale = at::arange(48, at::kFloat).view({16, 3});
  linear.weight.columns = 24;
  const auto value = [&](const Layout& layout, size_t index) {
    return layout.tensors({"m", 16, 24, at::kBFloat16, scheme, false}).at(index).value(linear);
  };
  const at::Tensor awq = value(autoawq_layout(), 0), gptq = value(gptq_layout(), 0);
  EXPECT_EQ(awq.sizes(), (at::IntArrayRef{24, 2}));
  EXPECT_TRUE(awq.select(1, 0).eq(0x75316420).all().item<bool>());
  EXPECT_EQ(gptq.sizes(), (at::IntArrayRef{3, 16}));
  for (int64_t n = 0; n < 16; ++n) EXPECT_EQ(gptq[0][n].item<int>(), static_cast<int>(n * 0x11111111)) << n;
  for (const auto& [layout, zeros] :
       {std::pair{&autoawq_layout(), 0x88888888}, std::pair{&gptq_layout(), 0x77777777u}}) {
    const at::Tensor words = value(*layout, 1);
    EXPECT_EQ(words.sizes(), (at::IntArrayRef{3, 2}));
    EXPECT_TRUE(words.eq(static_cast<int32_t>(zeros)).all().item<bool>());
    const at::Tensor scales = value(*layout, 2);
    EXPECT_EQ(scales.scalar_type(), at::kHalf);
    EXPECT_TRUE(at::equal(scales.to(at::kFloat), linear.weight.scale.t()));
  }
  EXPECT_TRUE(at::equal(value(gptq_layout(), 3), at::arange(24, at::kInt).div(8, "floor")));
}

TEST(GroupedLayouts, ZeroPointsOfBothVersionsOfGptq) {
  const Scheme scheme = int4_scheme(Codec::int4_asym);
  const PackedLinear linear = packed_of(scheme);
  Values values = values_of(gptq_layout(), scheme, linear);
  Json config = config_of(gptq_layout(), scheme);
  EXPECT_EQ(config.at("checkpoint_format"), "gptq_v2");  // where a zero point of 0 has a place
  // The first version has one less, in four bits.
  at::Tensor& zeros = named(values, "m.qzeros");
  const at::Tensor codes = int4_from_words(zeros);
  zeros = int4_to_words(at::where(codes == -8, at::full_like(codes, 7), codes - 1));
  config.erase("checkpoint_format");  // it is what there was before versions had names
  expect_same(Stored(values, config).read().weight, linear.weight);
}

TEST(GroupedLayouts, ConfigurationsOfOlderTools) {
  const Scheme scheme = int4_scheme(Codec::int4_asym);
  const PackedLinear linear = packed_of(scheme);
  Values values = values_of(autoawq_layout(), scheme, linear);
  const Json awq = {{"zero_point", true}, {"q_group_size", kBlock}, {"w_bit", 4}, {"version", "GEMM"}};
  expect_same(Stored(values, awq, "quant_config.json").read().weight, linear.weight);
  for (const char* dtype : {"F32", "BF16"}) {
    at::Tensor& scales = named(values, "m.scales");
    scales = scales.to(at::kBFloat16).to(dtype == std::string("F32") ? at::kFloat : at::kBFloat16);
    EXPECT_TRUE(
        at::equal(Stored(values, awq, "quant_config.json").read().weight.scale.t(), scales.to(at::kFloat)));
  }
  const Scheme symmetric = int4_scheme(Codec::int4);
  const PackedLinear other = packed_of(symmetric);
  Values gptq = values_of(gptq_layout(), symmetric, other);
  const Json config = {{"bits", 4},         {"group_size", kBlock},    {"damp_percent", 0.01},
                       {"desc_act", false}, {"static_groups", false},  {"sym", true},
                       {"lm_head", false},  {"true_sequential", true}, {"model_name_or_path", nullptr}};
  expect_same(Stored(gptq, config, "quantize_config.json").read().weight, other.weight);
  std::erase_if(gptq, [](const auto& entry) { return entry.first == "m.g_idx"; });
  expect_same(Stored(gptq, config, "quantize_config.json").read().weight, other.weight);
  // Symmetric AWQ of other tools says so, and may have no zero points.
  Values plain = values_of(autoawq_layout(), symmetric, other);
  std::erase_if(plain, [](const auto& entry) { return entry.first == "m.qzeros"; });
  const Json said = {{"quant_method", "awq"}, {"bits", 4}, {"group_size", kBlock}, {"zero_point", false}};
  expect_same(Stored(plain, said).read().weight, other.weight);
}

TEST(GroupedLayouts, RefusesConfigurationsThatItDoesNotRead) {
  const auto error = [](const Layout& layout, const Json& changes) {
    const Scheme scheme = int4_scheme(Codec::int4);
    Json config = config_of(layout, scheme);
    for (const auto& [key, value] : changes.items())
      if (value.is_null())
        config.erase(key);
      else
        config[key] = value;
    return Stored(values_of(layout, scheme, packed_of(scheme)), config).error();
  };
  const Layout &awq = autoawq_layout(), &gptq = gptq_layout();
  EXPECT_EQ(error(awq, Json::object()), "");
  EXPECT_EQ(error(gptq, Json::object()), "");
  EXPECT_TRUE(has(error(awq, {{"bits", 3}}), "bits is 3"));
  EXPECT_TRUE(has(error(awq, {{"bits", nullptr}}), "no 'bits' or 'w_bit'"));
  EXPECT_TRUE(has(error(awq, {{"bits", "4"}}), "bits"));
  EXPECT_TRUE(has(error(awq, {{"version", "gemv"}}), "version is 'gemv'"));
  EXPECT_TRUE(has(error(awq, {{"zero_point", nullptr}}), "zero_point"));
  for (const Layout* layout : {&awq, &gptq}) {
    EXPECT_TRUE(has(error(*layout, {{"group_size", 0}}), "group size is 0"));
    EXPECT_TRUE(has(error(*layout, {{"group_size", 1 << 30}}), "group size is"));
    EXPECT_TRUE(has(error(*layout, {{"group_size", 24}}), "64 columns, not whole groups of 24"));
  }
  EXPECT_TRUE(has(error(gptq, {{"bits", 3}}), "3 bits"));
  EXPECT_TRUE(has(error(awq, {{"group_size", -1}}), "-1"));
  EXPECT_TRUE(has(error(gptq, {{"sym", nullptr}}), "sym"));
  EXPECT_TRUE(has(error(gptq, {{"lm_head", true}}), "lm_head"));
  EXPECT_TRUE(has(error(gptq, {{"checkpoint_format", "marlin"}}), "checkpoint_format is 'marlin'"));
  EXPECT_TRUE(has(error(gptq, {{"dynamic", {{"+:.*down_proj.*", {{"bits", 3}}}}}}),
                  "dynamic '+:.*down_proj.*': 3 bits"));
}

TEST(GroupedLayouts, RefusesTensorsThatDisagree) {
  const auto error = [](const Layout& layout, Codec codec, const char* name, const auto& change) {
    const Scheme scheme = int4_scheme(codec);
    Values values = values_of(layout, scheme, packed_of(scheme));
    at::Tensor& value = named(values, std::string("m.") + name);
    value = change(value).contiguous();
    return Stored(values, config_of(layout, scheme)).error();
  };
  const auto shorter = [](const at::Tensor& tensor) { return tensor.slice(0, 0, tensor.size(0) - 1); };
  const auto narrower = [](const at::Tensor& tensor) { return tensor.slice(1, 0, tensor.size(1) - 1); };
  for (const Layout* layout : {&autoawq_layout(), &gptq_layout()})
    for (const Codec codec : {Codec::int4, Codec::int4_asym})
      for (const char* name : {"qweight", "qzeros", "scales"}) {
        EXPECT_TRUE(has(error(*layout, codec, name, shorter), "model.safetensors: tensor 'm.")) << name;
        EXPECT_TRUE(has(error(*layout, codec, name, narrower), "model.safetensors: tensor 'm.")) << name;
        EXPECT_TRUE(has(error(*layout, codec, name, [](const at::Tensor& t) { return t.to(at::kLong); }),
                        "tensor 'm." + std::string(name) + "' is I64"));
      }
  const auto plus_one = [](const at::Tensor& words) { return words + 1; };
  EXPECT_TRUE(has(error(autoawq_layout(), Codec::int4, "qzeros", plus_one), "zero points other than 8"));
  EXPECT_TRUE(has(error(gptq_layout(), Codec::int4, "qzeros", plus_one), "says 'sym'"));
  EXPECT_TRUE(has(error(gptq_layout(), Codec::int4, "g_idx", shorter), "m.g_idx"));
  EXPECT_TRUE(has(error(gptq_layout(), Codec::int4, "g_idx", plus_one), "groups that are not among the 2"));
  EXPECT_TRUE(
      has(error(gptq_layout(), Codec::int4, "g_idx", [](const at::Tensor& t) { return t.flip(0); }),
          "m.g_idx' puts columns into groups by their importance, but the quantization_config does not"));
}

TEST(GroupedLayouts, RefuseShapesThatFillNoWords) {
  const auto misfit = [](const Layout& layout, int64_t rows, int64_t columns, const Scheme& scheme) {
    return layout.misfit({"m", rows, columns, at::kBFloat16, scheme, false});
  };
  const Scheme int4 = int4_scheme(Codec::int4), int8 = find_preset("int8_wo").scheme;
  for (const Layout* layout : {&autoawq_layout(), &gptq_layout()}) {
    EXPECT_EQ(misfit(*layout, 24, 64, int4), "");
    EXPECT_TRUE(has(misfit(*layout, 20, 64, int4), "20 rows"));
  }
  EXPECT_EQ(misfit(gptq_layout(), 20, 36, int8), "");
  EXPECT_TRUE(has(misfit(gptq_layout(), 20, 34, int8), "34 columns"));
}

TEST(GroupedLayouts, HoldWeightsAloneAndNoCache) {
  for (const char* preset : {"w4a8_awq", "int8_sq", "nvfp4", "fp8", "nf4"})
    for (const Layout* layout : {&autoawq_layout(), &gptq_layout()})
      EXPECT_FALSE(layout->holds(find_preset(preset).scheme)) << preset;
  EXPECT_FALSE(autoawq_layout().holds(find_preset("int8_wo").scheme));
  for (const Layout* layout : {&autoawq_layout(), &gptq_layout()})
    EXPECT_FALSE(layout->holds(KvCacheFormat::fp8));
  // Kernels want groups of 32, 64 or 128.
  EXPECT_TRUE(autoawq_layout().engines({int4_scheme(Codec::int4, 16)}).empty());
  EXPECT_EQ(autoawq_layout().engines({int4_scheme(Codec::int4_asym)}).size(), 2u);
  EXPECT_TRUE(gptq_layout().engines({int4_scheme(Codec::int4_asym)}).empty());
}

TEST(GroupedLayouts, AutoStillPrefersLayoutsWithAPlaceForTheCache) {
  for (const char* preset : {"w4a16", "w4a16_asym", "int8_wo"})
    EXPECT_STREQ(find_layout("auto", find_preset(preset)).name(), "compressed-tensors") << preset;
  EXPECT_STREQ(find_layout("auto", find_preset("nf4")).name(), "bitsandbytes");
}

// What is left out, by parts of names that hold in both naming generations, and by no part of a quantized
// one.
TEST(GroupedLayouts, WhatIsNotQuantized) {
  const Scheme scheme = int4_scheme(Codec::int4);
  ExportSummary summary{{scheme}, KvCacheFormat::none, {}, {}, {}, {}, {}};
  summary.unquantized_roots = {"vision_tower", "model.vision_tower", "model.mlp",
                               "model.layers.1.mlp.experts"};
  summary.unquantized_linears = {"model.layers.1.self_attn.q_proj",
                                 "model.language_model.layers.1.self_attn.q_proj"};
  summary.linears = {{"model.layers.0.mlp.down_proj", scheme}};
  const LeftOut parts = left_out(summary);
  EXPECT_EQ(parts.subtrees, (std::vector<std::string>{"vision_tower", "model.mlp", "layers.1.mlp.experts"}));
  EXPECT_EQ(parts.linears,
            (std::vector<std::string>{"layers.1.self_attn.q_proj", "layers.1.self_attn.qkv_proj"}));
  const Json awq = autoawq_layout().quantization_config(summary).at("modules_to_not_convert");
  EXPECT_EQ(awq.at(4), "layers.1.self_attn.qkv_proj");
  const Json dynamic = gptq_layout().quantization_config(summary).at("dynamic");
  EXPECT_TRUE(dynamic.contains("-:.*vision_tower.*"));
  EXPECT_TRUE(dynamic.contains("-:.*layers\\.1\\.self_attn\\.qkv_proj$"));
  EXPECT_EQ(dynamic.size(), 5u);
  const auto excluded = [&](const Layout& layout, const std::string& module) {
    const auto entries = layout.exclude_entries(layout.quantization_config(summary), "config.json");
    for (const char* engine : {"vllm", "sglang"})
      if (!ExcludeList(find_engine(engine), layout.name(), entries, "llava").covers(module)) return false;
    return true;
  };
  for (const Layout* layout : {&autoawq_layout(), &gptq_layout()}) {
    EXPECT_TRUE(excluded(*layout, "model.vision_tower.layers.0.mlp.fc1"));
    EXPECT_TRUE(excluded(*layout, "model.language_model.layers.1.self_attn.q_proj"));
    EXPECT_FALSE(excluded(*layout, "model.language_model.layers.11.self_attn.q_proj"));
    EXPECT_FALSE(excluded(*layout, "model.layers.0.mlp.down_proj"));
  }
}

}  // namespace
}  // namespace visq

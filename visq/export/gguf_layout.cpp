#include "visq/export/gguf_layout.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/gguf_blocks.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

constexpr const char* kMethod = "visq-gguf";
constexpr const char *kCodes = ".weight_codes", *kScale = ".weight_scale", *kScale2 = ".weight_scale_2",
                     *kInputScale = ".input_scale";

/// Types of what stands in the files for a matrix of this scheme, and the columns whose codes share a byte.
struct Stored {
  at::ScalarType codes = at::kChar, scale = at::kHalf;
  int64_t columns_a_byte = 1;
};
Stored stored_as(const Scheme& scheme) {
  if (scheme.weight == Codec::mxfp4) return {at::kByte, at::kByte, 2};
  if (scheme.weight == Codec::nvfp4) return {at::kByte, at::kFloat8_e4m3fn, 2};
  return {};
}

Json scheme_json(const Scheme& scheme) {
  return {{"weight", codec_name(scheme.weight)},
          {"block", scheme.block},
          {"input", input_format_name(scheme.input)}};
}

class GgufLayout final : public Layout {
 public:
  const char* name() const override { return "gguf"; }
  using Layout::holds;
  // int4_asym is left out: the offsets of its blocks are products that F16 seldom holds.
  bool holds(const Scheme& scheme) const override {
    return ggml_type_of(scheme) && scheme.weight != Codec::int4_asym &&
           (!scheme.has_input_scale() || scheme.weight == Codec::nvfp4) && !scheme.fp8_second_stage &&
           scheme.low_rank == 0 && !scheme.ordered_columns;
  }
  bool holds_mixes() const override { return true; }
  bool holds(KvCacheFormat) const override { return false; }
  at::ScalarType scale_dtype(at::ScalarType) const override { return at::kHalf; }
  at::ScalarType input_scale_dtype(const Scheme&, at::ScalarType) const override { return at::kFloat; }
  KvStorage kv_storage(at::ScalarType) const override { return {".k_", ".v_", at::kFloat, {}}; }

  std::string misfit(const QuantizedLinear& linear) const override {
    const auto together = static_cast<int64_t>(ggml_type(ggml_type_of(linear.scheme).value()).block);
    if (linear.columns % together == 0) return "";
    return visq::format("{} columns, no multiple of the {} that GGUF stores together", linear.columns,
                        together);
  }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const Scheme& scheme = linear.scheme;
    const int64_t n = linear.rows, k = linear.columns;
    const int64_t blocks = scheme.block > 0 ? k / scheme.block : 1;
    const Stored as = stored_as(scheme);
    std::vector<LayoutTensor> list = {
        {{linear.module + kCodes, as.codes, {n, k / as.columns_a_byte}},
         [](const PackedLinear& own) { return own.weight.codes; }},
        {{linear.module + kScale, as.scale, {n, blocks}}, [n, blocks, as](const PackedLinear& own) {
           return own.weight.scale.view({n, blocks}).to(as.scale);
         }}};
    if (scheme.weight == Codec::nvfp4)
      list.push_back({{linear.module + kScale2, at::kFloat, {}},
                      [](const PackedLinear& own) { return own.weight.scale_2; }});
    if (scheme.has_input_scale())
      list.push_back({{linear.module + kInputScale, at::kFloat, {}}, [](const PackedLinear& own) {
                        return scalar_tensor(own.input_scale.value(), at::kFloat, {});
                      }});
    return list;
  }

  Json quantization_config(const ExportSummary& summary) const override {
    Json linears = Json::object();
    if (summary.schemes.size() > 1)
      for (const auto& [module, scheme] : summary.linears) linears[module] = scheme_json(scheme);
    return {{"quant_method", kMethod},
            {"scheme", scheme_json(summary.schemes.front())},
            {"linears", std::move(linears)},
            {"ignore", summary.unquantized_linears},
            {"producer", producer_of("visq", summary)}};
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != kMethod) return std::nullopt;
    StoredQuantization stored;
    stored.recipe = named_recipe(config);
    const auto linears = require<Json>(config, "linears", origin);
    stored.scheme = read_scheme(require<Json>(config, "scheme", origin), origin);
    for (const Preset& preset : presets())
      if (preset.scheme.stored_like(stored.scheme)) {
        stored.scheme = named_scheme(config, preset.name.c_str());
        break;
      }
    for (const auto& [module, own] : linears.items())
      stored.linears.emplace(module, read_scheme(own, origin));
    return stored;
  }

  Scheme read_scheme(const Json& config, const std::string& origin) const {
    Scheme scheme;
    const auto weight = require<std::string>(config, "weight", origin);
    for (const Codec codec : {Codec::int8, Codec::int4, Codec::mxfp4, Codec::nvfp4})
      if (weight == codec_name(codec)) scheme.weight = codec;
    scheme.block = require<int64_t>(config, "block", origin);
    const auto input = require<std::string>(config, "input", origin);
    for (const InputFormat format :
         {InputFormat::fp8_tokens, InputFormat::int8_tokens, InputFormat::mxfp4, InputFormat::nvfp4})
      if (input == input_format_name(format)) scheme.input = format;
    if (!holds(scheme))
      fail("{}: this layout does not hold {} in blocks of {}", origin, weight, scheme.block);
    return scheme;
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {kCodes, kScale, kScale2, kInputScale};
    return all;
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + kCodes);
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    const Stored as = stored_as(scheme);
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    packed.codes = read_checked(checkpoint, module + kCodes, as.codes, {-1, -1});
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1) * as.columns_a_byte;
    const int64_t blocks = scheme.block > 0 ? packed.columns / scheme.block : 1;
    packed.scale = read_checked(checkpoint, module + kScale, as.scale, {packed.rows, blocks});
    if (as.scale == at::kHalf) packed.scale = packed.scale.to(at::kFloat);
    if (scheme.block == 0) packed.scale = packed.scale.squeeze(1);
    if (scheme.weight == Codec::nvfp4)
      packed.scale_2 = scalar_tensor(read_scale(checkpoint, module + kScale2), at::kFloat, {});
    if (scheme.has_input_scale()) linear.input_scale = read_scale(checkpoint, module + kInputScale);
    return linear;
  }
};

}  // namespace

const Layout& gguf_layout() {
  static const GgufLayout layout;
  return layout;
}

}  // namespace visq

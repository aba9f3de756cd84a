// The layout of DeepSeek's FP8 checkpoints, quant_method "fp8" (spec/export.md §6.3): what all engines read
// for FP8 in blocks.
#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

constexpr const char* kPreset = "fp8_pb_wo";

bool is_held(const Scheme& scheme) { return scheme.stored_like(find_preset(kPreset).scheme); }

class HfFp8Layout final : public Layout {
 public:
  const char* name() const override { return "hf-fp8"; }
  bool holds(const Scheme& scheme) const override { return is_held(scheme); }
  at::ScalarType scale_dtype(at::ScalarType) const override { return at::kFloat; }
  const char* exclude_key() const override { return "modules_to_not_convert"; }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const int64_t n = linear.rows, k = linear.columns;
    return {{{linear.module + ".weight", at::kFloat8_e4m3fn, {n, k}},
             [](const PackedLinear& p) { return p.weight.codes; }},
            // Despite its name what codes are multiplied with.
            {{linear.module + ".weight_scale_inv", at::kFloat, {blocks_of(n), blocks_of(k)}},
             [](const PackedLinear& p) { return p.weight.scale; }}};
  }

  // Where ModelOpt puts them: loaders look for these names whatever the quantization (spec/export.md §7.3).
  bool holds(KvCacheFormat format) const override {
    return format == KvCacheFormat::fp8 || format == KvCacheFormat::fp8_cast;
  }
  KvStorage kv_storage(at::ScalarType source_dtype) const override {
    return modelopt_layout().kv_storage(source_dtype);
  }

  Json quantization_config(const ExportSummary& summary) const override {
    Json config;
    config["quant_method"] = "fp8";
    config["activation_scheme"] = "dynamic";
    config["weight_block_size"] = {kFp8Block, kFp8Block};
    Json& names = config["modules_to_not_convert"] = Json::array();
    const auto linears = names_in_engines(summary.unquantized_linears);
    const auto others = with_fused_names(summary.other_linears);
    for (const auto* list : {&summary.unquantized_roots, &others, &linears})
      for (const std::string& name : *list)
        if (std::ranges::find(names, Json(name)) == names.end()) names.push_back(name);
    if (summary.kv_cache != KvCacheFormat::none)
      config["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    if (summary.schemes.front() != find_preset(kPreset).scheme)
      config["producer"] = producer_of("visq", summary);
    return config;
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "fp8") return std::nullopt;
    const auto block = get_or<std::vector<int64_t>>(config, "weight_block_size", {}, origin);
    if (block != std::vector<int64_t>{kFp8Block, kFp8Block})
      fail("{}: weight_block_size is [{}]; visq reads [128, 128]", origin, fmt::join(block, ", "));
    const bool fp8_kv = config.contains("kv_cache_scheme") && config.at("kv_cache_scheme").is_object();
    return StoredQuantization{named_scheme(config, kPreset),
                              {},
                              fp8_kv ? KvCacheFormat::fp8 : KvCacheFormat::none,
                              named_recipe(config)};
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {".weight", ".weight_scale_inv"};
    return all;
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".weight_scale_inv");
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    packed.codes = read_checked(checkpoint, module + ".weight", at::kFloat8_e4m3fn, {-1, -1});
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    const std::string scale = module + ".weight_scale_inv";
    // Published checkpoints have them in bfloat16 too.
    packed.scale = read_checked(checkpoint, scale, checkpoint.info(scale).dtype,
                                {blocks_of(packed.rows), blocks_of(packed.columns)})
                       .to(at::kFloat);
    return linear;
  }
};

}  // namespace

const Layout& hf_fp8_layout() {
  static const HfFp8Layout layout;
  return layout;
}

}  // namespace visq

// The compressed-tensors layout (spec/export.md §5): what vLLM and SGLang read for INT8 and INT4, and all
// engines for FP8 per row.
#include <ATen/ATen.h>

#include <set>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

// What the layout holds, and who reads it (spec/export.md §2, §7.5).
struct Held {
  const char* preset;
  std::vector<std::string> engines;
};

const std::vector<Held>& held() {
  static const std::vector<Held> all = {{"int8_sq", {"vllm", "sglang"}},
                                        {"int4_awq_lite", {"vllm", "sglang"}},
                                        {"fp8_pc_pt", {"vllm", "sglang", "tensorrt-llm"}},
                                        {"int8_wo", {"vllm", "sglang"}},
                                        {"w4a16_nvfp4_max", {"vllm"}},
                                        {"int4_awq_asym", {"vllm"}}};
  return all;
}

const Held* find_held(const Scheme& scheme) {
  for (const Held& held_preset : held())
    if (find_preset(held_preset.preset).scheme.stored_like(scheme)) return &held_preset;
  return nullptr;
}

// Only keys that old readers know: unknown ones are refused (§5.1).
Json weight_arguments(const Scheme& scheme) {
  const bool is_float = scheme.weight == Codec::fp8_rows || scheme.weight == Codec::nvfp4;
  Json arguments = {{"num_bits", scheme.block > 0 ? 4 : 8},
                    {"type", is_float ? "float" : "int"},
                    {"symmetric", scheme.weight != Codec::int4_asym},
                    {"strategy", scheme.block == 0               ? "channel"
                                 : scheme.weight == Codec::nvfp4 ? "tensor_group"
                                                                 : "group"},
                    {"dynamic", false}};
  if (scheme.block > 0) arguments["group_size"] = scheme.block;
  return arguments;
}

Json input_arguments(const Scheme& scheme) {
  if (scheme.input == InputFormat::none) return nullptr;
  const bool per_token = scheme.input == InputFormat::fp8_tokens;
  return {{"num_bits", 8},
          {"type", per_token ? "float" : "int"},
          {"symmetric", true},
          {"strategy", per_token ? "token" : "tensor"},
          {"dynamic", per_token}};
}

// Whether a configuration says what we would have written, further keys aside.
bool says(const Json& config, const std::string& key, const Json& arguments) {
  if (!config.is_object() || !config.contains(key)) return false;
  const Json& found = config.at(key);
  if (!arguments.is_object() || !found.is_object()) return found == arguments;
  for (const auto& [name, value] : arguments.items())
    if (!found.contains(name) || found.at(name) != value) return false;
  return true;
}

const char* format_of(const Scheme& scheme) {
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::fp8_blocks:
      return "float-quantized";
    case Codec::nvfp4:
      return "nvfp4-pack-quantized";
    case Codec::int8:
      if (scheme.input == InputFormat::int8) return "int-quantized";
      break;
    case Codec::int4:
    case Codec::int4_asym:
    case Codec::nf4:  // not held, nor are the MX formats
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8:
      break;
  }
  return "pack-quantized";
}

bool is_packed(const Scheme& scheme) { return format_of(scheme) == std::string("pack-quantized"); }

std::string escape_dots(const std::string& name) {
  std::string escaped;
  for (const char c : name) escaped += c == '.' ? std::string("\\.") : std::string(1, c);
  return escaped;
}

// Regular expressions, because loaders do not rewrite them and so they hold in every naming generation
// (§5.3).
std::vector<std::string> ignore_list(const ExportSummary& summary) {
  std::vector<std::string> entries;
  std::set<std::string> seen;
  const auto add = [&](const std::string& entry) {
    if (seen.insert(entry).second) entries.push_back(entry);
  };
  for (const std::string& root : summary.unquantized_roots)
    add("re:.*" + escape_dots(root.substr(root.rfind('.') + 1)) + ".*");
  for (const std::string& linear : summary.unquantized_linears) {
    const size_t layer = linear.find("layers.");  // what precedes it differs between naming generations
    add("re:.*" + escape_dots(layer == std::string::npos ? linear : linear.substr(layer)) + "$");
  }
  return entries;
}

class CompressedTensorsLayout final : public Layout {
 public:
  const char* name() const override { return "compressed-tensors"; }
  bool holds(const Scheme& scheme) const override { return find_held(scheme) != nullptr; }
  std::vector<std::string> engines(const Scheme& scheme) const override {
    const Held* found = find_held(scheme);
    return found != nullptr ? found->engines : std::vector<std::string>{};
  }
  at::ScalarType scale_dtype(at::ScalarType source_dtype) const override { return source_dtype; }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const std::string& m = linear.module;
    const int64_t n = linear.rows, k = linear.columns;
    const at::ScalarType dtype = linear.source_dtype;
    const Scheme& scheme = linear.scheme;
    std::vector<LayoutTensor> list;
    const auto add = [&](const char* suffix, at::ScalarType type, std::vector<int64_t> shape,
                         std::function<at::Tensor(const PackedLinear&)> value) {
      list.push_back({{m + suffix, type, std::move(shape)}, std::move(value)});
    };
    const auto codes = [](const PackedLinear& p) { return p.weight.codes; };
    if (scheme.weight == Codec::nvfp4) {
      add(".weight_packed", at::kByte, {n, k / 2}, codes);
      add(".weight_scale", at::kFloat8_e4m3fn, {n, k / scheme.block},
          [](const PackedLinear& p) { return p.weight.scale; });
      add(".weight_global_scale", at::kFloat, {1},
          [](const PackedLinear& p) { return p.weight.scale_2.reciprocal().view({1}); });
      return list;
    }
    if (!is_packed(scheme))
      add(".weight", scheme.weight == Codec::int8 ? at::kChar : at::kFloat8_e4m3fn, {n, k}, codes);
    else if (scheme.weight == Codec::int8)
      add(".weight_packed", at::kInt, {n, k / 4},
          [](const PackedLinear& p) { return int8_to_words(p.weight.codes); });
    else
      add(".weight_packed", at::kInt, {n, k / 8},
          [](const PackedLinear& p) { return int4_to_words(p.weight.codes); });
    const int64_t blocks = scheme.block > 0 ? k / scheme.block : 1;
    add(".weight_scale", dtype, {n, blocks}, [=](const PackedLinear& p) {
      return p.weight.scale.view({n, blocks}).to(dtype);
    });
    if (scheme.weight == Codec::int4_asym)  // packed along the rows, where codes are along the columns
      add(".weight_zero_point", at::kInt, {n / 8, blocks}, [](const PackedLinear& p) {
        return int4_to_words(p.weight.zero_point.t().contiguous()).t().contiguous();
      });
    if (is_packed(scheme))
      add(".weight_shape", at::kLong, {2}, [=](const PackedLinear&) {
        return at::tensor({n, k}, at::kLong);
      });
    if (scheme.has_input_scale())
      add(".input_scale", dtype, {1},
          [=](const PackedLinear& p) { return scalar_tensor(p.input_scale.value(), dtype, {1}); });
    return list;
  }

  bool holds(KvCacheFormat format) const override { return !engines(format).empty(); }
  std::vector<std::string> engines(KvCacheFormat format) const override {
    if (format == KvCacheFormat::fp8_attn_head) return {"vllm"};
    const bool fp8 = format == KvCacheFormat::fp8 || format == KvCacheFormat::fp8_cast;
    return fp8 ? std::vector<std::string>{"vllm", "sglang", "tensorrt-llm"} : std::vector<std::string>{};
  }
  // Readers make room for the scales that kv_cache_scheme announces, whatever they are.
  KvStorage kv_storage(at::ScalarType source_dtype) const override {
    return {".k_", ".v_", source_dtype, {1}, /*unit_scales=*/true};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    const Scheme& scheme = summary.schemes.front();
    Json config;
    config["quant_method"] = "compressed-tensors";
    config["format"] = format_of(scheme);
    config["quantization_status"] = "compressed";
    config["config_groups"]["group_0"] = {{"targets", {"Linear"}},
                                          {"weights", weight_arguments(scheme)},
                                          {"input_activations", input_arguments(scheme)},
                                          {"output_activations", nullptr}};
    config["ignore"] = ignore_list(summary);
    config["kv_cache_scheme"] = nullptr;
    if (summary.kv_cache != KvCacheFormat::none)
      config["kv_cache_scheme"] = {
          {"num_bits", 8},
          {"type", "float"},
          {"symmetric", true},
          {"strategy", kv_format(summary.kv_cache).per_head ? "attn_head" : "tensor"},
          {"dynamic", false}};
    config["global_compression_ratio"] = nullptr;
    config["producer"] = producer_of("visq", summary);
    return config;
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "compressed-tensors") return std::nullopt;
    const KvCacheFormat kv = recognise_kv_cache(config, origin);
    const auto format = require<std::string>(config, "format", origin);
    const auto groups = require<Json>(config, "config_groups", origin);
    for (const Held& candidate : held()) {
      const Scheme& scheme = find_preset(candidate.preset).scheme;
      if (format == format_of(scheme) && groups.size() == 1 &&
          says(groups.front(), "weights", weight_arguments(scheme)) &&
          says(groups.front(), "input_activations", input_arguments(scheme)))
        return StoredQuantization{named_scheme(config, candidate.preset), {}, kv, named_recipe(config)};
    }
    fail("{}: this compressed-tensors scheme ({}) is not one that visq reads", origin, format);
  }

  static KvCacheFormat recognise_kv_cache(const Json& config, const std::string& origin) {
    const auto scheme = get_or<Json>(config, "kv_cache_scheme", nullptr, origin);
    if (!scheme.is_object()) return KvCacheFormat::none;
    const auto strategy = get_or<std::string>(scheme, "strategy", "tensor", origin);
    if (strategy == "attn_head") return KvCacheFormat::fp8_attn_head;
    if (strategy != "tensor") fail("{}: a kv_cache_scheme of strategy '{}' is not read", origin, strategy);
    return named_kv_cache(config, KvCacheFormat::fp8);
  }

  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".weight_scale");
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    PackedLinear linear;
    PackedTensor& packed = linear.weight;
    packed.codec = scheme.weight;
    packed.block = scheme.block;
    const std::string codes =
        module + (is_packed(scheme) || scheme.weight == Codec::nvfp4 ? ".weight_packed" : ".weight");
    const std::string scale = module + ".weight_scale";
    switch (scheme.weight) {
      case Codec::nvfp4:
        packed.codes = read_checked(checkpoint, codes, at::kByte, {-1, -1});
        packed.rows = packed.codes.size(0);
        packed.columns = packed.codes.size(1) * 2;
        packed.scale =
            read_checked(checkpoint, scale, at::kFloat8_e4m3fn, {packed.rows, packed.columns / scheme.block});
        packed.scale_2 =
            scalar_tensor(1 / read_scale(checkpoint, module + ".weight_global_scale"), at::kFloat, {});
        return linear;
      case Codec::int4:
      case Codec::int4_asym:
        packed.codes = int4_from_words(read_checked(checkpoint, codes, at::kInt, {-1, -1}));
        break;
      case Codec::int8:
        packed.codes = is_packed(scheme)
                           ? int8_from_words(read_checked(checkpoint, codes, at::kInt, {-1, -1}))
                           : read_checked(checkpoint, codes, at::kChar, {-1, -1});
        break;
      case Codec::fp8_e4m3:
      case Codec::fp8_rows:
      case Codec::fp8_blocks:
        packed.codes = read_checked(checkpoint, codes, at::kFloat8_e4m3fn, {-1, -1});
        break;
      case Codec::nf4:
      case Codec::mxfp4:
      case Codec::mxfp6:
      case Codec::mxfp8:
      case Codec::mxint8:
        fail("the compressed-tensors layout does not hold {}", codec_name(scheme.weight));
    }
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    const int64_t blocks = scheme.block > 0 ? packed.columns / scheme.block : 1;
    packed.scale =
        read_checked(checkpoint, scale, checkpoint.info(scale).dtype, {packed.rows, blocks}).to(at::kFloat);
    if (scheme.weight == Codec::int4_asym) {
      if (packed.rows % 8 != 0)
        fail("{}: tensor '{}' has {} rows: their zero points fill no words",
             checkpoint.file_of(codes).string(), codes, packed.rows);
      const at::Tensor words =
          read_checked(checkpoint, module + ".weight_zero_point", at::kInt, {packed.rows / 8, blocks});
      packed.zero_point = int4_from_words(words.t().contiguous()).t().contiguous();
    }
    if (scheme.block == 0) packed.scale = packed.scale.squeeze(1);
    if (scheme.has_input_scale()) linear.input_scale = read_scale(checkpoint, module + ".input_scale");
    return linear;
  }
};

}  // namespace

const Layout& compressed_tensors_layout() {
  static const CompressedTensorsLayout layout;
  return layout;
}

}  // namespace visq

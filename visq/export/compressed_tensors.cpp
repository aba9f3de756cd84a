// The compressed-tensors layout of the two integer formats (spec/export.md §5): what vLLM and SGLang read for
// INT8 and INT4.
#include <ATen/ATen.h>

#include <set>

#include "visq/export/layout_parts.h"

namespace visq {
namespace {

bool is_held(const Scheme& scheme) {
  return scheme == find_preset("int8_sq").scheme || scheme == find_preset("int4_awq").scheme;
}

// Only keys that old readers know: unknown ones are refused (§5.1).
Json weight_arguments(const Scheme& scheme) {
  if (scheme.weight == Codec::int8)
    return {
        {"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}, {"dynamic", false}};
  return {{"num_bits", 4},       {"type", "int"},    {"symmetric", true},
          {"strategy", "group"}, {"dynamic", false}, {"group_size", scheme.block}};
}

Json input_arguments(const Scheme& scheme) {
  if (scheme.input == InputFormat::none) return nullptr;
  return {{"num_bits", 8}, {"type", "int"}, {"symmetric", true}, {"strategy", "tensor"}, {"dynamic", false}};
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
  return scheme.weight == Codec::int4 ? "pack-quantized" : "int-quantized";
}

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
  bool holds(const Scheme& scheme) const override { return is_held(scheme); }
  std::vector<std::string> engines(const Scheme& scheme) const override {
    return is_held(scheme) ? std::vector<std::string>{"vllm", "sglang"} : std::vector<std::string>{};
  }
  at::ScalarType scale_dtype(at::ScalarType source_dtype) const override { return source_dtype; }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const std::string& m = linear.module;
    const int64_t n = linear.rows, k = linear.columns;
    const at::ScalarType dtype = linear.source_dtype;
    std::vector<LayoutTensor> list;
    if (linear.scheme.weight == Codec::int8) {
      list.push_back(
          {{m + ".weight", at::kChar, {n, k}}, [](const PackedLinear& p) { return p.weight.codes; }});
      list.push_back({{m + ".weight_scale", dtype, {n, 1}},
                      [dtype](const PackedLinear& p) { return p.weight.scale.unsqueeze(1).to(dtype); }});
      list.push_back({{m + ".input_scale", dtype, {1}}, [dtype](const PackedLinear& p) {
                        return scalar_tensor(p.input_scale.value(), dtype, {1});
                      }});
    } else {
      list.push_back({{m + ".weight_packed", at::kInt, {n, k / 8}},
                      [](const PackedLinear& p) { return int4_to_words(p.weight.codes); }});
      list.push_back({{m + ".weight_scale", dtype, {n, k / linear.scheme.block}},
                      [dtype](const PackedLinear& p) { return p.weight.scale.to(dtype); }});
      list.push_back({{m + ".weight_shape", at::kLong, {2}}, [n, k](const PackedLinear&) {
                        return at::tensor({n, k}, at::kLong);
                      }});
    }
    return list;
  }

  KvTensors kv_tensors(const std::string& attention, at::ScalarType source_dtype) const override {
    return {{attention + ".k_scale", source_dtype, {1}}, {attention + ".v_scale", source_dtype, {1}}};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    Json config;
    config["quant_method"] = "compressed-tensors";
    config["format"] = format_of(summary.scheme);
    config["quantization_status"] = "compressed";
    config["config_groups"]["group_0"] = {{"targets", {"Linear"}},
                                          {"weights", weight_arguments(summary.scheme)},
                                          {"input_activations", input_arguments(summary.scheme)},
                                          {"output_activations", nullptr}};
    config["ignore"] = ignore_list(summary);
    config["kv_cache_scheme"] = nullptr;
    if (summary.kv_cache == KvCacheFormat::fp8)
      config["kv_cache_scheme"] = {{"num_bits", 8},
                                   {"type", "float"},
                                   {"symmetric", true},
                                   {"strategy", "tensor"},
                                   {"dynamic", false}};
    config["global_compression_ratio"] = nullptr;
    return config;
  }

  std::optional<std::pair<Scheme, KvCacheFormat>> recognise(const Json& config,
                                                            const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "compressed-tensors") return std::nullopt;
    const auto kv = config.contains("kv_cache_scheme") && config.at("kv_cache_scheme").is_object()
                        ? KvCacheFormat::fp8
                        : KvCacheFormat::none;
    const auto format = require<std::string>(config, "format", origin);
    const auto groups = require<Json>(config, "config_groups", origin);
    for (const char* preset : {"int8_sq", "int4_awq"}) {
      const Scheme& scheme = find_preset(preset).scheme;
      if (format == format_of(scheme) && groups.size() == 1 &&
          says(groups.front(), "weights", weight_arguments(scheme)) &&
          says(groups.front(), "input_activations", input_arguments(scheme)))
        return std::pair{scheme, kv};
    }
    fail("{}: this compressed-tensors scheme ({}) is not one that visq reads", origin, format);
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
    const std::string scale = module + ".weight_scale";
    const at::ScalarType scale_dtype = checkpoint.info(scale).dtype;
    if (scheme.weight == Codec::int8) {
      packed.codes = read_checked(checkpoint, module + ".weight", at::kChar, {-1, -1});
      packed.scale =
          read_checked(checkpoint, scale, scale_dtype, {packed.codes.size(0), 1}).to(at::kFloat).squeeze(1);
      linear.input_scale = read_scale(checkpoint, module + ".input_scale");
    } else {
      packed.codes = int4_from_words(read_checked(checkpoint, module + ".weight_packed", at::kInt, {-1, -1}));
      const int64_t blocks = packed.codes.size(1) / scheme.block;
      packed.scale =
          read_checked(checkpoint, scale, scale_dtype, {packed.codes.size(0), blocks}).to(at::kFloat);
    }
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    return linear;
  }
};

}  // namespace

const Layout& compressed_tensors_layout() {
  static const CompressedTensorsLayout layout;
  return layout;
}

}  // namespace visq

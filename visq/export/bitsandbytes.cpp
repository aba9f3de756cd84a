// The layout of bitsandbytes' 4-bit checkpoints: the names and shapes that its QuantState gives and takes.
#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

constexpr int64_t kMaxStateBytes = 4096;
constexpr size_t kMostDigits = 24;  // of a number in JSON: "-2.2250738585072014e-308"

bool is_held(const Scheme& scheme) { return scheme.stored_like(find_preset("nf4").scheme); }

const char* dtype_name(at::ScalarType dtype) {
  return dtype == at::kBFloat16 ? "bfloat16" : dtype == at::kHalf ? "float16" : "float32";
}

Json state_of(const QuantizedLinear& linear, double offset) {
  return {{"quant_type", "nf4"},
          {"blocksize", kNf4Block},
          {"dtype", dtype_name(linear.source_dtype)},
          {"shape", {linear.rows, linear.columns}},
          {"nested_blocksize", kNf4NestedBlock},
          {"nested_dtype", "float32"},
          {"nested_offset", offset}};
}

/// What a tensor cannot hold, as JSON in bytes. Blanks at its end make its size known before the offset is.
at::Tensor state_bytes(const QuantizedLinear& linear, double offset) {
  std::string text = json_text(state_of(linear, offset));
  text.resize(json_text(state_of(linear, 0.0)).size() + kMostDigits, ' ');
  const at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::ranges::copy(text, bytes.mutable_data_ptr<uint8_t>());
  return bytes;
}

int64_t nested_blocks(int64_t blocks) { return (blocks + kNf4NestedBlock - 1) / kNf4NestedBlock; }

/// vLLM compares whole names with those that it gives modules itself (spec/export.md §7.7).
std::string name_in_vllm(const std::string& linear) {
  for (const char* prefix : {"model.language_model.layers.", "model.layers."})
    if (linear.starts_with(prefix)) return "language_model.model." + linear.substr(linear.find("layers."));
  return linear;
}

class BitsAndBytesLayout final : public Layout {
 public:
  const char* name() const override { return "bitsandbytes"; }
  bool holds(const Scheme& scheme) const override { return is_held(scheme); }
  // No reader looks for scales of a cache beside these weights.
  bool holds(KvCacheFormat) const override { return false; }
  KvStorage kv_storage(at::ScalarType source_dtype) const override {
    return modelopt_layout().kv_storage(source_dtype);
  }
  at::ScalarType scale_dtype(at::ScalarType) const override { return at::kFloat; }
  const char* exclude_key() const override { return "llm_int8_skip_modules"; }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const std::string weight = linear.module + ".weight";
    const int64_t values = linear.rows * linear.columns, blocks = values / kNf4Block;
    return {{{weight, at::kByte, {values / 2, 1}},
             [](const PackedLinear& p) {
               return p.weight.codes.view({-1, 1});
             }},
            {{weight + ".absmax", at::kByte, {blocks}},
             [](const PackedLinear& p) { return p.weight.scale.flatten(); }},
            {{weight + ".quant_map", at::kFloat, {16}}, [](const PackedLinear&) { return nf4_levels(); }},
            {{weight + ".nested_absmax", at::kFloat, {nested_blocks(blocks)}},
             [](const PackedLinear& p) { return p.weight.scale_2; }},
            {{weight + ".nested_quant_map", at::kFloat, {256}},
             [](const PackedLinear&) { return nf4_scale_levels(); }},
            {{weight + kState, at::kByte, {state_bytes(linear, 0).numel()}}, [linear](const PackedLinear& p) {
               return state_bytes(linear, p.weight.zero_point.item<float>());
             }}};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    Json config;
    config["quant_method"] = "bitsandbytes";
    config["load_in_4bit"] = true;
    config["load_in_8bit"] = false;
    config["bnb_4bit_quant_type"] = "nf4";
    config["bnb_4bit_use_double_quant"] = true;
    config["bnb_4bit_compute_dtype"] = "bfloat16";
    config["bnb_4bit_quant_storage"] = "uint8";
    config["llm_int8_enable_fp32_cpu_offload"] = false;
    config["llm_int8_has_fp16_weight"] = false;
    config["llm_int8_threshold"] = 6.0;
    Json& names = config["llm_int8_skip_modules"] = Json::array();
    for (const std::string& root : summary.unquantized_roots) names.push_back(root);
    for (const std::string& linear : with_fused_names(summary.unquantized_linears))
      for (const std::string& name : {linear, name_in_vllm(linear)})
        if (std::ranges::find(names, Json(name)) == names.end()) names.push_back(name);
    config["producer"] = producer_of("visq", summary);
    return config;
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "bitsandbytes") return std::nullopt;
    if (!get_or<bool>(config, "load_in_4bit", false, origin) ||
        get_or<std::string>(config, "bnb_4bit_quant_type", "fp4", origin) != "nf4" ||
        !get_or<bool>(config, "bnb_4bit_use_double_quant", false, origin) ||
        get_or<std::string>(config, "bnb_4bit_quant_storage", "uint8", origin) != "uint8")
      fail("{}: of bitsandbytes' formats visq reads nf4 with double quantization, stored as uint8", origin);
    return StoredQuantization{named_scheme(config, "nf4"), {}, KvCacheFormat::none, named_recipe(config)};
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {".weight",
                                                 ".weight.absmax",
                                                 ".weight.quant_map",
                                                 ".weight.nested_absmax",
                                                 ".weight.nested_quant_map",
                                                 std::string(".weight") + kState};
    return all;
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".weight.absmax");
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    const std::string weight = module + ".weight";
    const State state = read_state(checkpoint, weight + kState);
    const int64_t values = state.rows * state.columns, blocks = values / kNf4Block;
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    packed.rows = state.rows;
    packed.columns = state.columns;
    packed.codes =
        read_checked(checkpoint, weight, at::kByte, {values / 2, 1}).view({state.rows, state.columns / 2});
    packed.scale = read_checked(checkpoint, weight + ".absmax", at::kByte, {blocks}).view({state.rows, -1});
    packed.scale_2 = read_checked(checkpoint, weight + ".nested_absmax", at::kFloat, {nested_blocks(blocks)});
    packed.zero_point = scalar_tensor(state.offset, at::kFloat, {});
    check_levels(checkpoint, weight + ".quant_map", nf4_levels());
    check_levels(checkpoint, weight + ".nested_quant_map", nf4_scale_levels());
    return linear;
  }

 private:
  static constexpr const char* kState = ".quant_state.bitsandbytes__nf4";

  struct State {
    int64_t rows, columns;
    float offset;
  };

  static State read_state(const Checkpoint& checkpoint, const std::string& name) {
    const at::Tensor bytes = read_checked(checkpoint, name, at::kByte, {-1}).contiguous();
    const std::string origin = checkpoint.file_of(name).string() + ": tensor '" + name + "'";
    if (bytes.numel() > kMaxStateBytes)
      fail("{} has {} bytes, more than {}", origin, bytes.numel(), kMaxStateBytes);
    const auto* first = reinterpret_cast<const char*>(bytes.const_data_ptr<uint8_t>());
    const Json state = parse_json(std::string(first, static_cast<size_t>(bytes.numel())), origin);
    const auto shape = require<std::vector<int64_t>>(state, "shape", origin);
    constexpr int64_t kMost = int64_t{1} << 31;
    if (shape.size() != 2 || shape[0] <= 0 || shape[1] <= 0 || shape[0] >= kMost || shape[1] >= kMost ||
        shape[1] % kNf4Block != 0)
      fail("{}: the shape [{}] is not that of a matrix in blocks of {}", origin, fmt::join(shape, ", "),
           kNf4Block);
    if (require<int64_t>(state, "blocksize", origin) != kNf4Block ||
        require<int64_t>(state, "nested_blocksize", origin) != kNf4NestedBlock)
      fail("{}: visq reads blocks of {}, and their scales in blocks of {}", origin, kNf4Block,
           kNf4NestedBlock);
    return {shape[0], shape[1], static_cast<float>(require<double>(state, "nested_offset", origin))};
  }

  static void check_levels(const Checkpoint& checkpoint, const std::string& name, const at::Tensor& levels) {
    if (!at::equal(read_checked(checkpoint, name, at::kFloat, levels.sizes().vec()), levels))
      fail("{}: tensor '{}' holds other levels than those of nf4 with double quantization",
           checkpoint.file_of(name).string(), name);
  }
};

}  // namespace

const Layout& bitsandbytes_layout() {
  static const BitsAndBytesLayout layout;
  return layout;
}

}  // namespace visq

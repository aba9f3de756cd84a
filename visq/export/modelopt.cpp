// ModelOpt's unified Hugging Face layout (spec/export.md §3).
#include <ATen/ATen.h>

#include <algorithm>
#include <set>

#include "visq/export/layout_parts.h"

namespace visq {
namespace {

// The version whose layout this is; loaders find the producer by its name (spec/export.md §7.1).
constexpr const char* kProducerVersion = "0.47.0+visq" VISQ_VERSION;

struct Algorithm {
  const char* preset;  ///< one that is stored so
  const char* name;
};

const std::vector<Algorithm>& algorithms() {
  static const std::vector<Algorithm> all = {
      {"fp8", "FP8"},
      {"int8_sq", "W8A8_SQ_PER_CHANNEL"},  // held, but no engine loads it (spec/export.md §7.2)
      {"int4_awq_lite", "W4A16_AWQ"},
      {"w4a8_awq", "W4A8_AWQ"},
      {"nvfp4_max", "NVFP4"},
      {"nvfp4_svdquant", "NVFP4_SVD"},  // written by ModelOpt, read by no engine
      {"fp8_pc_pt", "FP8_PER_CHANNEL_PER_TOKEN"},
      {"fp8_pb_wo", "fp8_pb_wo"},  // TensorRT-LLM wants it in lower case (§7.2)
      {"int8_wo", "W8A16"},
      {"w4a16_nvfp4_max", "W4A16_NVFP4"},
      {"w4a8_nvfp4_fp8", "W4A8_NVFP4_FP8"},
      {"w4a8_mxfp4_fp8", "W4A8_MXFP4_FP8"},
      {"mxfp8", "MXFP8"},
      {"mxfp4", "mxfp4"},  // written by ModelOpt, read by no engine
      // Not written by ModelOpt: stored like the others.
      {"mxfp6", "mxfp6"},
      {"mxint8", "mxint8"},
  };
  return all;
}

constexpr const char* kMixed = "MIXED_PRECISION";

const Algorithm* find_algorithm(Scheme scheme) {
  for (const Algorithm& algorithm : algorithms()) {
    const Scheme& stored = find_preset(algorithm.preset).scheme;
    if (stored.low_rank > 0 && scheme.low_rank > 0)
      scheme.low_rank = stored.low_rank;  // any rank has the same
    if (stored.stored_like(scheme)) return &algorithm;
  }
  return nullptr;
}

const Algorithm& algorithm_of(const Scheme& scheme) {
  const Algorithm* found = find_algorithm(scheme);
  if (found == nullptr) fail("the modelopt layout has no algorithm for {}", describe_weight(scheme));
  return *found;
}

const Algorithm& named_algorithm(const std::string& name, const std::string& origin) {
  for (const Algorithm& algorithm : algorithms())
    if (name == algorithm.name) return algorithm;
  fail("{}: quant_algo '{}' is not one that visq reads", origin, name);
}

// Keys that both configurations carry for blockwise formats.
void add_block_keys(Json& config, const Scheme& scheme) {
  if (scheme.weight != Codec::int4 && scheme.weight != Codec::nvfp4 && !is_mx(scheme.weight)) return;
  config["group_size"] = scheme.block;
  if (scheme.weight != Codec::int4 && scheme.low_rank == 0) return;
  config["has_zero_point"] = false;
  config["pre_quant_scale"] =
      scheme.low_rank == 0;  // ModelOpt's low-rank factors have it, ours are beside folded ones
}

// The algorithm of each linear, where they differ (spec/export.md §3.3).
Json quantized_layers(const ExportSummary& summary) {
  Json layers = Json::object();
  for (const auto& [module, scheme] : summary.linears) {
    Json layer = {{"quant_algo", algorithm_of(scheme).name}};
    add_block_keys(layer, scheme);
    // TensorRT-LLM looks them up under the text model's own names, whatever they are called in the files.
    layers[module] = layer;
    layers["model." + name_from_layers(module)] = layer;
  }
  return layers;
}

// What the FP8 and NVFP4 algorithms say of themselves once more in the manner of compressed-tensors. Empty:
// others.
Json config_group(const Scheme& scheme) {
  const bool grouped = scheme.stored_like(find_preset("fp8").scheme) ||
                       (scheme.weight == Codec::nvfp4 && scheme.input != InputFormat::fp8);
  if (!grouped) return {};
  Json arguments = {
      {"dynamic", false}, {"num_bits", scheme.weight == Codec::nvfp4 ? 4 : 8}, {"type", "float"}};
  if (scheme.block > 0) arguments["group_size"] = scheme.block;
  Json group = {{"weights", arguments}, {"targets", {"Linear"}}};
  if (scheme.low_rank > 0) {
    group["has_zero_point"] = false;
    group["pre_quant_scale"] = false;
  }
  if (scheme.input != InputFormat::none) group["input_activations"] = arguments;
  return group;
}

void add_config_groups(Json& config, const ExportSummary& summary) {
  for (const Scheme& scheme : summary.schemes) {
    Json group = config_group(scheme);
    if (group.is_null()) continue;
    if (summary.schemes.size() > 1) {
      group["targets"] = Json::array();
      for (const auto& [module, of_module] : summary.linears)
        if (of_module.stored_like(scheme)) group["targets"].push_back(module);
    }
    Json& groups = config["config_groups"];
    groups["group_" + std::to_string(groups.size())] = std::move(group);
  }
}

// What both configurations say of the weights.
void add_algorithm(Json& config, const ExportSummary& summary) {
  const bool mixed = summary.schemes.size() > 1;
  config["quant_algo"] = mixed ? kMixed : algorithm_of(summary.schemes.front()).name;
  if (mixed) config["quantized_layers"] = quantized_layers(summary);
}

// For every root R the entries R and R.*: a bare "R*" is not understood alike by all engines (spec/export.md
// §7.6).
std::vector<std::string> exclude_modules(const ExportSummary& summary) {
  std::vector<std::string> entries;
  std::vector<std::string> roots, in_layers;
  for (const std::string& root : summary.unquantized_roots)
    (root.find("layers.") == std::string::npos ? roots : in_layers).push_back(root);
  for (std::string& root : names_in_engines(in_layers)) roots.push_back(std::move(root));
  for (const std::string& root : roots) {
    entries.push_back(root);
    entries.push_back(root + ".*");
  }
  for (std::string& name : names_in_engines(summary.unquantized_linears)) entries.push_back(std::move(name));
  return entries;
}

struct KvAlgorithm {
  const char* name;
  std::vector<KvCacheFormat> formats;  ///< first: what a configuration of another tool means
};

// spec/export.md §3.9, §7.2. ModelOpt itself writes FP8 for fp8_affine and NVFP4 for nvfp4_rotate: an engine
// that knows neither means nor rotation would take their scales for those of the plain formats.
const std::vector<KvAlgorithm>& kv_algorithms() {
  using enum KvCacheFormat;
  static const std::vector<KvAlgorithm> all = {
      {"FP8", {fp8, fp8_cast}},     {"NVFP4", {nvfp4, nvfp4_cast}},   {"NVFP4_AFFINE", {nvfp4_affine}},
      {"FP8_AFFINE", {fp8_affine}}, {"NVFP4_ROTATE", {nvfp4_rotate}},
  };
  return all;
}

const KvAlgorithm* find_kv_algorithm(KvCacheFormat format) {
  for (const KvAlgorithm& algorithm : kv_algorithms())
    if (std::ranges::find(algorithm.formats, format) != algorithm.formats.end()) return &algorithm;
  return nullptr;
}

class ModelOptLayout final : public Layout {
 public:
  const char* name() const override { return "modelopt"; }
  using Layout::holds;
  bool holds(const Scheme& scheme) const override { return find_algorithm(scheme) != nullptr; }
  bool holds_mixes() const override { return true; }
  at::ScalarType scale_dtype(at::ScalarType) const override { return at::kFloat; }

  std::string misfit(const QuantizedLinear& linear) const override {
    if (linear.scheme.weight != Codec::int4 || linear.rows % 2 == 0) return "";
    return visq::format("{} rows, and ModelOpt packs two of them into a byte", linear.rows);
  }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const std::string& m = linear.module;
    const int64_t n = linear.rows, k = linear.columns;
    const Scheme& scheme = linear.scheme;
    std::vector<LayoutTensor> list;
    const auto add = [&](const char* suffix, at::ScalarType dtype, std::vector<int64_t> shape,
                         std::function<at::Tensor(const PackedLinear&)> value) {
      list.push_back({{m + suffix, dtype, std::move(shape)}, std::move(value)});
    };
    const auto codes = [](const PackedLinear& p) { return p.weight.codes; };
    const auto scale = [](const PackedLinear& p) { return p.weight.scale; };
    switch (scheme.weight) {
      case Codec::fp8_e4m3:
        add(".weight", at::kFloat8_e4m3fn, {n, k}, codes);
        add(".weight_scale", at::kFloat, {}, scale);
        break;
      case Codec::fp8_rows:
        add(".weight", at::kFloat8_e4m3fn, {n, k}, codes);
        add(".weight_scale", at::kFloat, {n}, scale);
        break;
      case Codec::fp8_blocks:
        add(".weight", at::kFloat8_e4m3fn, {n, k}, codes);
        add(".weight_scale", at::kFloat, {blocks_of(n), 1, blocks_of(k), 1},
            [](const PackedLinear& p) { return p.weight.scale.unsqueeze(1).unsqueeze(3); });
        break;
      case Codec::int8:
        add(".weight", at::kChar, {n, k}, codes);
        add(".weight_scale", at::kFloat, {n}, scale);
        break;
      case Codec::int4:
        add(".weight", at::kByte, {n / 2, k},
            [](const PackedLinear& p) { return int4_to_row_pairs(p.weight.codes); });
        add(".weight_scale", at::kFloat, {n, k / scheme.block}, scale);
        break;
      case Codec::nvfp4:
        add(".weight", at::kByte, {n, k / 2}, codes);
        add(".weight_scale", at::kFloat8_e4m3fn, {n, k / scheme.block}, scale);
        add(".weight_scale_2", at::kFloat, {}, [](const PackedLinear& p) { return p.weight.scale_2; });
        break;
      case Codec::mxfp4:
      case Codec::mxfp6:
      case Codec::mxfp8:
      case Codec::mxint8:
        add(".weight", mx_dtype(scheme.weight), {n, k * mx_bits(scheme.weight) / 8}, codes);
        add(".weight_scale", at::kByte, {n, k / scheme.block}, scale);
        break;
      case Codec::int4_asym:
      case Codec::nf4:
        fail("the modelopt layout does not hold {}", codec_name(scheme.weight));
    }
    if (scheme.fp8_second_stage)
      add(".weight_scale_2", at::kFloat, {},
          [](const PackedLinear& p) { return scalar_tensor(p.second_scale.value(), at::kFloat, {}); });
    if (scheme.has_input_scale())
      add(".input_scale", at::kFloat, {},
          [](const PackedLinear& p) { return scalar_tensor(p.input_scale.value(), at::kFloat, {}); });
    if (const int64_t rank = scheme.low_rank; rank > 0) {
      add(kLowRankA, linear.source_dtype, {rank, k}, [](const PackedLinear& p) { return p.low_rank.a; });
      add(kLowRankB, linear.source_dtype, {n, rank}, [](const PackedLinear& p) { return p.low_rank.b; });
    }
    // Our smoothing is folded: factors are ones where a loader insists on the tensor (spec/export.md §3.4,
    // §7.5). Checkpoints of others may have real ones.
    if (scheme.solver == Solver::smoothquant || (scheme.weight == Codec::int4 && linear.standalone))
      add(".pre_quant_scale", linear.source_dtype, {k},
          [dtype = linear.source_dtype, k](const PackedLinear& p) {
            return p.pre_quant_scale.defined() ? p.pre_quant_scale.to(dtype) : at::ones({k}, dtype);
          });
    return list;
  }

  bool holds(KvCacheFormat format) const override { return find_kv_algorithm(format) != nullptr; }
  KvStorage kv_storage(at::ScalarType) const override { return {".k_proj.k_", ".v_proj.v_", at::kFloat, {}}; }

  Json quantization_config(const ExportSummary& summary) const override {
    Json config;
    add_config_groups(config, summary);
    config["ignore"] = exclude_modules(summary);
    add_algorithm(config, summary);
    if (const Json algorithm = kv_algorithm(summary.kv_cache); algorithm == "FP8")
      config["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    else if (!algorithm.is_null())
      config["kv_cache_scheme"] = algorithm;
    config["producer"] = producer_of("modelopt", summary);
    config["producer"]["version"] = kProducerVersion;
    config["quant_method"] = "modelopt";
    // Not written by ModelOpt, but readers of config.json alone cannot build the layer without them (§3.3).
    if (summary.schemes.size() == 1) add_block_keys(config, summary.schemes.front());
    config["kv_cache_quant_algo"] = kv_algorithm(summary.kv_cache);
    return config;
  }

  std::vector<std::pair<std::string, Json>> extra_files(const ExportSummary& summary) const override {
    Json quantization;
    add_algorithm(quantization, summary);
    quantization["kv_cache_quant_algo"] = kv_algorithm(summary.kv_cache);
    if (summary.schemes.size() == 1) add_block_keys(quantization, summary.schemes.front());
    quantization["exclude_modules"] = exclude_modules(summary);
    return {{"hf_quant_config.json",
             {{"producer", {{"name", "modelopt"}, {"version", kProducerVersion}}},
              {"quantization", quantization}}}};
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "modelopt") return std::nullopt;
    StoredQuantization stored;
    stored.recipe = named_recipe(config);
    stored.kv_cache = recognise_kv_cache(config, origin);
    const auto algorithm = require<std::string>(config, "quant_algo", origin);
    if (algorithm != kMixed) {
      stored.scheme = named_scheme(config, named_algorithm(algorithm, origin).preset);
      return stored;
    }
    const auto layers = require<Json>(config, "quantized_layers", origin);
    if (!layers.is_object() || layers.empty()) fail("{}: quantized_layers lists no linear", origin);
    for (const auto& [module, layer] : layers.items()) {
      const auto name = require<std::string>(layer, "quant_algo", origin + ": quantized_layers: " + module);
      stored.linears.emplace(module, named_scheme(config, named_algorithm(name, origin).preset));
    }
    stored.scheme = stored.linears.begin()->second;
    return stored;
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {".weight",      ".weight_scale",    ".weight_scale_2",
                                                 ".input_scale", ".pre_quant_scale", kLowRankA,
                                                 kLowRankB};
    return all;
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".weight_scale");
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    const std::string weight = module + ".weight", scale = module + ".weight_scale";
    switch (scheme.weight) {
      case Codec::fp8_e4m3:
        packed.codes = read_checked(checkpoint, weight, at::kFloat8_e4m3fn, {-1, -1});
        packed.scale = scalar_tensor(read_scale(checkpoint, scale), at::kFloat, {});
        break;
      case Codec::fp8_rows:
        packed.codes = read_checked(checkpoint, weight, at::kFloat8_e4m3fn, {-1, -1});
        packed.scale = read_checked(checkpoint, scale, at::kFloat, {packed.codes.size(0)});
        break;
      case Codec::fp8_blocks: {
        packed.codes = read_checked(checkpoint, weight, at::kFloat8_e4m3fn, {-1, -1});
        const int64_t down = blocks_of(packed.codes.size(0)), across = blocks_of(packed.codes.size(1));
        packed.scale = read_checked(checkpoint, scale, at::kFloat, {down, 1, across, 1}).view({down, across});
        break;
      }
      case Codec::int8:
        packed.codes = read_checked(checkpoint, weight, at::kChar, {-1, -1});
        packed.scale = read_checked(checkpoint, scale, at::kFloat, {packed.codes.size(0)});
        break;
      case Codec::int4:
        packed.codes = int4_from_row_pairs(read_checked(checkpoint, weight, at::kByte, {-1, -1}));
        packed.scale = read_checked(checkpoint, scale, at::kFloat,
                                    {packed.codes.size(0), packed.codes.size(1) / scheme.block});
        break;
      case Codec::nvfp4:
        packed.codes = read_checked(checkpoint, weight, at::kByte, {-1, -1});
        packed.scale = read_checked(checkpoint, scale, at::kFloat8_e4m3fn,
                                    {packed.codes.size(0), packed.codes.size(1) * 2 / scheme.block});
        packed.scale_2 = scalar_tensor(read_scale(checkpoint, module + ".weight_scale_2"), at::kFloat, {});
        break;
      case Codec::mxfp4:
      case Codec::mxfp6:
      case Codec::mxfp8:
      case Codec::mxint8: {
        packed.codes = read_checked(checkpoint, weight, mx_dtype(scheme.weight), {-1, -1});
        const int64_t bytes_of_block = scheme.block * mx_bits(scheme.weight) / 8;
        if (packed.codes.size(1) % bytes_of_block != 0)
          fail("{}: tensor '{}' has rows of {} bytes, not whole blocks of {}",
               checkpoint.file_of(weight).string(), weight, packed.codes.size(1), bytes_of_block);
        packed.scale = read_checked(checkpoint, scale, at::kByte,
                                    {packed.codes.size(0), packed.codes.size(1) / bytes_of_block});
        break;
      }
      case Codec::int4_asym:
      case Codec::nf4:
        fail("the modelopt layout does not hold {}", codec_name(scheme.weight));
    }
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    if (scheme.weight == Codec::nvfp4) packed.columns *= 2;
    if (is_mx(scheme.weight)) packed.columns = packed.columns * 8 / mx_bits(scheme.weight);
    if (scheme.fp8_second_stage) linear.second_scale = read_scale(checkpoint, module + ".weight_scale_2");
    if (scheme.has_input_scale()) linear.input_scale = read_scale(checkpoint, module + ".input_scale");
    if (checkpoint.contains(module + ".pre_quant_scale"))
      linear.pre_quant_scale = checkpoint.tensor(module + ".pre_quant_scale");
    if (scheme.low_rank > 0) linear.low_rank = read_low_rank(checkpoint, module, packed);
    return linear;
  }

 private:
  static LowRank read_low_rank(const Checkpoint& checkpoint, const std::string& module,
                               const PackedTensor& weight) {
    const at::ScalarType dtype = checkpoint.info(module + kLowRankA).dtype;
    if (!at::isFloatingType(dtype) || at::isFloat8Type(dtype))
      fail("{}: tensor '{}{}' is {}, not F32, BF16 or F16", checkpoint.file_of(module + kLowRankA).string(),
           module, kLowRankA, safetensors_dtype(dtype));
    const at::Tensor a = read_checked(checkpoint, module + kLowRankA, dtype, {-1, weight.columns});
    return {a, read_checked(checkpoint, module + kLowRankB, dtype, {weight.rows, a.size(0)})};
  }

  static Json kv_algorithm(KvCacheFormat format) {
    const KvAlgorithm* found = find_kv_algorithm(format);
    return found != nullptr ? Json(found->name) : Json(nullptr);
  }

  static KvCacheFormat recognise_kv_cache(const Json& config, const std::string& origin) {
    const auto scheme = get_or<Json>(config, "kv_cache_scheme", nullptr, origin);
    if (scheme.is_null()) return KvCacheFormat::none;
    const std::string name = scheme.is_string() ? scheme.get<std::string>() : "FP8";
    for (const KvAlgorithm& algorithm : kv_algorithms())
      if (algorithm.name == name) return named_kv_cache(config, algorithm.formats.front());
    fail("{}: kv_cache_scheme '{}' is not one that visq reads", origin, name);
  }
};

}  // namespace

const Layout& modelopt_layout() {
  static const ModelOptLayout layout;
  return layout;
}

}  // namespace visq

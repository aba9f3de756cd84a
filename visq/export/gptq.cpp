// The layout of AutoGPTQ's and GPTQModel's checkpoints (spec/export.md §6.2).
#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/column_order.h"
#include "visq/export/grouped_layout.h"
#include "visq/export/layout_parts.h"
#include "visq/export/module_targets.h"
#include "visq/export/quantized_checkpoint.h"

namespace visq {
namespace {

constexpr const char *kV1 = "gptq", *kV2 = "gptq_v2";

bool is_int4(const Scheme& scheme) {
  return scheme.weight == Codec::int4 || scheme.weight == Codec::int4_asym;
}

bool is_held(const Scheme& scheme) {
  const bool weight = scheme.weight == Codec::int4 || scheme.weight == Codec::int8 ||
                      (scheme.weight == Codec::int4_asym && scheme.block > 0);
  return weight && !scheme.fp8_second_stage && scheme.input == InputFormat::none && scheme.low_rank == 0;
}

int64_t bits_of(const Scheme& scheme) { return is_int4(scheme) ? 4 : 8; }

// −8…7 or −128…127, [a, b] → [a, b · bits / 32], and back.
at::Tensor to_words(const at::Tensor& codes, int64_t bits) {
  return bits == 4 ? int4_to_words(codes) : int8_to_words(codes);
}
at::Tensor from_words(const at::Tensor& words, int64_t bits) {
  return bits == 4 ? int4_from_words(words) : int8_from_words(words);
}

// The first version of the layout stores zero points less one, so that a zero point of 0 is read as 16 by
// some kernels and as 0 by others: those of asymmetric weights go into the second. Symmetric ones, which have
// none of 0, stay in the first, because loaders that ask for a version know that one.
const char* version_for(const Scheme& scheme) { return scheme.weight == Codec::int4_asym ? kV2 : kV1; }

/// What stands for the zero points of symmetric weights, as a code.
int64_t middle(const std::string& version) { return version == kV1 ? -1 : 0; }

std::string version_of(const Json& config, const std::string& origin) {
  const auto version = get_or<std::string>(config, "checkpoint_format",
                                           get_or<std::string>(config, "format", kV1, origin), origin);
  if (version != kV1 && version != kV2)
    fail("{}: checkpoint_format is '{}'; visq reads '{}' and '{}'", origin, version, kV1, kV2);
  return version;
}

/// @param own  settings of some linears, which stand before those of all
Scheme read_scheme(const Json& config, const Json& own, const std::string& origin) {
  if (!own.is_object()) fail("{}: is no object", origin);
  const auto of = [&](const char* key) -> const Json& { return own.contains(key) ? own : config; };
  const int64_t bits = read_number(of("bits"), {"bits"}, origin);
  const int64_t size = read_group_size(of("group_size"), {"group_size"}, origin);
  const bool symmetric = require<bool>(of("sym"), "sym", origin);
  Scheme scheme;
  if (bits == 4)
    scheme = find_preset(symmetric ? "int4_gptq" : "int4_awq_asym").scheme;
  else if (bits == 8 && symmetric)
    scheme = find_preset(size == -1 ? "int8_wo" : "int8_wo_g128").scheme;
  else
    fail("{}: {} bits, sym {}: of GPTQ's layout visq reads 4 bits, and 8 bits with sym true", origin, bits,
         symmetric);
  if (size == -1 && !symmetric) fail("{}: zero points of whole rows (group_size -1) are not read", origin);
  scheme.block = std::max(size, int64_t{0});
  scheme.ordered_columns = size != -1 && get_or<bool>(of("desc_act"), "desc_act", false, origin);
  return named_scheme(config, scheme);
}

class GptqLayout final : public GroupedLayout {
 public:
  using GroupedLayout::holds;
  const char* name() const override { return "gptq"; }
  bool holds(const Scheme& scheme) const override { return is_held(scheme); }
  const char* exclude_key() const override { return "dynamic"; }
  std::vector<std::string> exclude_entries(const Json& config, const std::string& origin) const override {
    std::vector<std::string> entries;
    const auto dynamic = get_or<Json>(config, "dynamic", Json::object(), origin);
    for (const auto& [pattern, settings] : dynamic.items())
      if (pattern.starts_with("-:")) entries.push_back(pattern);
    return entries;
  }

  std::string misfit(const QuantizedLinear& linear) const override {
    const int64_t per_word = 32 / bits_of(linear.scheme);
    if (linear.columns % per_word == 0 && linear.rows % per_word == 0) return "";
    return visq::format("{} rows and {} columns, and GPTQ's layout packs {} of either into a word",
                        linear.rows, linear.columns, per_word);
  }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const int64_t rows = linear.rows, columns = linear.columns, bits = bits_of(linear.scheme);
    const int64_t groups = groups_of(linear.scheme, columns),
                  size = linear.scheme.block > 0 ? linear.scheme.block : columns;
    const int64_t no_zero = middle(version_for(linear.scheme));
    return {{{linear.module + ".qweight", at::kInt, {columns * bits / 32, rows}},
             [bits](const PackedLinear& p) {
               return to_words(in_order(p, p.weight.codes), bits).t().contiguous();
             }},
            // Readers want them of symmetric weights too.
            {{linear.module + ".qzeros", at::kInt, {groups, rows * bits / 32}},
             [=](const PackedLinear& p) {
               return to_words(p.weight.zero_point.defined() ? p.weight.zero_point.t().contiguous()
                                                             : at::full({groups, rows}, no_zero, at::kChar),
                               bits);
             }},
            scales_tensor(linear),
            {{linear.module + ".g_idx", at::kInt, {columns}},
             [size](const PackedLinear& p) { return groups_of_columns(p, size); }}};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    const Scheme& scheme = summary.schemes.front();
    Json config;
    config["quant_method"] = "gptq";
    config["bits"] = bits_of(scheme);
    config["group_size"] = scheme.block > 0 ? scheme.block : -1;
    config["sym"] = scheme.weight != Codec::int4_asym;
    config["desc_act"] = scheme.ordered_columns;
    config["true_sequential"] = false;
    config["lm_head"] = false;
    config["checkpoint_format"] = version_for(scheme);
    // The names in it are compared with those that engines give to modules. vLLM finds out by itself which
    // linears are quantized (modules_in_block_to_quantize), SGLang reads it here alone.
    const LeftOut parts = left_out(summary);
    Json& dynamic = config["dynamic"] = Json::object();
    for (const std::string& part : parts.subtrees)
      dynamic["-:.*" + escape_dots(part) + ".*"] = Json::object();
    for (const std::string& part : parts.linears) dynamic["-:.*" + escape_dots(part) + "$"] = Json::object();
    // transformers looks for the layers where most models have them, and fails for Idefics3 and SmolVLM.
    if (!summary.linears.empty() && summary.linears.front().first.starts_with("model.text_model.layers."))
      config["block_name_to_quantize"] = "model.text_model.layers";
    config["producer"] = producer_of("visq", summary);
    return config;
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "gptq") return std::nullopt;
    version_of(config, origin);
    if (get_or<bool>(config, "lm_head", false, origin))
      fail("{}: lm_head is quantized, which visq does not read", origin);
    const Scheme scheme = read_scheme(config, config, origin);
    return StoredQuantization{scheme, {}, KvCacheFormat::none, named_recipe(config)};
  }

  // The first entry that matches counts: "-:" leaves a linear as it is, others have settings of its own.
  void resolve(StoredQuantization& stored, const Json& config, const std::vector<std::string>& modules,
               const std::string& origin) const override {
    const auto dynamic = get_or<Json>(config, "dynamic", Json::object(), origin);
    std::vector<std::pair<ModuleTargets, std::optional<Scheme>>> entries;
    bool settings = false;
    for (const auto& [pattern, own] : dynamic.items()) {
      const bool excludes = pattern.starts_with("-:"), marked = excludes || pattern.starts_with("+:");
      const std::string where = visq::format("{}: dynamic '{}'", origin, pattern);
      std::optional<Scheme> scheme;
      if (!excludes) scheme = read_scheme(config, own, where);
      entries.emplace_back(ModuleTargets({"re:" + pattern.substr(marked ? 2 : 0)}, where), scheme);
      settings |= !excludes;
    }
    if (!settings) return;
    for (const std::string& module : modules) {
      Scheme scheme = stored.scheme;
      for (const auto& [targets, own] : entries) {
        if (targets.match(module, /*other_spellings=*/true) == ModuleTargets::Match::none) continue;
        if (own) scheme = *own;
        break;
      }
      stored.linears.emplace(module, scheme);
    }
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {".qweight", ".qzeros", ".scales", ".g_idx"};
    return all;
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    const int64_t bits = bits_of(scheme);
    const std::string codes = module + ".qweight";
    packed.codes = from_words(read_checked(checkpoint, codes, at::kInt, {-1, -1}).t().contiguous(), bits);
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    check_groups(checkpoint, codes, packed);
    const int64_t groups = groups_of(scheme, packed.columns);
    packed.scale = read_scales(checkpoint, module + ".scales", groups, packed.rows);
    if (groups == 1 && scheme.block == 0) packed.scale = packed.scale.squeeze(1);
    read_column_groups(checkpoint, module + ".g_idx", scheme, linear);
    read_zeros(checkpoint, module + ".qzeros", groups, packed);
    return linear;
  }

 private:
  static void read_zeros(const Checkpoint& checkpoint, const std::string& name, int64_t groups,
                         PackedTensor& packed) {
    const bool asymmetric = packed.codec == Codec::int4_asym;
    const int64_t bits = packed.codec == Codec::int8 ? 8 : 4;
    const CheckpointPart& part = checkpoint.text_model();
    const std::string version =
        version_of(quantization_config_of(part), (part.directory / "config.json").string());
    if (packed.rows % (32 / bits) != 0)
      fail("{}: tensor '{}' is of {} rows, which fill no words", checkpoint.file_of(name).string(), name,
           packed.rows);
    const at::Tensor zeros = from_words(
        read_checked(checkpoint, name, at::kInt, {groups, packed.rows * bits / 32}), bits);  // [groups, rows]
    if (!asymmetric) {
      if (!zeros.eq(middle(version)).all().item<bool>())
        fail("{}: tensor '{}' has zero points, but the quantization_config says 'sym'",
             checkpoint.file_of(name).string(), name);
      return;
    }
    at::Tensor zero_point = zeros.t().contiguous();
    // One more than what is stored, within four bits as the newer kernels have it.
    if (version == kV1)
      zero_point = at::where(zero_point == 7, at::full_like(zero_point, -8), zero_point + 1);
    packed.zero_point = zero_point;
  }
};

}  // namespace

const Layout& gptq_layout() {
  static const GptqLayout layout;
  return layout;
}

}  // namespace visq

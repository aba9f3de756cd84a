// The layout of AutoAWQ's checkpoints, version "gemm" (spec/export.md §6.1). Smoothing is folded: the files
// have no place for factors of the input.
#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/grouped_layout.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

bool is_held(const Scheme& scheme) {
  const bool int4 = scheme.weight == Codec::int4 || scheme.weight == Codec::int4_asym;
  return int4 && scheme.block > 0 && !scheme.ordered_columns && !scheme.fp8_second_stage &&
         scheme.input == InputFormat::none && scheme.low_rank == 0;
}

// int8 [rows, columns] of −8…7 → eight rows a word: int32 [columns, rows / 8]; and back.
at::Tensor to_words(const at::Tensor& codes) {
  return words_to_awq_order(int4_to_words(codes.t().contiguous()));
}
at::Tensor from_words(const at::Tensor& words) {
  return int4_from_words(words_from_awq_order(words)).t().contiguous();
}

class AutoAwqLayout final : public GroupedLayout {
 public:
  using GroupedLayout::holds;
  const char* name() const override { return "autoawq"; }
  bool holds(const Scheme& scheme) const override { return is_held(scheme); }
  const char* exclude_key() const override { return "modules_to_not_convert"; }

  std::string misfit(const QuantizedLinear& linear) const override {
    if (linear.rows % 8 == 0) return "";
    return visq::format("{} rows, and AutoAWQ packs eight of them into a word", linear.rows);
  }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const int64_t rows = linear.rows, groups = groups_of(linear.scheme, linear.columns);
    return {{{linear.module + ".qweight", at::kInt, {linear.columns, rows / 8}},
             [](const PackedLinear& p) { return to_words(p.weight.codes); }},
            {{linear.module + ".qzeros", at::kInt, {groups, rows / 8}},
             [rows, groups](const PackedLinear& p) {
               return to_words(p.weight.zero_point.defined() ? p.weight.zero_point
                                                             : at::zeros({rows, groups}, at::kChar));
             }},
            scales_tensor(linear)};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    const Scheme& scheme = summary.schemes.front();
    Json config;
    config["quant_method"] = "awq";
    config["bits"] = 4;
    config["group_size"] = scheme.block;
    // Of symmetric weights too, whose zero points are all in the middle: without them vLLM and SGLang have no
    // fast kernels for this layout, which always stores them.
    config["zero_point"] = true;
    config["version"] = "gemm";
    const LeftOut parts = left_out(summary);
    Json& names = config["modules_to_not_convert"] = Json::array();
    // Parts of names for engines, which look for them anywhere; whole ones for transformers, which compares
    // beginnings and ends.
    for (const auto* list :
         {&parts.subtrees, &parts.linears, &summary.unquantized_roots, &summary.unquantized_linears})
      for (const std::string& name : *list)
        if (std::ranges::find(names, Json(name)) == names.end()) names.push_back(name);
    config["producer"] = producer_of("visq", summary);
    config["producer"]["symmetric"] = scheme.weight == Codec::int4;
    return config;
  }

  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    if (get_or<std::string>(config, "quant_method", "", origin) != "awq") return std::nullopt;
    const int64_t bits = read_number(config, {"bits", "w_bit"}, origin);
    if (bits != 4) fail("{}: bits is {}; of AutoAWQ's layout visq reads 4", origin, bits);
    const auto version = get_or<std::string>(config, "version", "gemm", origin);
    if (version != "gemm" && version != "GEMM")
      fail("{}: version is '{}'; of AutoAWQ's layouts visq reads 'gemm'", origin, version);
    const int64_t size = read_group_size(config, {"group_size", "q_group_size"}, origin);
    if (size == -1)
      fail("{}: the group size is -1, one scale a row; of AutoAWQ's layout visq reads groups", origin);
    const bool symmetric = !require<bool>(config, "zero_point", origin) || is_marked_symmetric(config);
    Scheme scheme = find_preset(symmetric ? "int4_awq_lite" : "int4_awq_asym").scheme;
    scheme.block = size;
    return StoredQuantization{named_scheme(config, scheme), {}, KvCacheFormat::none, named_recipe(config)};
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {".qweight", ".qzeros", ".scales"};
    return all;
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    const std::string codes = module + ".qweight", zeros = module + ".qzeros";
    packed.codes = from_words(read_checked(checkpoint, codes, at::kInt, {-1, -1}));
    packed.rows = packed.codes.size(0);
    packed.columns = packed.codes.size(1);
    check_groups(checkpoint, codes, packed);
    const int64_t groups = packed.columns / packed.block;
    packed.scale = read_scales(checkpoint, module + ".scales", groups, packed.rows);
    const bool symmetric = scheme.weight == Codec::int4;
    if (symmetric && !checkpoint.contains(zeros)) return linear;  // some tools leave them out
    const at::Tensor zero_point =
        from_words(read_checked(checkpoint, zeros, at::kInt, {groups, packed.rows / 8}));
    if (!symmetric)
      packed.zero_point = zero_point;
    else if (zero_point.any().item<bool>())
      fail(
          "{}: tensor '{}' has zero points other than 8, but the quantization_config says that there are "
          "none",
          checkpoint.file_of(zeros).string(), zeros);
    return linear;
  }

 private:
  static bool is_marked_symmetric(const Json& config) {
    const auto producer = config.find("producer");
    return producer != config.end() && producer->is_object() && producer->value("symmetric", Json()) == true;
  }
};

}  // namespace

const Layout& autoawq_layout() {
  static const AutoAwqLayout layout;
  return layout;
}

}  // namespace visq

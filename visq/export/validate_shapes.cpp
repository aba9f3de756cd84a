// Rules B3 and C: what a linear's tensors are, by their headers alone.
#include <fmt/ranges.h>

#include <algorithm>
#include <numeric>

#include "visq/export/layout_parts.h"
#include "visq/export/validation_context.h"

namespace visq {
namespace {

constexpr int64_t kMarlinRows = 64;  // vLLM's kernels for GPUs without FP4 (spec/export.md §7.3)

/// Rows and columns of a packed linear, by what its layout would store; empty: no extents give this shape.
std::optional<std::pair<int64_t, int64_t>> extents(const Layout& layout, QuantizedLinear linear,
                                                   const StoredModule& stored) {
  const TensorInfo* weight = stored.weight();
  if (weight == nullptr || weight->shape.size() != 2) return std::nullopt;
  const int64_t down = weight->shape[0], across = weight->shape[1];
  for (const auto& [rows, columns] :
       {std::pair{down, across}, std::pair{down, across * 2}, std::pair{down * 2, across},
        std::pair{down, across * 4}, std::pair{down, across * 8}, std::pair{down, across * 4 / 3}}) {
    linear.rows = rows;
    linear.columns = columns;
    for (const LayoutTensor& tensor : layout.tensors(linear))
      if (tensor.planned.name == weight->name && tensor.planned.shape == weight->shape)
        return std::pair{rows, columns};
  }
  return std::nullopt;
}

bool is_scale(const std::string& name) { return name.find("scale") != std::string::npos; }

bool is_plain(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

/// Loaders take scalars of either shape, and scales of any floating-point type.
bool fits(const TensorInfo& info, const PlannedTensor& planned) {
  const auto count = [](const std::vector<int64_t>& shape) {
    return shape.size() <= 1 ? std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>())
                             : int64_t{0};
  };
  const bool shape = info.shape == planned.shape || (count(info.shape) == 1 && count(planned.shape) == 1);
  const bool dtype = info.dtype == planned.dtype ||
                     (is_scale(planned.name) && is_plain(info.dtype) && is_plain(planned.dtype));
  return shape && dtype;
}

/// Extents as the source or config.json have them.
std::optional<std::pair<int64_t, int64_t>> known_extents(const ValidationContext& context,
                                                         const std::string& module) {
  if (context.source != nullptr && context.source->contains(module + ".weight")) {
    const TensorInfo& info = context.source->info(module + ".weight");
    if (info.shape.size() == 2) return std::pair{info.shape[0], info.shape[1]};
  }
  if (context.spec)
    if (const auto found = context.expected.find(NameMap::canonical(*context.spec, module + ".weight"));
        found != context.expected.end() && found->second.size() == 2)
      return std::pair{found->second[0], found->second[1]};
  return std::nullopt;
}

void check_packed(const ValidationContext& context, const std::string& module, Findings& findings) {
  const Layout& layout = context.quantized->layout();
  const Scheme& scheme = context.quantized->scheme(module);
  QuantizedLinear linear{module, 0, 0, at::kBFloat16, scheme, reads_alone(module)};
  const StoredModule& stored = context.stored.at(module);
  for (const char* scale : {".pre_quant_scale", kLowRankA, ".weight_scale"})  // where one has it
    if (context.output.contains(module + scale)) {
      linear.source_dtype = context.output.info(module + scale).dtype;
      break;
    }
  if (context.source != nullptr && context.source->contains(module + ".weight"))
    linear.source_dtype = context.source->info(module + ".weight").dtype;
  auto size = known_extents(context, module);
  if (!size) size = extents(layout, linear, stored);
  if (!size)
    if (const auto read = context.read(module)) size = std::pair{read->weight.rows, read->weight.columns};
  if (!size) {
    const TensorInfo* weight = stored.weight();
    findings.add(
        "",
        context.unreadable.contains(module)
            ? context.unreadable.at(module)
            : visq::format("'{}' is [{}], which no linear of this format has", module,
                           fmt::join(weight == nullptr ? std::vector<int64_t>{} : weight->shape, ", ")),
        "quantize again, or name the format of these tensors in quantization_config");
    return;
  }
  linear.rows = size->first;
  linear.columns = size->second;
  findings.expect(
      scheme.block == 0 || scheme.weight == Codec::fp8_blocks || linear.columns % scheme.block == 0,
      "leave it in BF16 and exclude it", "'{}' has {} columns, not a multiple of the block of {}", module,
      linear.columns, scheme.block);
  bool wrong = false;
  for (const LayoutTensor& expected : layout.tensors(linear)) {
    const PlannedTensor& planned = expected.planned;
    findings.count();
    if (!context.output.contains(planned.name)) {
      // Loaders read inputs' scales as dynamic, or factors as ones, where tools other than visq leave them
      // out.
      if (planned.name.ends_with(".pre_quant_scale") && context.source == nullptr &&
          !context.is_for("tensorrt-llm"))
        continue;
      wrong = true;
      findings.add("",
                   visq::format("tensor '{}' is missing: {} needs it, engines leave it uninitialised",
                                planned.name, context.quantized->format_name()),
                   // visq may read what engines do not, such as codes that are not packed.
                   context.read(module)
                       ? visq::format("visq convert DIR --to {} stores it as engines read it", layout.name())
                       : "quantize again, or dequantize the linear and exclude it");
      continue;
    }
    const TensorInfo& info = context.output.info(planned.name);
    if (fits(info, planned)) continue;
    wrong = true;
    const bool weight = stored.weight() != nullptr && planned.name == stored.weight()->name;
    findings.add("",
                 visq::format("tensor '{}' is {} [{}], not {} [{}]{}", planned.name,
                              safetensors_dtype(info.dtype), fmt::join(info.shape, ", "),
                              safetensors_dtype(planned.dtype), fmt::join(planned.shape, ", "),
                              weight && is_plain(info.dtype) ? ": the export was not compressed" : ""),
                 "store it so, or name the format of these tensors in quantization_config");
  }
  if (wrong || !context.unreadable.contains(module)) return;
  findings.add("", context.unreadable.at(module), "quantize again");
}

void check_whole(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "B3", "a linear is packed and has scales, or plain and has none");
  std::vector<std::string> inputs, without;
  for (const auto& [module, stored] : context.stored) {
    findings.count();
    const TensorInfo* weight = stored.weight();
    if (weight == nullptr) {
      if (!stored.scales.empty())
        findings.add("", visq::format("'{}.{}' is stored without a weight", module, stored.scales.front()),
                     "delete it, or store the weight");
      continue;
    }
    if (weight->shape.size() != 2) continue;
    if (!stored.is_packed() && !stored.scales.empty())
      findings.add(
          "",
          visq::format("'{}' is {}, though '{}.{}' is stored: the export was not compressed", weight->name,
                       safetensors_dtype(weight->dtype), module, stored.scales.front()),
          "store the codes, or delete the scales and exclude the linear");
    if (stored.is_packed() && stored.scales.empty())
      findings.add("",
                   visq::format("'{}' is {} and has no scales: engines leave those uninitialised",
                                weight->name, safetensors_dtype(weight->dtype)),
                   "quantize again, or dequantize the linear and exclude it");
    if (const auto zero = stored.tensors.find("weight_zero_point");
        zero != stored.tensors.end() && context.quantized != nullptr && context.modules.contains(module) &&
        context.quantized->scheme(module).weight == Codec::int4)
      findings.add("", visq::format("'{}' is stored, but config_groups say symmetric", zero->second.name),
                   "write symmetric: false, or delete the zero points");
    if (context.quantized != nullptr && context.modules.contains(module) &&
        context.quantized->scheme(module).has_input_scale())
      (stored.has("input_scale") || stored.has("input_global_scale") ? inputs : without).push_back(module);
  }
  if (inputs.empty() && without.size() > 1)
    findings.add(
        "",
        visq::format("none of {} quantized linears has an input_scale, which {} needs: calibration never "
                     "reached them, or these are weight-only",
                     without.size(), context.quantized->format_name()),
        "calibrate again, or name a weight-only algorithm (W4A16_NVFP4 instead of NVFP4)");
}

void check_amount(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "C2", "the checkpoint is quantized as far as its configuration says");
  uint64_t plain = 0, all = 0;
  int64_t linears = 0;
  std::string largest;
  uint64_t most = 0;
  for (const std::string& name : context.output.names()) {
    const TensorInfo& info = context.output.info(name);
    const bool decoder =
        name.find("layers.") != std::string::npos && !context.in_tower(name) && !context.in_projector(name);
    if (!decoder || info.shape.size() < 2 || is_scale(name)) continue;
    ++linears;
    all += info.bytes();
    if (!is_plain(info.dtype)) continue;
    plain += info.bytes();
    if (info.bytes() > most) most = info.bytes(), largest = name;
  }
  findings.count();
  if (!context.quantization.is_object()) return findings.skip("nothing is said to be quantized");
  if (linears == 0) return findings.skip("no matrix of the decoder is there to be judged");
  if (context.modules.empty() && plain == all)
    return findings.add(
        "",
        visq::format("quantization_config is there, but 0 of {} linears are quantized: this checkpoint "
                     "has its original size",
                     context.linears.size()),
        "quantize it, or delete quantization_config");
  const double share = static_cast<double>(plain) / static_cast<double>(all);
  if (share > 0.6)
    findings.warn("",
                  visq::format("{:.0f} % of the bytes of the decoder's matrices are not quantized ('{}', …)",
                               100 * share, largest),
                  "quantize the experts or layers that were left out");
}

void check_tiles(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "C3", "extents fill the tiles of the engines' kernels");
  if (context.quantized == nullptr) return findings.skip("the configuration is not one that visq reads");
  std::map<std::string, std::pair<std::string, int64_t>>
      narrow;  // by what is wrong: where first, and how often
  std::string tightest;
  int64_t groups = 0;
  for (const std::string& module : context.modules) {
    const auto stored = context.stored.find(module);
    if (stored == context.stored.end()) continue;
    const Scheme& scheme = context.quantized->scheme(module);
    const auto size = extents(context.quantized->layout(),
                              {module, 0, 0, at::kBFloat16, scheme, reads_alone(module)}, stored->second);
    if (!size) continue;
    findings.count();
    const auto [rows, columns] = *size;
    const bool four_bits =
        scheme.weight == Codec::nvfp4 || scheme.weight == Codec::int4 || scheme.weight == Codec::int4_asym;
    if (four_bits && rows % kMarlinRows != 0)
      if (auto& [first, count] = narrow[visq::format("{} rows, not a multiple of {}", rows, kMarlinRows)];
          count++ == 0)
        first = module;
    if (scheme.block < 32 || columns % scheme.block != 0 || !reads_alone(module)) continue;
    if (const int64_t here = columns / scheme.block; here % 2 != 0 && here > 1 && tightest.empty())
      tightest = module, groups = here;
  }
  if (context.is_for("vllm"))
    for (const auto& [what, where] : narrow)
      findings.warn(
          "vllm",
          visq::format(
              "'{}' has {} ({} linears): the Marlin kernels of GPUs without the format refuse or pad it",
              where.first, what, where.second),
          "leave it in BF16 where the checkpoint shall load there");
  if (!tightest.empty())
    findings.warn(
        "",
        visq::format("'{}' has {} groups along its input: tensor parallelism of 2 does not divide them",
                     tightest, groups),
        "serve it on one GPU or on a divisor of that number, or quantize with a smaller group");
}

}  // namespace

void check_shapes(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "C1",
                    "dtypes and shapes are those of the layout and of the source's linears");
  for (const std::string& module : context.modules)
    if (context.stored.contains(module)) check_packed(context, module, findings);
}

void check_sizes(const ValidationContext& context, Validation& validation) {
  check_whole(context, validation);
  check_amount(context, validation);
  check_tiles(context, validation);
}

}  // namespace visq

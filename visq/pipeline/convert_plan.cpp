#include "visq/pipeline/convert_plan.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/export/validate.h"
#include "visq/pipeline/named_plan.h"
#include "visq/pipeline/packed_difference.h"

namespace visq {
namespace {

const Layout& target_layout(const QuantizedCheckpoint& quantized, const ConvertOptions& options,
                            KvCacheFormat kv_cache) {
  const auto all = layouts();
  const auto found =
      std::ranges::find_if(all, [&](const Layout* each) { return each->name() == options.to; });
  if (found == all.end()) fail("--to {}: choose one of {}", options.to, layout_names());
  const std::vector<Scheme> schemes = quantized.schemes();
  if (!(*found)->holds(schemes))
    fail("--to {}: this layout has no place for what {} holds ({}); these have: {}", options.to,
         options.checkpoint.string(), describe_schemes(schemes),
         layouts_that([&](const Layout& layout) { return layout.holds(schemes); }));
  if (kv_cache != KvCacheFormat::none && !(*found)->holds(kv_cache))
    fail(
        "--to {}: this layout has no place for the scales of a KV cache of {}; leave them out with "
        "--drop-kv-cache, or take one of {}",
        options.to, kv_cache_name(kv_cache),
        layouts_that([&](const Layout& layout) { return layout.holds(schemes) && layout.holds(kv_cache); }));
  return **found;
}

/// The type of the weights before they were quantized, which some tensors beside the codes have too.
at::ScalarType source_dtype(const Checkpoint& checkpoint, const std::vector<std::string>& names) {
  std::map<at::ScalarType, uint64_t> bytes;
  for (const std::string& name : names) {
    const TensorInfo& info = checkpoint.info(name);
    if (info.shape.size() == 2 &&
        (info.dtype == at::kFloat || info.dtype == at::kBFloat16 || info.dtype == at::kHalf))
      bytes[info.dtype] += info.bytes();
  }
  if (bytes.empty()) return at::kBFloat16;
  return std::ranges::max_element(bytes, {}, [](const auto& entry) { return entry.second; })->first;
}

/// Reads them all. @param dtype  of the weights before they were quantized
std::vector<QuantizedLinear> read_all(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                                      const std::vector<std::string>& modules, const Layout& target,
                                      at::ScalarType dtype) {
  std::vector<QuantizedLinear> linears(modules.size());
  parallel_jobs(static_cast<int64_t>(modules.size()), [&](int64_t job) {
    check_interrupt();
    const auto i = static_cast<size_t>(job);
    const std::string& module = modules[i];
    const PackedLinear linear = quantized.read(module);
    if (!is_one(linear.pre_quant_scale) && target.name() != std::string("modelopt"))
      fail(
          "{}: '{}.pre_quant_scale' holds factors of the input that are not folded into what produces it, "
          "and no layout but modelopt has a place for them: quantize the original with visq quantize "
          "--layout {}",
          checkpoint.directory().string(), module, target.name());
    const auto unheld = first_unheld(linear, target.scale_dtype(dtype));
    if (unheld && !follows_weights(target))
      fail(
          "--to {}: '{}' has a scale of {}, which {} does not hold exactly, as this layout stores it; "
          "quantize the original with visq quantize --layout {}",
          target.name(), module, *unheld, safetensors_dtype(target.scale_dtype(dtype)), target.name());
    linears[i] = {module,
                  linear.weight.rows,
                  linear.weight.columns,
                  dtype,
                  quantized.scheme(module),
                  reads_alone(module),
                  unheld.has_value()};
  });
  return linears;
}

// Of the scales of a cache: F32 where the weights' type does not hold them.
at::ScalarType cache_dtype(const KvScales& scales, at::ScalarType dtype) {
  for (const at::Tensor& scale : {scales.key.scale, scales.value.scale})
    if (scale.defined() && !scale.to(dtype).to(at::kFloat).equal(scale.to(at::kFloat))) return at::kFloat;
  return dtype;
}

/// Attention modules of an architecture that is not known.
std::vector<std::string> attentions_by_name(const Checkpoint& checkpoint) {
  std::vector<std::string> names;
  for (const std::string& module : linear_modules(checkpoint))
    if (is_decoder_linear(module) && (module.ends_with(".k_proj") || module.ends_with(".qkv_proj")))
      names.push_back(parent_of(module));
  return names;
}

/// The model, where it is known and all that is quantized are its decoder's linears.
std::optional<Model> known_model(const Checkpoint& checkpoint, const std::vector<std::string>& modules) {
  if (find_family(checkpoint.config(), (checkpoint.directory() / "config.json").string()) == nullptr)
    return std::nullopt;
  std::optional<Model> model;
  model.emplace(checkpoint, at::kCPU, at::kFloat, [](const std::string&) { return nn::Linear(); });
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < model->spec().decoder.layers; ++layer)
    for (const nn::LinearId& id : nn::linears(model->spec().decoder, layer))
      linears.insert(model->names().module(model->spec(), layer, id));
  if (!std::ranges::all_of(modules, [&](const auto& module) { return linears.contains(module); }))
    model.reset();
  return model;
}

void plan_caches(Conversion& conversion, const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                 const Model* model, at::ScalarType dtype) {
  const Plan& plan = conversion.plan;
  if (plan.kv_cache == KvCacheFormat::none) return;
  if (model != nullptr) {
    for (int64_t layer = 0; layer < plan.layers; ++layer)
      conversion.caches.push_back(kv_cache_of(*model, layer, plan.kv_cache, dtype));
    return;
  }
  const KvFormat& format = kv_format(plan.kv_cache);
  if (format.per_head || format.affine)
    fail(
        "{}: how many heads this architecture has is not known, and a KV cache of {} depends on it; leave it "
        "out with --drop-kv-cache",
        checkpoint.directory().string(), format.name);
  const auto stored = quantized.attentions();
  for (const std::string& attention : stored.empty() ? attentions_by_name(checkpoint) : stored)
    conversion.caches.push_back({attention, plan.kv_cache, -1, -1, dtype});
}

}  // namespace

std::optional<float> first_unheld(const PackedLinear& linear, at::ScalarType dtype) {
  const at::Tensor& scale = linear.weight.scale;
  if (scale.scalar_type() == at::kFloat) {  // others are coded themselves
    const at::Tensor differs = scale.ne(scale.to(dtype).to(at::kFloat)).flatten();
    if (differs.any().item<bool>())
      return scale.flatten()[differs.to(at::kByte).argmax().item<int64_t>()].item<float>();
  }
  if (linear.input_scale &&
      at::scalar_tensor(*linear.input_scale).to(dtype).item<float>() != *linear.input_scale)
    return linear.input_scale;
  return std::nullopt;
}

/// (QuantizedLinear::wide_scales).
bool follows_weights(const Layout& layout) {
  return layout.scale_dtype(at::kFloat) == at::kFloat && layout.scale_dtype(at::kBFloat16) == at::kBFloat16;
}

Conversion plan_conversion(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                           const ConvertOptions& options) {
  Conversion conversion;
  Plan& plan = conversion.plan;
  plan.recipe.name = quantized.recipe();
  plan.kv_cache = quantized.kv_cache();
  plan.directory = options.out;
  plan.layout = &target_layout(quantized, options, plan.kv_cache);
  const std::vector<std::string> modules = quantized.modules();
  if (modules.empty())
    fail("{}: its config.json says that it is quantized, but no tensor is", checkpoint.directory().string());
  std::map<std::string, std::string> owner;  // tensor → the linear or attention
  for (const std::string& module : modules) {
    if (module.ends_with("lm_head"))
      fail("{}: '{}' is quantized; the layouts here keep heads as they are", checkpoint.directory().string(),
           module);
    for (const std::string& name : quantized.tensors_of(module)) owner[name] = module;
  }
  for (const std::string& attention : quantized.attentions())
    for (const std::string& name : quantized.cache_tensors_of(attention)) owner[name] = attention;

  std::vector<std::string> others;
  for (const std::string& name : checkpoint.names())
    if (checkpoint.in_text_model(name) && !owner.contains(name)) others.push_back(name);
  const at::ScalarType dtype = source_dtype(checkpoint, others);
  std::vector<QuantizedLinear> linears = read_all(checkpoint, quantized, modules, *plan.layout, dtype);
  const bool integers = std::ranges::any_of(linears, [](const QuantizedLinear& linear) {
    return linear.wide_scales && linear.scheme.input == InputFormat::none &&
           (linear.scheme.weight == Codec::int8 || linear.scheme.weight == Codec::int4 ||
            linear.scheme.weight == Codec::int4_asym);
  });
  if (integers)
    log_warning(visq::format(
        "scales are written as F32, because {} does not hold them; engines that compute in {} round them as "
        "they load",
        safetensors_dtype(dtype), safetensors_dtype(dtype)));
  std::map<std::string, std::vector<PlannedTensor>> planned;  // by the linear or attention
  for (QuantizedLinear& linear : linears) {
    if (const std::string misfit = plan.layout->misfit(linear); !misfit.empty())
      fail("--to {}: '{}' has {}; quantize the original with --skip '{}', or to another layout",
           plan.layout->name(), linear.module, misfit, linear.module);
    for (LayoutTensor& tensor : plan.layout->tensors(linear))
      planned[linear.module].push_back(std::move(tensor.planned));
    add_stored(plan.schemes, linear.scheme);
    plan.sites.push_back({0, {}, std::move(linear)});
  }

  const std::optional<Model> model = known_model(checkpoint, modules);
  if (model) {
    plan.layers = model->spec().decoder.layers;
    const std::set<std::string> sites(modules.begin(), modules.end());
    for (int64_t layer = 0; layer < plan.layers; ++layer)
      for (const nn::LinearId& id : nn::linears(model->spec().decoder, layer))
        if (std::string module = model->names().module(model->spec(), layer, id); !sites.contains(module))
          plan.left_out.push_back(std::move(module));
  }
  plan_caches(conversion, checkpoint, quantized, model ? &*model : nullptr, dtype);
  for (QuantizedKvCache& cache : conversion.caches) {
    cache.source_dtype =
        cache_dtype(quantized.kv_scales(cache.attention, cache.kv_heads, cache.head_dim), dtype);
    for (KvLayoutTensor& tensor : plan.layout->kv_tensors(cache))
      planned[cache.attention].push_back(std::move(tensor.planned));
  }

  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.info(name);
    plan.source_bytes += info.bytes();
    if (!checkpoint.in_text_model(name)) {
      plan.copied_bytes += info.bytes();
    } else if (const auto found = owner.find(name); found == owner.end()) {
      plan.tensors.push_back({info.name, info.dtype, info.shape});
      conversion.copied.push_back(name);
    } else if (const auto own = planned.find(found->second); own != planned.end()) {
      plan.tensors.insert(plan.tensors.end(), own->second.begin(), own->second.end());
      planned.erase(own);  // at the first of the tensors
    }
  }
  for (const auto& [module, tensors] : planned)  // scales that only the target stores
    plan.tensors.insert(plan.tensors.end(), tensors.begin(), tensors.end());
  plan.output_bytes = plan.copied_bytes;
  for (const PlannedTensor& tensor : plan.tensors) plan.output_bytes += tensor.bytes();
  if (model)
    plan.summary = summarize(plan, *model);
  else
    plan.summary = summarize_by_name(plan, checkpoint);
  return conversion;
}

}  // namespace visq

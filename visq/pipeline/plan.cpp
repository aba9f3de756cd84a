#include "visq/pipeline/plan.h"

#include <algorithm>
#include <set>

#include "visq/core/error.h"
#include "visq/core/text.h"
#include "visq/export/validate.h"

namespace visq {
namespace {

using nn::InputGroup;
using nn::LinearId;

// Both spellings of a module, as its part's files have it: its own and the one of the other naming
// generation.
std::vector<std::string> spellings(const Model& model, const std::string& module) {
  std::vector<std::string> names = {model.checkpoint().name_in_part(module)};
  if (names.front() != module) return names;
  const std::string canonical = NameMap::canonical(model.spec(), module);
  if (canonical != module) names.push_back(canonical);
  return names;
}

}  // namespace

ExportSummary summarize(const Plan& plan, const Model& model) {
  const ModelSpec& spec = model.spec();
  ExportSummary summary{plan.schemes, plan.kv_cache, spec.unquantized_roots, {}, {}, {}, plan.recipe.name};
  const auto leave = [&](std::vector<std::string>& list, const std::string& module) {
    for (std::string& name : spellings(model, module))
      if (std::ranges::find(list, name) == list.end()) list.push_back(std::move(name));
  };
  for (const std::string& module : plan.left_out) {
    const size_t experts = module.rfind(".experts.");  // left out all together
    if (experts == std::string::npos)
      leave(summary.unquantized_linears, module);
    else
      leave(summary.unquantized_roots, module.substr(0, experts + std::string(".experts").size()));
  }
  for (int64_t layer = 0; layer < spec.decoder.layers; ++layer)
    if (spec.decoder.is_sparse(layer)) leave(summary.unquantized_linears, model.names().router(spec, layer));
  std::set<std::string> quantized;
  for (const Site& site : plan.sites) {
    quantized.insert(site.linear.module);
    summary.linears.emplace_back(model.checkpoint().name_in_part(site.linear.module), site.linear.scheme);
  }
  for (const std::string& module : linear_modules(model.checkpoint()))
    if (model.checkpoint().in_text_model(module) && !quantized.contains(module))
      for (std::string& name : spellings(model, module)) summary.other_linears.push_back(std::move(name));
  return summary;
}

const Site* Plan::find(int64_t layer, const LinearId& id) const {
  const auto found = site_index_.find({layer, id});
  return found == site_index_.end() ? nullptr : &sites[found->second];
}

const Scheme* Plan::scheme_of(const nn::DecoderSpec& spec, int64_t layer, const nn::GroupId& id) const {
  const Site* site = find(layer, nn::members(spec, layer, id).front());
  return site != nullptr ? &site->linear.scheme : nullptr;
}

Detail Plan::detail() const {
  Detail most = Detail::magnitudes;
  for (const Site& site : sites) most = std::max(most, site.linear.scheme.detail());
  return most;
}

std::vector<std::string> Plan::readers() const {
  std::vector<std::string> names;
  for (const EngineModel& engine : engine_models()) {
    const auto found = findings.find(engine.name);
    if (found == findings.end() || std::ranges::all_of(found->second, &EngineFinding::warning))
      names.push_back(engine.name);
  }
  return names;
}

namespace {

ServedModel served_model(const Plan& plan, const Checkpoint& checkpoint) {
  const CheckpointPart& part = checkpoint.text_model();
  const std::string origin = (part.directory / "config.json").string();
  const auto architectures =
      get_or<std::vector<std::string>>(checkpoint.config(), "architectures", {}, origin);
  ServedModel model{architectures.empty() ? "" : architectures.front(),
                    get_or<std::string>(part.config, "model_type", "", origin),
                    plan.layout->name(),
                    plan.layout->exclude_entries(plan.layout->quantization_config(plan.summary), origin),
                    plan.layout->exclude_key(),
                    plan.schemes,
                    plan.kv_cache,
                    {}};
  std::set<std::string> quantized;
  for (const Site& site : plan.sites) {
    const QuantizedLinear& linear = site.linear;
    quantized.insert(linear.module);
    model.linears.push_back(
        {checkpoint.name_in_part(linear.module), linear.scheme, linear.rows, linear.columns});
  }
  for (const std::string& module : linear_modules(checkpoint))
    if (checkpoint.in_text_model(module) && !quantized.contains(module))
      model.linears.push_back({checkpoint.name_in_part(module), std::nullopt});
  return model;
}

}  // namespace

void judge_plan(Plan& plan, const Checkpoint& checkpoint, const std::vector<std::string>& engines) {
  const ServedModel model = served_model(plan, checkpoint);
  for (const EngineModel& engine : engine_models())
    if (auto findings = judge(engine, model); !findings.empty())
      plan.findings.emplace(engine.name, std::move(findings));
  for (const std::string& name : engines)
    for (const EngineFinding& finding : plan.findings[find_engine(name).name])
      if (!finding.warning) fail("--for {}: {} {}: {}", name, plan.recipe.name, finding.what, finding.fix);
}

Detail detail_of(const std::vector<Plan>& plans) {
  Detail most = Detail::magnitudes;
  for (const Plan& plan : plans) most = std::max(most, plan.detail());
  return most;
}

std::string describe_rules(const Recipe& recipe) {
  std::string rules;
  const auto add = [&](const char* verb, const std::string& sites) {
    rules += visq::format("{}{} '{}'", rules.empty() ? "" : ", ", verb, sites);
  };
  for (const Rule& rule : recipe.rules) add(rule.scheme ? "quantize" : "skip", rule.sites);
  for (const std::string& pattern : recipe.only) add("only", pattern);
  for (const std::string& pattern : recipe.skip) add("skip", pattern);
  return rules;
}

void check_rules(const Recipe& recipe, const std::vector<std::string>& modules) {
  for (const Rule& rule : recipe.rules)
    if (!rule.origin.empty() && std::ranges::none_of(modules, [&](const std::string& module) {
          return glob_match(rule.sites, module);
        }))
      fail("{}: the rule for '{}' matches no linear of this model; they are named like '{}'", rule.origin,
           rule.sites, modules.empty() ? "" : modules.front());
}

namespace {

bool loses_kv_scales(const EngineModel& engine, const Checkpoint& checkpoint) {
  const CheckpointPart& part = checkpoint.text_model();
  const auto model =
      get_or<std::string>(part.config, "model_type", "", (part.directory / "config.json").string());
  return std::ranges::any_of(engine.layouts,
                             [&](const auto& layout) { return layout.second.kv_fails.contains(model); });
}

}  // namespace

void choose_layout(Plan& plan, const Checkpoint& checkpoint, const LayoutChoice& layout,
                   KvCacheFormat default_kv_cache) {
  for (const Site& site : plan.sites) add_stored(plan.schemes, site.linear.scheme);
  plan.kv_cache = plan.recipe.kv_cache.value_or(default_kv_cache);
  // A cache that nobody asked for does not stand in the way of a format, nor of an engine that was asked for.
  if (!plan.recipe.kv_cache)
    for (const std::string& name : layout.engines)
      if (loses_kv_scales(find_engine(name), checkpoint)) plan.kv_cache = KvCacheFormat::none;
  if (!plan.recipe.kv_cache && plan.kv_cache != KvCacheFormat::none &&
      !find_layout(layout, plan.schemes, plan.recipe.name).holds(plan.kv_cache))
    plan.kv_cache = KvCacheFormat::none;
  plan.recipe.kv_cache = plan.kv_cache;
  plan.layout = &find_layout(layout, plan.schemes, plan.recipe.name, plan.kv_cache);
}

QuantizedLinear describe_linear(const Checkpoint& checkpoint, const std::string& module, const Scheme& scheme,
                                bool standalone) {
  const TensorInfo& info = checkpoint.info(module + ".weight");
  const int64_t rows = info.shape.at(0), columns = info.shape.at(1);
  if (!at::isFloatingType(info.dtype) || at::elementSize(info.dtype) < 2)
    fail("{}: tensor '{}.weight' is {}: only F32, BF16 and F16 weights can be quantized",
         checkpoint.file_of(info.name).string(), module, safetensors_dtype(info.dtype));
  if (scheme.block > 0 && columns % scheme.block != 0)
    fail(
        "{}: tensor '{}.weight' has {} columns, not a multiple of the block of {} that {} needs; leave it "
        "out with "
        "--skip '{}', or choose another format",
        checkpoint.file_of(info.name).string(), module, columns, scheme.block, codec_name(scheme.weight),
        module);
  return {module, rows, columns, info.dtype, scheme, standalone};
}

QuantizedKvCache kv_cache_of(const Model& model, int64_t layer, KvCacheFormat format, at::ScalarType dtype) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  return {model.names().attention(model.spec(), layer), format, spec.kv_heads, spec.head_dim, dtype};
}

bool can_fold(const Plan& plan, const nn::DecoderSpec& spec, int64_t layer, const nn::GroupId& id) {
  switch (id.group) {
    case InputGroup::attn_in:
    case InputGroup::mlp_in: {
      const Scheme* own = plan.scheme_of(spec, layer, id);
      return own != nullptr &&
             std::ranges::all_of(nn::smoothed_together(spec, layer, id), [&](const LinearId& linear) {
               const Site* site = plan.find(layer, linear);
               return site != nullptr && site->linear.scheme.smoothing() == own->smoothing();
             });
    }
    case InputGroup::cross_in:
      return false;
    case InputGroup::attn_out:
      return plan.find(layer, nn::value_rows(spec).linear) != nullptr;
    case InputGroup::mlp_out:
      return plan.find(layer, nn::up_rows(spec, layer, id.expert).linear) != nullptr;
  }
  return false;
}

Plan make_plan(const Model& model, const Recipe& recipe, const LayoutChoice& layout,
               std::filesystem::path directory, KvCacheFormat default_kv_cache) {
  const Checkpoint& checkpoint = model.checkpoint();
  const ModelSpec& spec = model.spec();
  Plan plan;
  plan.recipe = recipe;
  plan.directory = std::move(directory);
  plan.layers = spec.decoder.layers;
  std::vector<std::string> modules;
  for (int64_t layer = 0; layer < spec.decoder.layers; ++layer) {
    size_t experts_chosen = 0, experts_all = 0;
    std::optional<Scheme> of_experts;
    for (const nn::GroupId& group : nn::groups(spec.decoder, layer)) {
      size_t chosen = 0;
      std::optional<Scheme> of_group;
      const std::vector<LinearId> linears = nn::members(spec.decoder, layer, group);
      for (const LinearId& id : linears) {
        const std::string module = model.names().module(spec, layer, id);
        modules.push_back(module);
        const auto scheme = recipe.scheme_for(module);
        if (!scheme) {
          plan.left_out.push_back(module);
          continue;
        }
        if (of_group.value_or(*scheme) != *scheme)
          fail(
              "the recipe has different schemes for the {} linears of layer {}: engines fuse q/k/v and "
              "gate/up, "
              "so give all of them the same",
              nn::group_name(group.group), layer);
        of_group = scheme;
        ++chosen;
        plan.site_index_.emplace(std::pair{layer, id}, plan.sites.size());
        plan.sites.push_back({layer, id, describe_linear(checkpoint, module, *scheme, linears.size() == 1)});
      }
      if (chosen != 0 && chosen != linears.size())
        fail(
            "the recipe quantizes some but not all of the {} linears of layer {}: engines fuse q/k/v and "
            "gate/up, so choose all of them or none",
            nn::group_name(group.group), layer);
      if (group.expert == nn::kNoExpert) continue;
      if (of_group && of_experts.value_or(*of_group) != *of_group)
        fail(
            "the recipe has different schemes for the experts of layer {}: engines run them as one, so give "
            "all "
            "of them the same",
            layer);
      if (of_group) of_experts = of_group;
      experts_chosen += chosen;
      experts_all += linears.size();
    }
    if (experts_chosen != 0 && experts_chosen != experts_all)
      fail(
          "the recipe quantizes some but not all of the experts of layer {}: engines run them as one, so "
          "choose all of them or none",
          layer);
  }
  if (plan.sites.empty())
    fail("the recipe matches no linear of this model ({}); the linears are named like '{}'",
         describe_rules(recipe), model.names().module(spec, 0, nn::linears(spec.decoder, 0).front()));
  check_rules(recipe, modules);
  choose_layout(plan, checkpoint, layout, default_kv_cache);
  AddedTensors added;
  if (needs_calibration(plan.kv_cache) &&
      std::ranges::any_of(plan.sites, [](const Site& site) { return site.linear.scheme.rotated; }))
    fail(
        "--kv-cache {}: calibration does not see rotated values (rotation: hadamard); say --kv-cache none, "
        "or one "
        "without calibrated scales, such as fp8_cast",
        kv_cache_name(plan.kv_cache));
  if (plan.kv_cache != KvCacheFormat::none && kv_format(plan.kv_cache).nvfp4 &&
      spec.decoder.head_dim % kNvfp4Block != 0)
    fail("--kv-cache {}: heads of {} channels are no multiple of the block of {}; take fp8",
         kv_cache_name(plan.kv_cache), spec.decoder.head_dim, kNvfp4Block);
  if (plan.kv_cache != KvCacheFormat::none)
    for (int64_t layer = 0; layer < spec.decoder.layers; ++layer) {
      const std::string keys =
          model.names().module(spec, layer, nn::key_rows(spec.decoder).linear) + ".weight";
      // Keys are quantized even where the projection itself is left out.
      for (KvLayoutTensor& tensor :
           plan.layout->kv_tensors(kv_cache_of(model, layer, plan.kv_cache, checkpoint.info(keys).dtype)))
        added[keys].push_back(std::move(tensor.planned));
    }
  plan_tensors(plan, checkpoint, added);
  plan.summary = summarize(plan, model);
  judge_plan(plan, checkpoint, layout.engines);
  return plan;
}

void plan_tensors(Plan& plan, const Checkpoint& checkpoint, const AddedTensors& added) {
  for (const Site& site : plan.sites)
    if (const std::string misfit = plan.layout->misfit(site.linear); !misfit.empty())
      fail("{}: tensor '{}.weight' has {}; leave it out with --skip '{}', or choose another layout",
           checkpoint.file_of(site.linear.module + ".weight").string(), site.linear.module, misfit,
           site.linear.module);
  std::unordered_map<std::string, std::vector<size_t>> sites_in;  // tensor of the files → sites
  for (size_t i = 0; i < plan.sites.size(); ++i)
    sites_in[checkpoint.stored_in(plan.sites[i].linear.module + ".weight")].push_back(i);
  for (const std::string& name : checkpoint.names()) {
    const TensorInfo& info = checkpoint.info(name);
    plan.source_bytes += info.bytes();
    if (!checkpoint.in_text_model(name)) {
      plan.copied_bytes += info.bytes();
      continue;
    }
    if (const auto sites = sites_in.find(name); sites != sites_in.end()) {
      for (const size_t site : sites->second)
        for (LayoutTensor& tensor : plan.layout->tensors(plan.sites[site].linear))
          plan.tensors.push_back(std::move(tensor.planned));
    } else {
      plan.tensors.push_back({info.name, info.dtype, info.shape});
    }
    if (const auto more = added.find(name); more != added.end())
      plan.tensors.insert(plan.tensors.end(), more->second.begin(), more->second.end());
  }
  plan.output_bytes = plan.copied_bytes;
  for (const PlannedTensor& tensor : plan.tensors) plan.output_bytes += tensor.bytes();
}

namespace {

// One line for each scheme.
std::string describe_schemes(const Plan& plan) {
  std::string text;
  for (const Scheme& scheme : plan.schemes) {
    text += visq::format("  weights      {} ({:.3g} bits each with scales), inputs {}, solver {}",
                         describe_weight(scheme), scheme.bits_per_weight(), describe_input(scheme),
                         scheme.solvers());
    if (plan.schemes.size() > 1)
      text += visq::format(": {} linears", std::ranges::count_if(plan.sites, [&](const Site& site) {
                             return site.linear.scheme.stored_like(scheme);
                           }));
    text += "\n";
  }
  return text;
}

}  // namespace

std::string describe_plan(const Plan& plan) {
  const auto engines = plan.readers();
  double weights = 0, bits = 0;
  for (const Site& site : plan.sites) {
    const auto count = static_cast<double>(site.linear.rows * site.linear.columns);
    weights += count;
    bits += count * bits_per_weight(site.linear);
  }
  std::string text = visq::format(
      "{}  →  {}\n"
      "  layout       {}, read by {}\n"
      "{}"
      "  KV cache     {}\n"
      "  quantized    {} linears in {} decoder layers, {:.4g} M weights of {:.3g} bits\n"
      "  left as is   {}{}\n"
      "  size         {} → {} ({:.2f}×)\n",
      plan.recipe.name, plan.directory.string(), plan.layout->name(),
      engines.empty() ? std::string("no engine") : visq::format("{}", fmt::join(engines, ", ")),
      describe_schemes(plan), kv_cache_name(plan.kv_cache), plan.sites.size(), plan.layers, weights / 1e6,
      bits / weights, "vision tower, projector, embeddings, norms, lm_head",
      plan.left_out.empty() ? std::string()
                            : visq::format(", and {} linears by the recipe", plan.left_out.size()),
      human_bytes(plan.source_bytes), human_bytes(plan.output_bytes),
      static_cast<double>(plan.source_bytes) / static_cast<double>(plan.output_bytes));
  for (const std::string& module : plan.left_out) text += visq::format("    {}\n", module);
  return text;
}

}  // namespace visq

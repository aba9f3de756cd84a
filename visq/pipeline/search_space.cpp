#include "visq/pipeline/search_space.h"

#include <algorithm>
#include <map>

#include "visq/core/error.h"

namespace visq {
namespace {

using nn::InputGroup;
using nn::LinearId;

UnitKind kind_of(const nn::GroupId& group) {
  if (group.expert != nn::kNoExpert) return UnitKind::experts;
  switch (group.group) {
    case InputGroup::attn_in:
    case InputGroup::cross_in:
      return UnitKind::qkv;
    case InputGroup::attn_out:
      return UnitKind::o;
    case InputGroup::mlp_in:
      return UnitKind::gate_up;
    case InputGroup::mlp_out:
      return UnitKind::down;
  }
  fail("input group {} does not exist", static_cast<int>(group.group));
}

/// The units of a layer, without choices yet.
std::vector<Unit> units_of(const Model& model, int64_t layer) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  std::map<UnitKind, Unit> units;
  for (const nn::GroupId& group : nn::groups(spec, layer))
    for (const LinearId& id : nn::members(spec, layer, group)) {
      Unit& unit = units[kind_of(group)];
      unit.layer = layer;
      unit.kind = kind_of(group);
      unit.linears.push_back(id);
      const std::string module = model.names().module(model.spec(), layer, id);
      const TensorInfo& info = model.checkpoint().info(module + ".weight");
      unit.weights += info.shape.at(0) * info.shape.at(1);
      unit.bytes += info.bytes();
      if (id.expert == nn::kNoExpert) {
        unit.sites.push_back(module);
      } else if (unit.sites.empty()) {  // a glob for all of them: there may be hundreds
        const std::string experts = ".experts.";
        unit.sites.push_back(module.substr(0, module.rfind(experts) + experts.size()) + "*");
      }
    }
  std::vector<Unit> all;
  for (auto& [kind, unit] : units) all.push_back(std::move(unit));
  return all;
}

uint64_t bytes_of(const Layout& layout, const QuantizedLinear& linear) {
  uint64_t bytes = 0;
  for (const LayoutTensor& tensor : layout.tensors(linear)) bytes += tensor.planned.bytes();
  return bytes;
}

/// Adds what a format makes of the unit, unless it leaves it as it is.
void add_choice(Unit& unit, const SearchSpace& space, size_t format) {
  const Plan& plan = space.plans[format];
  UnitChoice choice{format, {}, 0};
  size_t chosen = 0;
  for (const LinearId& id : unit.linears) {
    const Site* site = plan.find(unit.layer, id);
    if (site == nullptr) continue;
    if (chosen++ == 0) choice.scheme = site->linear.scheme;
    if (site->linear.scheme != choice.scheme) chosen = 0;
    choice.bytes += bytes_of(*space.layout, site->linear);
  }
  if (chosen == 0 && choice.bytes == 0) return;
  if (chosen != unit.linears.size())
    fail("--format {}: quantizes the {} linears of layer {} in part, or not alike; engines run them as one",
         plan.recipe.name, unit_name(unit.kind), unit.layer);
  unit.choices.push_back(choice);
}

std::string names_of(const std::vector<Recipe>& formats) {
  std::string names;
  for (const Recipe& format : formats) names += (names.empty() ? "" : ",") + format.name;
  return names;
}

}  // namespace

const char* unit_name(UnitKind kind) {
  switch (kind) {
    case UnitKind::qkv:
      return "q/k/v";
    case UnitKind::o:
      return "o";
    case UnitKind::gate_up:
      return "gate/up";
    case UnitKind::down:
      return "down";
    case UnitKind::experts:
      return "experts";
  }
  fail("unit kind {} does not exist", static_cast<int>(kind));
}

const Unit* SearchSpace::find(int64_t layer, UnitKind kind) const {
  const auto found =
      std::ranges::find_if(units, [&](const Unit& unit) { return unit.layer == layer && unit.kind == kind; });
  return found == units.end() ? nullptr : &*found;
}

std::optional<Plan> SearchSpace::plan_alone(const Model& model, size_t format, UnitKind kind) const {
  Recipe recipe = plans[format].recipe;
  recipe.kv_cache = KvCacheFormat::none;
  recipe.only.clear();
  bool smooths = false;
  for (const Unit& unit : units) {
    if (unit.kind != kind) continue;
    const auto choice = std::ranges::find(unit.choices, format, &UnitChoice::format);
    if (choice == unit.choices.end()) continue;
    recipe.only.insert(recipe.only.end(), unit.sites.begin(), unit.sites.end());
    // q/k/v read a norm that nothing else reads; so do gate and up without experts beside them, and these
    // without a shared MLP.
    const bool alone = kind == UnitKind::qkv ||
                       (kind == UnitKind::gate_up && find(unit.layer, UnitKind::experts) == nullptr) ||
                       (kind == UnitKind::experts && find(unit.layer, UnitKind::gate_up) == nullptr);
    smooths |= !alone && (choice->scheme.solver != Solver::max || choice->scheme.rotated);
  }
  if (!smooths) return std::nullopt;
  return make_plan(model, recipe, layout->name(), {});
}

SearchSpace make_search_space(const Model& model, const QuantizeOptions& options) {
  SearchSpace space;
  space.formats = options.recipes;
  // Scores are of what the formats are with data, also where a run from scores has none.
  QuantizeOptions in_layout = options;
  for (Recipe& format : in_layout.recipes) format.without_data.clear();
  space.plans = make_plans(model, in_layout);
  std::vector<Scheme> schemes;
  for (const Plan& plan : space.plans)
    for (const Scheme& scheme : plan.schemes) add_stored(schemes, scheme);
  const std::string names = names_of(space.formats);
  space.layout = &find_layout(options.layout, schemes, "--format " + names);
  if (options.layout.layout == "auto" && space.layout->engines(schemes).empty())
    fail(
        "--format {}: no engine reads these beside each other (docs/recipes.md says which they do); "
        "--layout {} writes them all the same",
        names, space.layout->name());
  in_layout.layout.layout = space.layout->name();
  if (std::ranges::all_of(space.plans, [](const Plan& plan) { return plan.kv_cache == KvCacheFormat::none; }))
    in_layout.kv_cache = KvCacheFormat::none;
  space.plans = make_plans(model, in_layout);
  space.kv_cache = space.plans.front().kv_cache;
  if (!std::ranges::all_of(space.plans, [&](const Plan& plan) { return plan.kv_cache == space.kv_cache; }))
    fail("--format {}: these recipes want unlike KV caches; say --kv-cache", names);
  if (!std::ranges::all_of(space.plans, [&](const Plan& plan) {
        return plan.recipe.modality_weight == space.plans.front().recipe.modality_weight;
      }))
    fail("--format {}: these recipes want unlike modality weights; say --modality-weight", names);
  for (int64_t layer = 0; layer < model.spec().decoder.layers; ++layer)
    for (Unit& unit : units_of(model, layer)) {
      for (size_t format = 0; format < space.plans.size(); ++format) add_choice(unit, space, format);
      if (unit.choices.empty()) continue;
      space.weights += unit.weights;
      space.units.push_back(std::move(unit));
    }
  space.other_bytes = space.plans.front().output_bytes;
  for (const Site& site : space.plans.front().sites)
    space.other_bytes -= bytes_of(*space.layout, site.linear);
  for (const Unit& unit : space.units)
    if (unit.choices.front().format != 0) space.other_bytes -= unit.bytes;
  for (Plan& plan : space.plans) plan.kv_cache = KvCacheFormat::none;
  return space;
}

}  // namespace visq

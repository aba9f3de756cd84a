// What a search for mixed precision chooses from: the units of linears that engines want in one format, and
// what each of them can be.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/pipeline/plan.h"
#include "visq/pipeline/quantize.h"

namespace visq {

/// Linears of a layer that engines fuse or run as one.
enum class UnitKind { qkv, o, gate_up, down, experts };
inline constexpr UnitKind kUnitKinds[] = {UnitKind::qkv, UnitKind::o, UnitKind::gate_up, UnitKind::down,
                                          UnitKind::experts};
const char* unit_name(UnitKind kind);  ///< "q/k/v", "o", "gate/up", "down", "experts"

/// A format that a unit can have.
struct UnitChoice {
  size_t format = 0;  ///< index into SearchSpace::formats
  Scheme scheme;
  uint64_t bytes = 0;  ///< of all that is written for the unit, scales included
};

struct Unit {
  int64_t layer = 0;
  UnitKind kind = UnitKind::qkv;
  std::vector<nn::LinearId> linears;
  std::vector<std::string> sites;  ///< globs that match these linears and no others
  int64_t weights = 0;
  uint64_t bytes = 0;               ///< left as it is
  std::vector<UnitChoice> choices;  ///< in the order of the formats; none of a format that leaves it out
};

struct SearchSpace {
  std::vector<Recipe> formats;
  /// Of each format for all units that it has, in the layout of the result; without KV cache, which is the
  /// same for all.
  std::vector<Plan> plans;
  std::vector<Unit> units;  ///< that one format at least quantizes; layer by layer
  const Layout* layout = nullptr;
  KvCacheFormat kv_cache = KvCacheFormat::none;
  uint64_t other_bytes = 0;  ///< of all that is written besides the units
  int64_t weights = 0;       ///< of the units

  /// Plans of each format for the units of one kind alone: there smoothing cannot be folded into units that
  /// are left as they are. Empty: it never is.
  std::optional<Plan> plan_alone(const Model& model, size_t format, UnitKind kind) const;
  const Unit* find(int64_t layer, UnitKind kind) const;  ///< nullptr: not to be chosen for
};

/// @param options  recipes are the formats; only, skip, layout and KV cache as in a run
/// @throws Error also when no layout holds the formats beside each other, or, where options do not name one,
///         when no engine reads it
SearchSpace make_search_space(const Model& model, const QuantizeOptions& options);

}  // namespace visq

// The entries with which compressed-tensors says which modules it means (spec/export.md §5.3).
#pragma once
#include <memory>
#include <string>
#include <vector>

namespace visq {

/// A list of targets, or of what is ignored: names of modules, "re:" expressions that match from a name's
/// start, and names of classes, of which "Linear" stands for every linear.
class ModuleTargets {
 public:
  /// How an entry found a module. The later, the more it says: of several entries the last of these counts.
  enum class Match { none, by_class, by_expression, by_name };

  /// @param origin  for errors
  /// @throws Error when an expression is malformed
  ModuleTargets(std::vector<std::string> entries, const std::string& origin);

  /// @param module  a linear, by its name in the files; names are compared whatever the naming generation
  /// @param other_spellings  whether expressions may match the name as other generations have it, too
  /// @throws Error when an expression takes too long to match
  Match match(const std::string& module, bool other_spellings) const;

  const std::vector<std::string>& entries() const { return entries_; }

 private:
  struct Expression;
  std::vector<std::string> entries_;
  std::vector<std::string> names_;  ///< canonical
  std::vector<std::shared_ptr<const Expression>> expressions_;
  bool all_linears_ = false;
};

/// A module's name without what naming generations put before it: "model.language_model.layers.0.mlp" and
/// "language_model.model.layers.0.mlp" are "layers.0.mlp".
std::string without_prefixes(const std::string& module);

}  // namespace visq

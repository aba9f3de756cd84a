// Names of tensors and modules, whose parts stand between dots.
#pragma once
#include <string>

namespace visq {

/// "weight" of "layers.0.mlp.up_proj.weight"; the name itself where it has no dot.
inline std::string leaf_of(const std::string& name) { return name.substr(name.rfind('.') + 1); }
/// "layers.0.mlp.up_proj" of the same; the name itself where it has no dot.
inline std::string parent_of(const std::string& name) { return name.substr(0, name.rfind('.')); }

}  // namespace visq

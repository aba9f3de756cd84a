#include "visq/families/projectors.h"

#include <charconv>

namespace visq {

std::optional<nn::ProjectorSpec> mlp_gelu_projector(const std::string& type, const std::string& prefix,
                                                    int64_t hidden) {
  const std::string head = "mlp", tail = "x_gelu";
  if (!type.starts_with(head) || !type.ends_with(tail) || type.size() <= head.size() + tail.size())
    return std::nullopt;
  const char *const begin = type.data() + head.size(), *const end = type.data() + type.size() - tail.size();
  int64_t depth = 0;
  if (std::from_chars(begin, end, depth).ptr != end || depth < 1 || depth > 16) return std::nullopt;
  nn::ProjectorSpec chain;
  for (int64_t i = 0; i < depth; ++i) {
    if (i > 0) chain.push_back(nn::ProjectorOp::activation(nn::Activation::gelu));
    chain.push_back(nn::ProjectorOp::linear(prefix + std::to_string(2 * i), hidden));
  }
  return chain;
}

}  // namespace visq

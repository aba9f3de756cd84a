// Adapters that were put into the weights beside which they lay.
#include <ATen/ATen.h>

#include "visq/core/tiled.h"
#include "visq/export/validation_context.h"

namespace visq {

bool is_merged(const ValidationContext& context, const std::string& name) {
  if (context.source == nullptr || name.find(".lora_B.") == std::string::npos) return false;
  if (!context.source->contains(name) || !context.output.contains(name)) return false;
  return context.output.tensor(name).count_nonzero().item<int64_t>() == 0 &&
         context.source->tensor(name).count_nonzero().item<int64_t>() > 0;
}

at::Tensor source_weight(const ValidationContext& context, const std::string& module) {
  const std::string origin = (context.source->directory() / "config.json").string(), key_end = "_lora";
  const std::string linear = linear_name(module);
  at::Tensor weight = context.source->tensor(module + ".weight");
  for (const auto& [key, adapter] : context.source->config().items()) {  // "vision_lora": {"r": 256, …}
    if (!key.ends_with(key_end) || !adapter.is_object()) continue;
    const std::string name = key.substr(0, key.size() - key_end.size());
    const auto matrix = [&](const char* kind) { return visq::format("{}.{}.{}.weight", linear, kind, name); };
    if (!is_merged(context, matrix("lora_B")) || !context.source->contains(matrix("lora_A"))) continue;
    const at::Tensor a = context.source->tensor(matrix("lora_A")),
                     b = context.source->tensor(matrix("lora_B"));
    if (a.dim() != 2 || b.dim() != 2 || b.size(1) != a.size(0) || b.size(0) != weight.size(0) ||
        a.size(1) != weight.size(1))
      continue;
    const auto rank = static_cast<double>(a.size(0));
    weight = add_low_rank(weight, a, b, get_or<double>(adapter, "lora_alpha", 2 * rank, origin) / rank);
  }
  return weight;
}

}  // namespace visq

#include "visq/export/grouped_layout.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

void add_unique(std::vector<std::string>& list, std::string entry) {
  if (std::ranges::find(list, entry) == list.end()) list.push_back(std::move(entry));
}

}  // namespace

LayoutTensor scales_tensor(const QuantizedLinear& linear) {
  const int64_t rows = linear.rows, groups = groups_of(linear.scheme, linear.columns);
  return {{linear.module + ".scales", at::kHalf, {groups, rows}}, [rows, groups](const PackedLinear& p) {
            return p.weight.scale.view({rows, groups}).t().to(at::kHalf).contiguous();
          }};
}

at::Tensor read_scales(const Checkpoint& checkpoint, const std::string& name, int64_t groups, int64_t rows) {
  const at::ScalarType dtype = checkpoint.info(name).dtype;
  if (dtype != at::kHalf && dtype != at::kBFloat16 && dtype != at::kFloat)
    fail("{}: tensor '{}' is {}, not F16, BF16 or F32", checkpoint.file_of(name).string(), name,
         safetensors_dtype(dtype));
  return read_checked(checkpoint, name, dtype, {groups, rows}).t().to(at::kFloat).contiguous();
}

void check_groups(const Checkpoint& checkpoint, const std::string& name, const PackedTensor& packed) {
  if (packed.block > 0 && packed.columns % packed.block != 0)
    fail("{}: tensor '{}' has {} columns, not whole groups of {}", checkpoint.file_of(name).string(), name,
         packed.columns, packed.block);
}

int64_t read_number(const Json& config, std::initializer_list<const char*> keys, const std::string& origin) {
  for (const char* key : keys)
    if (config.contains(key)) return require<int64_t>(config, key, origin);
  fail("{}: the quantization_config has no '{}'", origin, fmt::join(keys, "' or '"));
}

int64_t read_group_size(const Json& config, std::initializer_list<const char*> keys,
                        const std::string& origin) {
  const int64_t size = read_number(config, keys, origin);
  constexpr int64_t kMost = 65536;
  if (size != -1 && (size <= 0 || size > kMost))
    fail("{}: the group size is {}; visq reads 1 to {}, and -1", origin, size, kMost);
  return size;
}

LeftOut left_out(const ExportSummary& summary) {
  LeftOut result;
  const auto is_distinct = [&](const std::string& part) {
    return std::ranges::none_of(
        summary.linears, [&](const auto& linear) { return linear.first.find(part) != std::string::npos; });
  };
  for (const std::string& root : summary.unquantized_roots) {
    const bool in_layer = root.find("layers.") != std::string::npos;
    std::string stem = in_layer ? name_from_layers(root) : leaf_of(root);
    add_unique(result.subtrees, is_distinct(stem) ? std::move(stem) : root);
  }
  for (const std::string& linear : summary.unquantized_linears) {
    add_unique(result.linears, name_from_layers(linear));
    if (std::string fused = fused_name(name_from_layers(linear)); !fused.empty())
      add_unique(result.linears, std::move(fused));
  }
  return result;
}

}  // namespace visq

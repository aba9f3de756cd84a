// What the layouts of AutoAWQ and GPTQ have in common: codes in words, beside a scale for every group of
// columns and every row (spec/export.md §6.1, §6.2).
#pragma once
#include "visq/export/layout.h"

namespace visq {

class GroupedLayout : public Layout {
 public:
  // Codes are computed for scales that these files can hold.
  at::ScalarType scale_dtype(at::ScalarType) const override { return at::kHalf; }
  // No reader looks for scales of a cache beside these weights.
  bool holds(KvCacheFormat) const override { return false; }
  KvStorage kv_storage(at::ScalarType source_dtype) const override {
    return modelopt_layout().kv_storage(source_dtype);
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".qweight");
  }
};

/// Of a linear; 1 where a row has one scale.
inline int64_t groups_of(const Scheme& scheme, int64_t columns) {
  return scheme.block > 0 ? columns / scheme.block : 1;
}

/// [groups, rows], F16.
LayoutTensor scales_tensor(const QuantizedLinear& linear);
/// f32 [rows, groups], of any floating type in the files.
at::Tensor read_scales(const Checkpoint& checkpoint, const std::string& name, int64_t groups, int64_t rows);

/// Whether columns come in whole groups. @throws Error naming the tensor that the codes are from
void check_groups(const Checkpoint& checkpoint, const std::string& name, const PackedTensor& packed);

/// A positive group size, or −1 (one group a row). @throws Error for another
int64_t read_group_size(const Json& quantization_config, std::initializer_list<const char*> keys,
                        const std::string& origin);
/// The first of the keys that is there. @throws Error when none is
int64_t read_number(const Json& quantization_config, std::initializer_list<const char*> keys,
                    const std::string& origin);

/// What names of modules that are not quantized have in common, and no name of a quantized one.
struct LeftOut {
  std::vector<std::string> subtrees;  ///< parts of names: "vision_tower", "layers.1.mlp.experts"
  /// How names end, without what differs between the naming generations: "layers.0.mlp.down_proj"; with the
  /// names that engines give to q/k/v and gate/up when they fuse them.
  std::vector<std::string> linears;
};
LeftOut left_out(const ExportSummary& summary);

}  // namespace visq

#include "visq/export/column_order.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

at::Tensor groups_of_neighbours(int64_t columns, int64_t size) {
  return at::arange(columns, at::kInt).div(size, "floor");
}

/// Where the columns stand that `order` has put elsewhere.
at::Tensor places(const at::Tensor& order) {
  return at::empty_like(order).scatter_(0, order, at::arange(order.numel(), at::kLong));
}

}  // namespace

void read_column_groups(const Checkpoint& checkpoint, const std::string& name, const Scheme& scheme,
                        PackedLinear& linear) {
  PackedTensor& weight = linear.weight;
  if (!checkpoint.contains(name)) {
    if (!scheme.ordered_columns) return;
    fail("{}: '{}' is missing, though columns share scales by their importance (desc_act, actorder)",
         checkpoint.directory().string(), name);
  }
  const auto refuse = [&](const std::string& what) {
    fail("{}: tensor '{}' {}", checkpoint.file_of(name).string(), name, what);
  };
  const int64_t size = weight.block > 0 ? weight.block : weight.columns, count = weight.columns / size;
  const at::Tensor groups = read_checked(checkpoint, name, at::kInt, {weight.columns});
  if (groups.equal(groups_of_neighbours(weight.columns, size))) return;
  if (groups.eq(-1).all().item<bool>()) return;  // compressed-tensors: nothing was ordered
  if ((groups < 0).any().item<bool>() || (groups >= count).any().item<bool>())
    refuse(visq::format("names groups that are not among the {}", count));
  if (!at::bincount(groups, {}, count).eq(size).all().item<bool>())
    refuse(visq::format("has groups that are not of {} columns", size));
  if (!scheme.ordered_columns)
    refuse(
        "puts columns into groups by their importance, but the quantization_config does not say so (desc_act "
        "or actorder): engines would not look at it; say it if the tensor is right");
  linear.column_order = groups.argsort(/*stable=*/true, 0);
  weight.codes = weight.codes.index_select(1, linear.column_order);
}

at::Tensor in_order(const PackedLinear& linear, const at::Tensor& matrix) {
  return linear.column_order.defined() ? matrix.index_select(1, places(linear.column_order)) : matrix;
}

at::Tensor groups_of_columns(const PackedLinear& linear, int64_t size) {
  const at::Tensor groups = groups_of_neighbours(linear.weight.columns, size);
  return linear.column_order.defined() ? groups.index_select(0, places(linear.column_order)) : groups;
}

}  // namespace visq

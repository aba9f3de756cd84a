// Columns that share scales by their importance. GPTQ chooses them so (desc_act; compressed-tensors: actorder
// group), leaves codes where the columns are, and stores the group of each (spec/export.md §6.2). In memory
// the columns of a group stand beside each other, as a PackedTensor has them, and PackedLinear::column_order
// says where each belongs.
#pragma once
#include "visq/export/layout.h"

namespace visq {

/// compressed-tensors' name of the groups.
inline constexpr const char* kColumnGroups = ".weight_g_idx";

/// Reads the groups of a linear whose codes and scales have been read, and puts its columns beside the others
/// of their groups. Nothing happens where there is no such tensor and the scheme does not want it.
/// @param name  of the tensor, int32 [columns]
/// @throws Error when it is missing, when its groups are of unlike sizes or others than there are, or when it
/// has another order than the one in the files although the scheme says nothing of one
void read_column_groups(const Checkpoint& checkpoint, const std::string& name, const Scheme& scheme,
                        PackedLinear& linear);

/// Columns of `matrix` [rows, columns], which stand as in linear.weight, as they are in the input.
at::Tensor in_order(const PackedLinear& linear, const at::Tensor& matrix);
/// What the files say of it: int32 [columns], the group of each of the input's columns. @param size  of a
/// group
at::Tensor groups_of_columns(const PackedLinear& linear, int64_t size);

}  // namespace visq

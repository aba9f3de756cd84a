// Experts that lie stacked in one tensor, as matrices of their own.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "visq/io/safetensors.h"

namespace visq {

/// An expert's matrix inside a stack.
struct ExpertSlice {
  std::string stack;  ///< the tensor that holds it
  int64_t expert = 0;
  int64_t begin = 0;        ///< its first output channel there
  bool transposed = false;  ///< matrices of the stack are [in, out]
  TensorInfo info;          ///< of the matrix [out, in]: name, dtype and shape; its offsets mean nothing
};

/// The matrices "….experts.N.{gate,up,down}_proj.weight" of every pair "….experts.gate_up_proj" (gate first)
/// and "….experts.down_proj", whose orientation follows from the two shapes:
///   [experts, hidden, 2·width] and [experts, width, hidden] (Qwen3-VL-MoE, Llama 4), or both transposed.
/// Sorted by name. @throws Error for a pair whose shapes fit neither, naming both
std::map<std::string, ExpertSlice> expert_slices(const std::map<std::string, const TensorInfo*>& tensors,
                                                 const std::string& origin);

/// [out, in], contiguous. @param stack  the whole tensor
at::Tensor read_slice(const at::Tensor& stack, const ExpertSlice& slice);

}  // namespace visq

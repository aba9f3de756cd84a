#include "visq/io/expert_stacks.h"

#include "visq/core/error.h"
#include "visq/core/format.h"

namespace visq {
namespace {

// More than any model has: a header must not make us list millions.
constexpr int64_t kMaxExperts = 4096;
constexpr const char* kGateUp = ".experts.gate_up_proj";

}  // namespace

std::map<std::string, ExpertSlice> expert_slices(const std::map<std::string, const TensorInfo*>& tensors,
                                                 const std::string& origin) {
  std::map<std::string, ExpertSlice> slices;
  for (const auto& [name, gate_up] : tensors) {
    if (!name.ends_with(kGateUp) || gate_up->shape.size() != 3) continue;
    const std::string experts = name.substr(0, name.size() - std::string("gate_up_proj").size());
    const auto found = tensors.find(experts + "down_proj");
    if (found == tensors.end() || found->second->shape.size() != 3) continue;
    const TensorInfo& down = *found->second;
    const std::vector<int64_t>&a = gate_up->shape, &b = down.shape;
    const bool transposed = a[2] == 2 * b[1] && a[1] == b[2];
    const bool straight = a[1] == 2 * b[2] && a[2] == b[1];
    if (a[0] != b[0] || a[0] > kMaxExperts || (!transposed && !straight))
      fail("{}: tensors '{}' [{}] and '{}' [{}] are no stacks of the same experts", origin, name,
           fmt::join(a, ", "), down.name, fmt::join(b, ", "));
    const int64_t hidden = transposed ? a[1] : a[2], width = transposed ? b[1] : b[2];
    for (int64_t expert = 0; expert < a[0]; ++expert) {
      const auto add = [&](const char* leaf, const TensorInfo& stack, int64_t begin, int64_t out,
                           int64_t in) {
        ExpertSlice slice{stack.name, expert, begin, transposed, {}};
        slice.info.name = visq::format("{}{}.{}.weight", experts, expert, leaf);
        slice.info.dtype = stack.dtype;
        slice.info.shape = {out, in};
        if (tensors.contains(slice.info.name))
          fail("{}: tensor '{}' also lies in the stack '{}'", origin, slice.info.name, stack.name);
        slices.emplace(slice.info.name, slice);
      };
      add("gate_proj", *gate_up, 0, width, hidden);
      add("up_proj", *gate_up, width, width, hidden);
      add("down_proj", down, 0, hidden, width);
    }
  }
  return slices;
}

at::Tensor read_slice(const at::Tensor& stack, const ExpertSlice& slice) {
  at::Tensor matrix = stack.select(0, slice.expert);
  if (slice.transposed) matrix = matrix.t();
  return matrix.narrow(0, slice.begin, slice.info.shape[0]).contiguous();
}

}  // namespace visq

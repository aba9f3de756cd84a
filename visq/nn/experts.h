// Mixture of experts: a router sends each token to a few of many small MLPs.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "visq/nn/ops.h"

namespace visq::nn {

/// Not one of the routed experts: a dense MLP, or the one that every token passes besides.
inline constexpr int64_t kNoExpert = -1;

struct ExpertsSpec {
  /// softmax: the most probable `per_token` experts, weighted by their probability, outputs are added up
  /// (Qwen, Mixtral). sigmoid_input: one each, whose input is multiplied by σ(score) (Llama 4;
  /// spec/models-phi-gemma.md §5.5).
  enum class Routing { softmax, sigmoid_input };

  int64_t count = 0;         ///< 0: every layer is dense
  int64_t per_token = 0;     ///< experts that a token is sent to
  int64_t intermediate = 0;  ///< width of an expert
  int64_t shared = 0;        ///< width of the MLP that every token passes besides; 0: there is none
  Routing routing = Routing::softmax;
  bool normalize = true;     ///< softmax: weights of a token's experts add up to 1
  std::vector<bool> sparse;  ///< per layer: experts in place of the dense MLP
};

struct Expert {
  Linear gate, up, down;
};

/// Sees what an expert reads and what its down projection reads, [rows of the expert, in] each.
/// @param rows  int64: the tokens that were sent to it
using ExpertObserver = std::function<void(int64_t expert, const at::Tensor& rows, const at::Tensor& input,
                                          const at::Tensor& hidden)>;

/// act(gate(x)) · up(x)
at::Tensor gated(Activation activation, const Linear& gate, const Linear& up, const at::Tensor& x);

/// What `expert` would read of tokens that are not sent to it.
/// @param x  [tokens, hidden]; @param scores  [tokens, experts], the router's output
at::Tensor unrouted_input(const ExpertsSpec& spec, const at::Tensor& x, const at::Tensor& scores,
                          int64_t expert);

/// Sum of the routed experts' outputs, [tokens, hidden]. Experts without tokens do no work.
/// @param scores  [tokens, experts], the router's output
at::Tensor run_experts(const ExpertsSpec& spec, Activation activation, const std::vector<Expert>& experts,
                       const at::Tensor& x, const at::Tensor& scores, const ExpertObserver& observer = {});

}  // namespace visq::nn

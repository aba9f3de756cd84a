// The small operations that every block is made of. Free functions over tensors; no state.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace visq::nn {

/// A low-rank addition of some rows, y += scale · (x Aᵀ) Bᵀ (LoRA).
struct Adapter {
  at::Tensor a, b;  ///< [rank, in], [out, rank]; undefined: none
  double scale = 1;
};

/// y = f(x) Wᵀ + b, where f is the identity, or what a quantized engine does to the input first.
struct Linear {
  at::Tensor weight;                                   ///< [out, in]
  at::Tensor bias;                                     ///< [out], or undefined
  std::function<at::Tensor(const at::Tensor&)> input;  ///< simulated input quantization; empty: none
  Adapter adapter = {};                                ///< reads x itself, never quantized
  /// What takes the place of y, the adapter aside; empty: nothing does.
  std::function<at::Tensor(const at::Tensor& x, const at::Tensor& y)> output = {};
};
/// @param adapted  [rows, 1], 1 at rows that the adapter is for and 0 elsewhere; undefined: for none
at::Tensor apply(const Linear& linear, const at::Tensor& x, const at::Tensor& adapted = {});

struct Norm {
  at::Tensor weight;  ///< [channels]
  at::Tensor bias;    ///< [channels], or undefined
};
/// x · rsqrt(mean(x²) + eps) in fp32, cast to x's dtype, then · weight (spec/models-llava-vila-qwen.md §1.1);
/// without a weight, no more than that.
/// @param plus_one  · (1 + weight) in fp32 instead, cast last (Gemma; spec/models-phi-gemma.md §0.1)
at::Tensor rms_norm(const at::Tensor& x, const Norm& norm, double eps, bool plus_one = false);
at::Tensor layer_norm(const at::Tensor& x, const Norm& norm, double eps);

enum class Activation { silu, gelu, gelu_tanh, quick_gelu };
/// @param name  as config.json spells it ("silu", "gelu", "gelu_pytorch_tanh", "quick_gelu")
Activation parse_activation(const std::string& name, const std::string& origin);
at::Tensor activate(Activation activation, const at::Tensor& x);

/// Who sees whom, and how scores are formed.
struct AttentionPattern {
  bool causal = false;   ///< a query sees the keys up to its own place
  int64_t window = 0;    ///< and of these, the last `window` only; 0: all
  bool chunked = false;  ///< those since the last multiple of `window` instead
  double scale = 0;      ///< of the scores; 0: head_dim^−1/2
  double softcap = 0;    ///< scores become c·tanh(score / c) before the mask; 0: off
  /// int64 [tokens]: tokens of one sequence with the same number ≥ 0 see one another whatever their order;
  /// undefined: none.
  at::Tensor blocks{};
  bool blocks_cross_window = false;  ///< and however far apart (PaliGemma); Gemma 3 keeps the window
};

/// Attention inside each of the sequences laid end to end: rows offsets[i] … offsets[i+1] see each other.
/// @param q  [tokens, heads, head_dim]; k, v: [tokens, kv_heads, head_dim], where kv head g serves the
///           heads/kv_heads query heads from g·heads/kv_heads on
/// @param offsets  ascending, first 0, last = tokens
/// @return [tokens, heads · head_dim]
at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                     std::span<const int64_t> offsets, const AttentionPattern& pattern);
/// With no more to it than being causal or not.
inline at::Tensor attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            std::span<const int64_t> offsets, bool causal) {
  AttentionPattern pattern;
  pattern.causal = causal;
  return attention(q, k, v, offsets, pattern);
}

/// Rotates halves: x·cos + [−x₂, x₁]·sin. Channels beyond those of cos stay as they are.
/// @param x  [tokens, heads, head_dim]; cos, sin: [tokens, rotary_dim], rotary_dim ≤ head_dim
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);
/// Rotates each channel with its neighbour instead of with that half a head away, in fp32 whatever the dtype
/// of x (Llama 4). @param cos, sin  fp32 [tokens, head_dim], equal for the two of a pair
at::Tensor rotate_neighbours(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace visq::nn

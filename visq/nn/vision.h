// The one vision block (CLIP, SigLIP, Qwen2.5-VL) and the towers and projectors built on it.
// Source: spec/models-llava-vila-qwen.md §1.2, §1.3, §8.
#pragma once
#include <cstdint>
#include <vector>

#include "visq/nn/ops.h"

namespace visq::nn {

struct VisionSpec {
  int64_t layers = 0, width = 0, mlp_width = 0, heads = 0, patch = 14, temporal_patch = 1, image_size = 0;
  double norm_eps = 1e-5;
  Activation activation = Activation::quick_gelu;
  bool class_token = false, pre_norm = false, patch_bias = false;
  bool rms_norm = false, fused_qkv = false, gated_mlp = false;
  bool position_table = true;  ///< learned positions; otherwise 2-d rope
  /// Which hidden states feed the projector: index as Hugging Face counts (0: encoder input, −2: last but
  /// one), several are concatenated on the channel axis. Empty: the output of the last block.
  std::vector<int64_t> feature_layers;
  bool drop_class_token = false;
  // Window attention (Qwen2.5-VL): blocks outside `full_blocks` attend inside windows of `window` pixels.
  int64_t window = 0, merge = 1;
  std::vector<int64_t> full_blocks;
};

struct VisionBlock {
  Norm norm1, norm2;
  Linear q, k, v;  ///< or:
  Linear qkv;      ///< fused rows [Q | K | V]
  Linear out;
  Linear fc1, fc2;        ///< plain MLP, or:
  Linear gate, up, down;  ///< gated MLP
};

/// Everything the tower holds.
struct VisionTower {
  at::Tensor patch_weight;  ///< [width, 3·temporal·patch·patch], flattened channel-major
  at::Tensor patch_bias, class_embedding, position_table;  ///< undefined where the spec has none
  Norm pre_norm;
  std::vector<VisionBlock> blocks;
};

/// Fixed-size towers (CLIP, SigLIP).
/// @param pixels  [images, 3, image_size, image_size]
/// @return [images, tokens, width · |feature_layers|]
at::Tensor vision_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& pixels);

/// Qwen2.5-VL tower, before its merger.
/// @param patches  [Σ grid_h·grid_w, 3·t·p·p] of all images; @param grids  (h, w) in patches per image
/// @return [Σ grid_h·grid_w, width] in *window order* of merged cells; `restore` (int64 [Σ/merge²]) gives the
///         order back: merged_rows.index_select(0, restore)
struct PatchFeatures {
  at::Tensor rows, restore;
};
PatchFeatures patch_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& patches,
                             const std::vector<std::pair<int64_t, int64_t>>& grids);

/// Projector: optional norm, optional concatenation of `merge²` consecutive rows, linear, activation, linear.
struct ProjectorSpec {
  bool norm = false;  ///< RMS norm over the tower width (Qwen2.5-VL's merger.ln_q)
  double norm_eps = 1e-6;
  int64_t merge_rows = 1;  ///< rows concatenated into one
  bool bias = true;
  Activation activation = Activation::gelu;
};
struct Projector {
  Norm norm;
  Linear linear_1, linear_2;
};
/// @param rows  [rows, width] → [rows / merge_rows, hidden]
at::Tensor project(const ProjectorSpec& spec, const Projector& projector, const at::Tensor& rows);

}  // namespace visq::nn

#include "visq/nn/vision.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/nn/vision_windows.h"

namespace visq::nn {
namespace {

/// fp32 cos and sin of each row, [rows, head_dim]; undefined without rope.
struct VisionRope {
  at::Tensor cos, sin;
};

at::Tensor normalize(const VisionSpec& spec, const Norm& norm, const at::Tensor& x) {
  return spec.rms_norm ? rms_norm(x, norm, spec.norm_eps) : layer_norm(x, norm, spec.norm_eps);
}

/// Rotation happens in fp32 whatever the compute type (spec §7).
at::Tensor rotate_wide(const at::Tensor& x, const VisionRope& rope) {
  if (!rope.cos.defined()) return x;
  return rotate(x.to(at::kFloat), rope.cos, rope.sin).to(x.scalar_type());
}

/// @param x  [rows, width]
at::Tensor vision_block(const VisionSpec& spec, const VisionBlock& block, const at::Tensor& x,
                        const VisionRope& rope, std::span<const int64_t> offsets) {
  const int64_t rows = x.size(0), heads = spec.heads, head_dim = spec.width / spec.heads;
  const at::Tensor attn_in = normalize(spec, block.norm1, x);
  at::Tensor q, k, v;
  if (spec.fused_qkv) {
    const at::Tensor qkv = apply(block.qkv, attn_in).view({rows, 3, heads, head_dim});
    q = qkv.select(1, 0), k = qkv.select(1, 1), v = qkv.select(1, 2);
  } else {
    q = apply(block.q, attn_in).view({rows, heads, head_dim});
    k = apply(block.k, attn_in).view({rows, heads, head_dim});
    v = apply(block.v, attn_in).view({rows, heads, head_dim});
  }
  const at::Tensor mixed =
      attention(rotate_wide(q, rope), rotate_wide(k, rope), v, offsets, /*causal=*/false);
  const at::Tensor middle = x + apply(block.out, mixed);
  const at::Tensor mlp_in = normalize(spec, block.norm2, middle);
  if (spec.gated_mlp)
    return middle +
           apply(block.down, activate(spec.activation, apply(block.gate, mlp_in)) * apply(block.up, mlp_in));
  return middle + apply(block.fc2, activate(spec.activation, apply(block.fc1, mlp_in)));
}

/// [images, 3, side, side] → [images, patches, 3·p·p], each patch flattened channel-major; a remainder at the
/// right and bottom is left out, as a convolution with stride p does.
at::Tensor cut_patches(const at::Tensor& pixels, int64_t patch) {
  const int64_t images = pixels.size(0), channels = pixels.size(1);
  const int64_t rows = pixels.size(2) / patch, columns = pixels.size(3) / patch;
  return pixels.narrow(2, 0, rows * patch)
      .narrow(3, 0, columns * patch)
      .reshape({images, channels, rows, patch, columns, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({images, rows * columns, channels * patch * patch});
}

/// Hugging Face's index of a hidden state (0: encoder input) from one that may count from the end.
int64_t hidden_state_index(const VisionSpec& spec, int64_t index) {
  const int64_t resolved = index < 0 ? spec.layers + 1 + index : index;
  if (resolved < 0 || resolved > spec.layers)
    fail("vision feature layer {} does not exist: the tower has {} layers", index, spec.layers);
  return resolved;
}

VisionRope vision_rope(const VisionSpec& spec, const std::vector<std::pair<int64_t, int64_t>>& grids,
                       const at::Tensor& cells, at::Device device) {
  const auto coordinates = patch_coordinates(grids, spec.merge);
  const auto rows = static_cast<int64_t>(coordinates.size());
  const at::Tensor places = at::empty({rows, 2}, at::kFloat);
  float* const out = places.mutable_data_ptr<float>();
  for (size_t i = 0; i < coordinates.size(); ++i) {
    out[2 * i] = static_cast<float>(coordinates[i].first);
    out[2 * i + 1] = static_cast<float>(coordinates[i].second);
  }
  // Half of the pairs turn with y, half with x: head_dim / 4 frequencies each.
  const int64_t half = spec.width / spec.heads / 2;
  const at::Tensor exponents = at::arange(0, half, 2, at::kFloat) / static_cast<double>(half);
  const at::Tensor inverse = at::pow(10000.0, exponents).reciprocal_();
  const at::Tensor angles = (places.unsqueeze(-1) * inverse).reshape({rows, half});
  const int64_t cell_rows = spec.merge * spec.merge;
  const at::Tensor ordered = at::cat({angles, angles}, -1)
                                 .view({rows / cell_rows, -1})
                                 .index_select(0, cells)
                                 .view({rows, 2 * half});
  return {ordered.cos().to(device), ordered.sin().to(device)};
}

}  // namespace

at::Tensor vision_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& pixels) {
  const int64_t images = pixels.size(0);
  const at::Tensor patches = cut_patches(pixels.to(tower.patch_weight.scalar_type()), spec.patch);
  at::Tensor x = tiled_linear(patches, tower.patch_weight, tower.patch_bias);  // [images, patches, width]
  if (spec.class_token)
    x = at::cat({tower.class_embedding.view({1, 1, -1}).expand({images, 1, spec.width}), x}, 1);
  if (spec.position_table) x = x + tower.position_table;
  if (spec.pre_norm) x = layer_norm(x, tower.pre_norm, spec.norm_eps);

  const int64_t tokens = x.size(1);
  std::vector<int64_t> offsets(static_cast<size_t>(images) + 1);
  for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i) * tokens;
  std::vector<int64_t> wanted;
  for (const int64_t index : spec.feature_layers) wanted.push_back(hidden_state_index(spec, index));
  if (wanted.empty()) wanted.push_back(spec.layers);
  const int64_t last = *std::ranges::max_element(wanted);

  std::vector<at::Tensor> states = {x.reshape({images * tokens, spec.width})};
  for (int64_t i = 0; i < last; ++i) {
    at::Tensor next = vision_block(spec, tower.blocks[static_cast<size_t>(i)], states.back(), {}, offsets);
    if (std::ranges::find(wanted, i) == wanted.end()) states.back().reset();
    states.push_back(std::move(next));
  }
  std::vector<at::Tensor> features;
  for (const int64_t index : wanted) features.push_back(states[static_cast<size_t>(index)]);
  x = (features.size() == 1 ? features.front() : at::cat(features, -1)).view({images, tokens, -1});
  return spec.drop_class_token ? x.narrow(1, 1, tokens - 1) : x;
}

PatchFeatures patch_features(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& patches,
                             const std::vector<std::pair<int64_t, int64_t>>& grids) {
  const WindowOrder order = window_order(grids, spec.merge, spec.window / spec.merge / spec.patch);
  const at::Device device = patches.device();
  const at::Tensor cells = at::tensor(order.cells, at::kLong);
  const VisionRope rope = vision_rope(spec, grids, cells, device);

  at::Tensor x =
      tiled_linear(patches.to(tower.patch_weight.scalar_type()), tower.patch_weight, tower.patch_bias);
  const int64_t rows = x.size(0);
  x = x.view({rows / (spec.merge * spec.merge), -1})
          .index_select(0, cells.to(device))
          .view({rows, spec.width});
  for (int64_t i = 0; i < spec.layers; ++i) {
    const bool full = std::ranges::find(spec.full_blocks, i) != spec.full_blocks.end();
    x = vision_block(spec, tower.blocks[static_cast<size_t>(i)], x, rope,
                     full ? order.image_offsets : order.window_offsets);
  }
  return {x, at::tensor(order.restore, at::kLong).to(device)};
}

at::Tensor project(const ProjectorSpec& spec, const Projector& projector, const at::Tensor& rows) {
  at::Tensor x = spec.norm ? rms_norm(rows, projector.norm, spec.norm_eps) : rows;
  x = x.reshape({x.size(0) / spec.merge_rows, x.size(1) * spec.merge_rows});
  return apply(projector.linear_2, activate(spec.activation, apply(projector.linear_1, x)));
}

}  // namespace visq::nn

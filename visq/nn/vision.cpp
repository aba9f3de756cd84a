#include "visq/nn/vision.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/tiled.h"
#include "visq/nn/grouping.h"
#include "visq/nn/vision_positions.h"
#include "visq/nn/vision_tiles.h"

namespace visq::nn {
namespace {

/// What the rows of a pass have in common.
struct Pass {
  at::Tensor cos, sin;                   ///< [rows, head_dim]; undefined without rope
  std::vector<int64_t> windows, images;  ///< borders of the sequences, in rows
  std::vector<at::Tensor> keys;          ///< int64, of each image: its rows that are seen; empty: all are
  std::vector<at::Tensor> fill;          ///< int64, of each image: its other rows, where `keys` see these too
};

at::Tensor normalize(const VisionSpec& spec, const Norm& norm, const at::Tensor& x) {
  return spec.rms_norm ? rms_norm(x, norm, spec.norm_eps) : layer_norm(x, norm, spec.norm_eps);
}

at::Tensor turn(const VisionSpec& spec, const at::Tensor& x, const Pass& pass) {
  if (spec.rope == VisionRope::none) return x;
  if (spec.rope == VisionRope::neighbours) return rotate_neighbours(x, pass.cos, pass.sin);
  // The shared rotation happens in fp32 whatever the compute type (spec §7).
  if (spec.rope == VisionRope::shared)
    return rotate(x.to(at::kFloat), pass.cos, pass.sin).to(x.scalar_type());
  return rotate(x, pass.cos.to(x.scalar_type()), pass.sin.to(x.scalar_type()));
}

/// Attention inside each image, where not all rows are seen by all.
at::Tensor masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pass& pass) {
  const auto heads_of = [](const at::Tensor& rows) { return rows.transpose(0, 1).unsqueeze(0); };
  std::vector<at::Tensor> parts;
  for (size_t i = 0; i < pass.keys.size(); ++i) {
    const int64_t first = pass.images[i], count = pass.images[i + 1] - first;
    const at::Tensor& seen = pass.keys[i];
    const auto attend = [&](const at::Tensor& queries, const at::Tensor& keys, const at::Tensor& values) {
      return dense_attention(heads_of(queries), heads_of(keys), heads_of(values), AttentionPattern{});
    };
    const at::Tensor seen_keys = k.index_select(0, seen), seen_values = v.index_select(0, seen);
    if (pass.fill.empty()) {
      parts.push_back(attend(q.narrow(0, first, count), seen_keys, seen_values));
      continue;
    }
    // Fill is hidden from fill only: so the reference's mask.
    const at::Tensor& fill = pass.fill[i];
    const at::Tensor out = at::empty({count, q.size(1) * q.size(2)}, q.options());
    out.index_copy_(0, seen - first,
                    attend(q.index_select(0, seen), k.narrow(0, first, count), v.narrow(0, first, count)));
    out.index_copy_(0, fill - first, attend(q.index_select(0, fill), seen_keys, seen_values));
    parts.push_back(out);
  }
  return at::cat(parts);
}

/// @param x  [rows, width], normalized
at::Tensor attend(const VisionSpec& spec, const VisionBlock& block, const at::Tensor& x, const Pass& pass,
                  bool full) {
  const int64_t rows = x.size(0), heads = spec.heads, head_dim = spec.width / spec.heads;
  at::Tensor q, k, v;
  if (spec.fused_qkv) {
    const at::Tensor qkv = apply(block.qkv, x).view({rows, 3, spec.width});
    q = qkv.select(1, 0), k = qkv.select(1, 1), v = qkv.select(1, 2);
  } else {
    q = apply(block.q, x), k = apply(block.k, x), v = apply(block.v, x);
  }
  if (spec.qk_norm) {
    q = rms_norm(q, block.q_norm, spec.qk_norm_eps);
    k = rms_norm(k, block.k_norm, spec.qk_norm_eps);
  }
  for (at::Tensor* const part : {&q, &k, &v}) *part = part->view({rows, heads, head_dim});
  q = turn(spec, q, pass), k = turn(spec, k, pass);
  return apply(block.out, pass.keys.empty()
                              ? attention(q, k, v, full ? pass.images : pass.windows, /*causal=*/false)
                              : masked_attention(q, k, v, pass));
}

/// @param x  [rows, width], normalized
at::Tensor mlp(const VisionSpec& spec, const VisionBlock& block, const at::Tensor& x) {
  if (spec.gated_mlp)
    return apply(block.down, activate(spec.activation, apply(block.gate, x)) * apply(block.up, x));
  return apply(block.fc2, activate(spec.activation, apply(block.fc1, x)));
}

/// @param x  [rows, width]; @param full  rows see their whole image, else their window
at::Tensor vision_block(const VisionSpec& spec, const VisionBlock& block, const at::Tensor& x,
                        const Pass& pass, bool full) {
  const auto scaled = [](const at::Tensor& branch, const at::Tensor& scale) {
    return scale.defined() ? branch * scale : branch;
  };
  const at::Tensor attended = attend(spec, block, normalize(spec, block.norm1, x), pass, full);
  const at::Tensor middle = x + scaled(attended, block.scale1);
  return middle + scaled(mlp(spec, block, normalize(spec, block.norm2, middle)), block.scale2);
}

/// Hugging Face's index of a hidden state (0: encoder input) from one that may count from the end.
int64_t hidden_state_index(const VisionSpec& spec, int64_t index) {
  const int64_t resolved = index < 0 ? spec.layers + 1 + index : index;
  if (resolved < 0 || resolved > spec.layers)
    fail("vision feature layer {} does not exist: the tower has {} layers", index, spec.layers);
  return resolved;
}

/// Rows before or behind the patches.
int64_t class_rows(const VisionSpec& spec) { return spec.class_token ? spec.class_tokens : 0; }

/// What the patch embedding reads. @param patches  [Σ h·w, 3·p·p]
at::Tensor normalized_pixels(const VisionSpec& spec, const VisionTower& tower, const at::Tensor& patches) {
  if (!spec.normalizes) return patches;
  return patches.to(at::kFloat)
      .view({patches.size(0), 3, -1})
      .sub(tower.pixel_mean.view({3, 1}))
      .div_(tower.pixel_std.view({3, 1}))
      .flatten(1);
}

/// Adds positions of which the class token has none. @param x  [Σ h·w, width]
at::Tensor place_patches(const VisionSpec& spec, const VisionTower& tower, const TowerInput& input,
                         const at::Tensor& x) {
  if (spec.positions == VisionPositions::stretched) {
    const at::Tensor mask = input.mask.defined() ? input.mask.to(at::kCPU) : at::Tensor();
    const at::Tensor places = stretched_positions(input.grids, mask, spec.image_size / spec.patch);
    return x + tower.position_table.index_select(0, places.to(x.device()));
  }
  if (spec.positions == VisionPositions::resampled)
    return x + resampled_positions(input.grids, tower.position_table, spec.merge).to(x.scalar_type());
  return x;
}

/// Adds class token and positions. @param x  [Σ h·w, width] → [Σ tokens, width]
at::Tensor place(const VisionSpec& spec, const VisionTower& tower, const TowerInput& input, at::Tensor x) {
  const auto count = static_cast<int64_t>(input.grids.size());
  x = place_patches(spec, tower, input, x);
  if (spec.class_token) {
    const at::Tensor token = tower.class_embedding.view({1, spec.class_tokens, spec.width})
                                 .expand({count, spec.class_tokens, spec.width});
    const at::Tensor patches = x.view({count, -1, spec.width});
    x = spec.class_token_last ? at::cat({patches, token}, 1) : at::cat({token, patches}, 1);
    x = x.flatten(0, 1);
  }
  switch (spec.positions) {
    case VisionPositions::none:
    case VisionPositions::stretched:
    case VisionPositions::resampled:
      return x;
    case VisionPositions::table:
      return (x.view({count, -1, spec.width}) + tower.position_table).flatten(0, 1);
    case VisionPositions::gated:
      return add_gated_positions(spec, tower, input.tilings, x);
  }
  fail("position kind {} does not exist", static_cast<int>(spec.positions));
}

/// Borders of the tiles or images in tokens, and which rows are seen where a mask hides some.
Pass whole_images(const VisionSpec& spec, const TowerInput& input) {
  Pass pass;
  pass.images = {0};
  for (const auto& [height, width] : input.grids)
    pass.images.push_back(pass.images.back() + height * width + class_rows(spec));
  if (!input.mask.defined() || input.mask.all().item<bool>()) return pass;
  for (size_t i = 0; i + 1 < pass.images.size(); ++i) {
    const int64_t first = pass.images[i], count = pass.images[i + 1] - first;
    pass.keys.push_back(input.mask.narrow(0, first, count).nonzero().flatten() + first);
  }
  return pass;
}

/// Borders of the images in filled tokens, and which of these are tokens of tiles that the image has.
Pass joined_images(const VisionSpec& spec, const std::vector<Grid>& tilings, const TileFill& tile,
                   at::Device device) {
  Pass pass;
  const int64_t rows = spec.joined_tiles * tile.filled;
  for (size_t i = 0; i <= tilings.size(); ++i) pass.images.push_back(static_cast<int64_t>(i) * rows);
  for (size_t i = 0; i < tilings.size(); ++i) {
    at::Tensor shown = at::zeros({spec.joined_tiles, tile.filled}, at::kBool);
    shown.narrow(0, 0, tilings[i].first * tilings[i].second).narrow(1, 0, tile.tokens).fill_(true);
    shown = shown.flatten();
    pass.keys.push_back((shown.nonzero().flatten() + pass.images[i]).to(device));
    pass.fill.push_back((shown.logical_not().nonzero().flatten() + pass.images[i]).to(device));
  }
  return pass;
}

}  // namespace

int64_t tower_tokens(const VisionSpec& spec, const Grid& grid) {
  return grid.first * grid.second + class_rows(spec) - (spec.drop_class_token ? spec.class_tokens : 0);
}

at::Tensor cut_patches(const at::Tensor& pixels, int64_t patch) {
  const int64_t images = pixels.size(0), channels = pixels.size(1);
  const int64_t rows = pixels.size(2) / patch, columns = pixels.size(3) / patch;
  return pixels.narrow(2, 0, rows * patch)
      .narrow(3, 0, columns * patch)
      .reshape({images, channels, rows, patch, columns, patch})
      .permute({0, 2, 4, 1, 3, 5})
      .reshape({images * rows * columns, channels * patch * patch});
}

TowerRows run_tower(const VisionSpec& spec, const VisionTower& tower, const TowerInput& input) {
  const at::Device device = input.patches.device();
  const at::Tensor pixels = normalized_pixels(spec, tower, input.patches);
  at::Tensor x =
      tiled_linear(pixels.to(tower.patch_weight.scalar_type()), tower.patch_weight, tower.patch_bias);
  const bool joined = spec.joined_tiles > 0;
  if (joined) x = add_tile_table(spec, tower.pre_tile, input.tilings, x);
  x = place(spec, tower, input, x);
  if (spec.pre_norm) x = normalize(spec, tower.pre_norm, x);
  const TileFill tile = tile_fill(spec, input.grids.front());
  if (joined) x = tile.fill(x);

  TowerRows result;
  Pass pass = joined ? joined_images(spec, input.tilings, tile, device) : whole_images(spec, input);
  at::Tensor angles = spec.rope == VisionRope::none ? at::Tensor() : vision_angles(spec, input.grids);
  if (spec.window > 0) {
    WindowOrder order = window_order(input.grids, spec.merge, spec.window / spec.merge / spec.patch);
    const at::Tensor cells = at::tensor(order.cells, at::kLong);
    const auto by_cells = [&](const at::Tensor& rows) {
      return rows.view({cells.size(0), -1})
          .index_select(0, cells.to(rows.device()))
          .view({rows.size(0), rows.size(1)});
    };
    x = by_cells(x), angles = by_cells(angles);
    pass.windows = std::move(order.window_offsets);
    result.restore = at::tensor(order.restore, at::kLong).to(device);
  }
  if (angles.defined()) pass.cos = angles.cos().to(device), pass.sin = angles.sin().to(device);

  std::vector<int64_t> wanted;
  for (const int64_t index : spec.feature_layers) wanted.push_back(hidden_state_index(spec, index));
  if (wanted.empty()) wanted.push_back(spec.layers);
  const int64_t last = *std::ranges::max_element(wanted);
  const auto contains = [](const std::vector<int64_t>& list, int64_t value) {
    return std::ranges::find(list, value) != list.end();
  };
  std::vector<at::Tensor> states = {x}, taps;
  x.reset();
  for (int64_t i = 0; i < last; ++i) {
    const bool full = spec.window == 0 || contains(spec.full_blocks, i);
    at::Tensor next = vision_block(spec, tower.blocks[static_cast<size_t>(i)], states.back(), pass, full);
    if (!contains(wanted, i)) states.back().reset();
    if (contains(spec.deepstack_blocks, i)) result.deepstack.push_back(next);
    if (contains(spec.tapped_blocks, i)) taps.push_back(next);
    states.push_back(std::move(next));
  }
  if (spec.post_norm) states.back() = layer_norm(states.back(), tower.post_norm, spec.norm_eps);
  if (joined) states.back() = add_tile_table(spec, tower.post_tile, input.tilings, states.back());
  for (const VisionBlock& block : tower.global_blocks)
    states.back() = vision_block(spec, block, states.back(), pass, /*full=*/true);
  std::vector<at::Tensor> features;
  for (const int64_t index : wanted) features.push_back(states[static_cast<size_t>(index)]);
  if (!taps.empty()) features.push_back(at::stack(taps, -1).flatten(1));
  result.rows = features.size() == 1 ? features.front() : at::cat(features, -1);
  if (joined) result.rows = tile.unfill(result.rows);
  if (spec.drop_class_token) {  // whatever the token is: so the reference
    const auto count = static_cast<int64_t>(input.grids.size());
    const at::Tensor tokens = result.rows.view({count, -1, result.rows.size(1)});
    const int64_t dropped = spec.class_tokens;
    result.rows =
        tokens.narrow(1, spec.class_token_last ? 0 : dropped, tokens.size(1) - dropped).flatten(0, 1);
  }
  return result;
}

}  // namespace visq::nn

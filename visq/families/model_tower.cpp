// The vision side of a Model: loading tower and projectors, and images → features.
#include <ATen/ATen.h>

#include "visq/core/format.h"
#include "visq/families/model_parts.h"

namespace visq {
namespace {

// Patches that go through the tower together: bounds the memory of activations.
constexpr int64_t kChunkPatches = 8192;

/// One tile, one whole image, one step of a video, or tiles that see one another: what the tower sees by
/// itself.
struct View {
  at::Tensor patches;  ///< [tiles · h·w, 3·t·p·p]
  nn::Grid grid;       ///< of each tile
  at::Tensor mask;     ///< bool [h·w], or undefined
  int64_t tiles = 1;
  nn::Grid tiling = {};  ///< of joined tiles: the rows and columns that the image has
};

/// All tiles of an image, those that it lacks zero.
View joined_view(const nn::VisionSpec& spec, const ProcessedImage& image, const nn::Grid& grid) {
  const at::Tensor shown = nn::cut_patches(image.pixels, spec.patch);
  const int64_t rows = spec.joined_tiles * grid.first * grid.second;
  return {at::constant_pad_nd(shown, {0, 0, 0, rows - shown.size(0)}, 0),
          grid,
          {},
          spec.joined_tiles,
          {image.rows, image.columns}};
}

std::vector<View> views_of(const nn::VisionSpec& spec, const ProcessedImage& image) {
  const std::vector<nn::Grid> grids = image_grids(spec, image);
  std::vector<View> views;
  if (spec.input == nn::VisionInput::patches) {
    for (const at::Tensor& step : image.pixels.chunk(image.grid_t))
      views.push_back({step, grids.front(), {}});
    return views;
  }
  if (spec.joined_tiles > 0) return {joined_view(spec, image, grids.front())};
  const at::Tensor tiles = image.pixels.dim() == 4 ? image.pixels : image.pixels.unsqueeze(0);
  for (size_t i = 0; i < grids.size(); ++i) {
    const auto tile = static_cast<int64_t>(i);
    views.push_back({nn::cut_patches(tiles.narrow(0, tile, 1), spec.patch), grids[i], {}});
    if (image.patch_mask.defined()) views.back().mask = image.patch_mask[tile].flatten();
  }
  return views;
}

/// Lays views end to end.
nn::TowerInput lay_out(const std::vector<View>& views, at::Device device) {
  std::vector<at::Tensor> patches, masks;
  nn::TowerInput input;
  bool masked = false;
  for (const View& view : views) {
    patches.push_back(view.patches);
    masked = masked || view.mask.defined();
    masks.push_back(view.mask.defined() ? view.mask : at::ones({view.patches.size(0)}, at::kBool));
    input.grids.insert(input.grids.end(), static_cast<size_t>(view.tiles), view.grid);
    if (view.tiling.first > 0) input.tilings.push_back(view.tiling);
  }
  input.patches = at::cat(patches).to(device);
  if (masked) input.mask = at::cat(masks).to(device);
  return input;
}

/// Calls `body(input)` for runs of views of at most kChunkPatches patches, at least one view.
template <typename Body>
void in_chunks(const nn::VisionSpec& spec, std::span<const ProcessedImage> images, at::Device device,
               Body&& body) {
  std::vector<View> chunk;
  int64_t patches = 0;
  for (const ProcessedImage& image : images) {
    for (View& view : views_of(spec, image)) {
      if (!chunk.empty() && patches + view.patches.size(0) > kChunkPatches) {
        body(lay_out(chunk, device));
        chunk.clear();
        patches = 0;
      }
      patches += view.patches.size(0);
      chunk.push_back(std::move(view));
    }
  }
  body(lay_out(chunk, device));
}

at::Tensor joined(const std::vector<at::Tensor>& parts) {
  return parts.size() == 1 ? parts.front() : at::cat(parts);
}

at::Tensor restored(const at::Tensor& rows, const at::Tensor& order) {
  return order.defined() ? rows.index_select(0, order) : rows;
}

}  // namespace

nn::Projector Model::load_chain(const std::string& prefix, const nn::ProjectorSpec& chain) const {
  using Kind = nn::ProjectorOp::Kind;
  nn::Projector projector;
  for (const nn::ProjectorOp& op : chain) {
    nn::OpWeights weights;
    const std::string name = prefix + op.name;
    if (op.kind == Kind::matrix) {
      weights.weight = weight(name);
    } else if (!op.name.empty()) {
      weights.weight = weight(name + ".weight");
      const bool bias = op.kind == Kind::layer_norm || (op.kind == Kind::linear && op.bias);
      if (bias) weights.bias = weight(name + ".bias");
    }
    projector.push_back(std::move(weights));
  }
  return projector;
}

VisionParts Model::load_vision() const {
  const nn::VisionSpec& spec = spec_.vision;
  const TowerNames& names = spec_.tower_names;
  const std::string& prefix = spec_.tower_prefix;
  VisionParts parts;
  nn::VisionTower& tower = parts.tower;
  tower.patch_weight = weight(prefix + names.patch + ".weight").flatten(1);
  if (spec.patch_bias) tower.patch_bias = weight(prefix + names.patch + ".bias");
  if (spec.normalizes) {
    tower.pixel_mean = stored(prefix + names.pixel_mean).to(device_, at::kFloat).flatten();
    tower.pixel_std = stored(prefix + names.pixel_std).to(device_, at::kFloat).flatten();
  }
  if (spec.class_token)
    tower.class_embedding = weight(prefix + names.class_embedding).view({spec.class_tokens, spec.width});
  if (spec.positions != nn::VisionPositions::none)
    tower.position_table = weight(prefix + names.position_table).view({-1, spec.width});
  if (spec.pre_norm) tower.pre_norm = load_norm(prefix + names.pre_norm);
  if (spec.post_norm) tower.post_norm = load_norm(prefix + names.post_norm);
  const auto load_block = [&](const std::string& at) {
    nn::VisionBlock block;
    block.norm1 = load_norm(at + names.norm1);
    block.norm2 = load_norm(at + names.norm2);
    const auto load = [&](nn::Linear& linear, const std::string& name) {
      if (!name.empty()) linear = load_canonical(at + name);
    };
    load(block.q, names.q), load(block.k, names.k), load(block.v, names.v), load(block.qkv, names.qkv);
    load(block.out, names.out), load(block.fc1, names.fc1), load(block.fc2, names.fc2);
    load(block.gate, names.gate), load(block.up, names.up), load(block.down, names.down);
    if (spec.qk_norm)
      block.q_norm = load_norm(at + names.q_norm), block.k_norm = load_norm(at + names.k_norm);
    if (spec.layer_scale) block.scale1 = weight(at + names.scale1), block.scale2 = weight(at + names.scale2);
    return block;
  };
  for (int64_t i = 0; i < spec.layers; ++i)
    tower.blocks.push_back(load_block(visq::format("{}{}{}.", prefix, names.blocks, i)));
  if (spec.joined_tiles > 0) {
    tower.position_gate = weight(prefix + names.position_gate);
    tower.tile_positions = weight(prefix + names.tile_positions);
    const auto load_table = [&](const std::string& module) {
      return nn::TileTable{weight(prefix + module + ".embedding.weight"), weight(prefix + module + ".gate")};
    };
    tower.pre_tile = load_table(names.pre_tile), tower.post_tile = load_table(names.post_tile);
  }
  for (int64_t i = 0; i < spec.global_layers; ++i) {
    const std::string at = visq::format("{}{}{}.", prefix, names.global_blocks, i);
    nn::VisionBlock block = load_block(at);
    block.scale1 = weight(at + names.scale1).tanh(), block.scale2 = weight(at + names.scale2).tanh();
    tower.global_blocks.push_back(std::move(block));
  }
  parts.projector = load_chain(spec_.projector_prefix, spec_.projector);
  parts.packed_projector = load_chain(spec_.projector_prefix, spec_.packed_projector);
  for (size_t i = 0; i < spec.deepstack_blocks.size(); ++i)
    parts.deepstack.push_back(load_chain(visq::format("{}{}.", spec_.deepstack_prefix, i), spec_.deepstack));
  const ImageLayout& layout = spec_.layout;
  if (!layout.row_end.empty()) parts.learned.row_end = weight(layout.row_end).flatten();
  if (!layout.separator.empty()) parts.learned.separator = weight(layout.separator).flatten();
  if (layout.end_id) parts.learned.end = embed_rows({*layout.end_id})[0];
  return parts;
}

const VisionParts& Model::vision() const {
  return parts_->vision.get([this] { return load_vision(); });
}

at::Tensor Model::tower_features(const std::vector<ProcessedImage>& images) const {
  std::vector<at::Tensor> rows;
  in_chunks(spec_.vision, images, device_, [&](const nn::TowerInput& input) {
    rows.push_back(nn::run_tower(spec_.vision, vision().tower, input).rows);
  });
  return joined(rows);
}

/// @param rows  feature_rows() of each image
at::Tensor Model::pack(const at::Tensor& rows, std::span<const ProcessedImage> images) const {
  const VisionParts& parts = vision();
  std::vector<at::Tensor> packed;
  int64_t first = 0;
  for (const ProcessedImage& image : images) {
    const int64_t count = feature_rows(spec_, image);
    at::Tensor own = rows.narrow(0, first, count);
    first += count;
    if (spec_.layout.kind == ImageLayout::Kind::scales) {
      own = nn::project(spec_.projector, parts.projector, stack_scales(spec_, own, image),
                        stacked_grids(spec_, image));
    }
    packed.push_back(pack_image(spec_, parts.learned, own, image));
  }
  return nn::project(spec_.packed_projector, parts.packed_projector, joined(packed), {});
}

ImageFeatures Model::image_features(const std::vector<ProcessedImage>& images) const {
  const VisionParts& parts = vision();
  const size_t taps = spec_.vision.deepstack_blocks.size();
  std::vector<at::Tensor> rows;
  std::vector<std::vector<at::Tensor>> deepstack(taps);
  in_chunks(spec_.vision, images, device_, [&](const nn::TowerInput& input) {
    const nn::TowerRows tower = nn::run_tower(spec_.vision, parts.tower, input);
    const bool scales = spec_.layout.kind == ImageLayout::Kind::scales;
    rows.push_back(scales ? tower.rows
                          : restored(nn::project(spec_.projector, parts.projector, tower.rows, input.grids),
                                     tower.restore));
    for (size_t i = 0; i < taps; ++i)
      deepstack[i].push_back(restored(
          nn::project(spec_.deepstack, parts.deepstack[i], tower.deepstack[i], input.grids), tower.restore));
  });
  ImageFeatures features{pack(joined(rows), images), {}};
  for (const std::vector<at::Tensor>& parts_of_tap : deepstack)
    features.deepstack.push_back(joined(parts_of_tap));
  return features;
}

}  // namespace visq

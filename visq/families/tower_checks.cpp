#include "visq/families/tower_checks.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/nn/vision_tiles.h"

namespace visq {
namespace {

using nn::ProjectorOp;

void expect_block(const nn::VisionSpec& vision, const TowerNames& names, const std::string& block,
                  Expectations& expect) {
  const bool norm_bias = !vision.rms_norm;
  expect.norm(block + names.norm1, vision.width, norm_bias);
  expect.norm(block + names.norm2, vision.width, norm_bias);
  if (vision.fused_qkv) {
    expect.linear(block + names.qkv, 3 * vision.width, vision.width, vision.qkv_bias);
  } else {
    for (const std::string* const name : {&names.q, &names.k, &names.v})
      expect.linear(block + *name, vision.width, vision.width, vision.qkv_bias);
  }
  if (vision.qk_norm)
    for (const std::string* const name : {&names.q_norm, &names.k_norm})
      expect.norm(block + *name, vision.width, false);
  expect.linear(block + names.out, vision.width, vision.width, vision.out_bias);
  if (vision.gated_mlp) {
    expect.linear(block + names.gate, vision.mlp_width, vision.width, vision.mlp_bias);
    expect.linear(block + names.up, vision.mlp_width, vision.width, vision.mlp_bias);
    expect.linear(block + names.down, vision.width, vision.mlp_width, vision.mlp_bias);
  } else {
    expect.linear(block + names.fc1, vision.mlp_width, vision.width, vision.mlp_bias);
    expect.linear(block + names.fc2, vision.width, vision.mlp_width, vision.mlp_bias);
  }
  if (!vision.layer_scale) return;
  expect.tensor(block + names.scale1, {vision.width});
  expect.tensor(block + names.scale2, {vision.width});
}

/// What joined tiles have beyond other towers.
void expect_tiles(const nn::VisionSpec& vision, const TowerNames& names, const std::string& prefix,
                  Expectations& expect) {
  const auto rows = static_cast<int64_t>(vision.tilings.size()) + 1;
  const int64_t side = vision.image_size / vision.patch;
  const int64_t tokens = nn::tower_tokens(vision, {side, side});
  expect.tensor(prefix + names.position_gate, {1});
  expect.tensor(prefix + names.tile_positions, {rows, vision.joined_tiles * tokens * vision.width});
  for (const std::string* const name : {&names.pre_tile, &names.post_tile}) {
    expect.tensor(prefix + *name + ".embedding.weight", {rows, vision.joined_tiles * vision.width});
    expect.tensor(prefix + *name + ".gate", {1});
  }
  for (int64_t i = 0; i < vision.global_layers; ++i) {
    const std::string block = visq::format("{}{}{}.", prefix, names.global_blocks, i);
    expect_block(vision, names, block, expect);
    expect.tensor(block + names.scale1, {1});
    expect.tensor(block + names.scale2, {1});
  }
}

int64_t position_rows(const nn::VisionSpec& vision) {
  if (vision.positions == nn::VisionPositions::resampled) return vision.position_rows;
  const int64_t side = vision.image_size / vision.patch;
  return side * side + (vision.class_token ? 1 : 0);
}

/// @return channels behind the chain
int64_t expect_chain(const std::string& prefix, const nn::ProjectorSpec& chain, int64_t channels,
                     Expectations& expect) {
  for (const ProjectorOp& op : chain) {
    const int64_t out = nn::projected_channels({op}, channels);
    if (op.kind == ProjectorOp::Kind::linear) {
      expect.linear(prefix + op.name, out, channels, op.bias);
    } else if (op.kind == ProjectorOp::Kind::matrix) {
      expect.tensor(prefix + op.name, {channels, out});
    } else if (!op.name.empty()) {
      expect.norm(prefix + op.name, channels, op.kind == ProjectorOp::Kind::layer_norm);
    }
    channels = out;
  }
  return channels;
}

void check_tiles(const nn::VisionSpec& vision, const ProcessedImage& image) {
  const std::vector<int64_t> wanted = {3, vision.image_size, vision.image_size};
  const bool several = image.pixels.dim() == 4 && image.pixels.size(0) > 0;
  if ((several ? image.pixels.sizes().slice(1) : image.pixels.sizes()) != at::IntArrayRef(wanted))
    fail("the image processor makes [{}], but the vision tower of config.json reads [{}]",
         fmt::join(image.pixels.sizes(), ", "), fmt::join(wanted, ", "));
}

void check_whole(const nn::VisionSpec& vision, const ProcessedImage& image) {
  const at::IntArrayRef sizes = image.pixels.sizes();
  const int64_t side = vision.patch * vision.merge;
  if (sizes.size() != 3 || sizes[0] != 3 || sizes[1] < side || sizes[2] < side || sizes[1] % side != 0 ||
      sizes[2] % side != 0)
    fail(
        "the image processor makes [{}], but the vision tower of config.json reads [3, h, w], multiples of "
        "{}",
        fmt::join(sizes, ", "), side);
}

void check_patches(const nn::VisionSpec& vision, const ProcessedImage& image) {
  const int64_t row = 3 * vision.temporal_patch * vision.patch * vision.patch;
  if (image.grid_h < 1 || image.grid_w < 1 || image.grid_h % vision.merge != 0 ||
      image.grid_w % vision.merge != 0 || image.pixels.dim() != 2 ||
      image.pixels.size(0) != image.grid_t * image.grid_h * image.grid_w || image.pixels.size(1) != row)
    fail(
        "the image processor makes patches [{}] in a grid of {} x {}, which the vision tower of config.json "
        "does not "
        "read (rows of {}, grids of multiples of {})",
        fmt::join(image.pixels.sizes(), ", "), image.grid_h, image.grid_w, row, vision.merge);
}

/// Tiles that the layout puts together; 0: any number.
int64_t tiles_of(const ImageLayout& layout, const ProcessedImage& image) {
  const int64_t cut = image.rows * image.columns;
  switch (layout.kind) {
    case ImageLayout::Kind::flat:
      return 0;
    case ImageLayout::Kind::row_breaks:
      return 1;
    case ImageLayout::Kind::cross:
      return std::max<int64_t>(1, cut);
    case ImageLayout::Kind::anyres:
    case ImageLayout::Kind::hd:
    case ImageLayout::Kind::tagged:
      return 1 + cut;
    case ImageLayout::Kind::scales: {
      if (cut == 0) return 1;
      int64_t tiles = cut;
      for (const int64_t side : layout.scales) tiles += side * side;
      return tiles;
    }
  }
  return 0;
}

}  // namespace

void expect_tower(const ModelSpec& spec, Expectations& expect) {
  const nn::VisionSpec& vision = spec.vision;
  const TowerNames& names = spec.tower_names;
  const std::string& prefix = spec.tower_prefix;
  std::vector<int64_t> kernel = {vision.width, 3, vision.patch, vision.patch};
  if (vision.input == nn::VisionInput::patches) kernel.insert(kernel.begin() + 2, vision.temporal_patch);
  if (names.patch_is_linear) kernel = {vision.width, 3 * vision.patch * vision.patch};
  expect.tensor(prefix + names.patch + ".weight", kernel);
  if (vision.patch_bias) expect.tensor(prefix + names.patch + ".bias", {vision.width});
  if (vision.class_token)
    expect.loose_tensor(prefix + names.class_embedding, {vision.class_tokens, vision.width});
  if (vision.normalizes)
    for (const std::string* const name : {&names.pixel_mean, &names.pixel_std})
      expect.tensor(prefix + *name, {3, 1, 1});
  if (vision.positions != nn::VisionPositions::none)
    expect.loose_tensor(prefix + names.position_table, {position_rows(vision), vision.width});
  if (vision.pre_norm) expect.norm(prefix + names.pre_norm, vision.width, !vision.rms_norm);
  for (int64_t i = 0; i < vision.layers; ++i)
    expect_block(vision, names, visq::format("{}{}{}.", prefix, names.blocks, i), expect);
  if (vision.post_norm) expect.norm(prefix + names.post_norm, vision.width, true);
  if (vision.joined_tiles > 0) expect_tiles(vision, names, prefix, expect);
}

void expect_projectors(const ModelSpec& spec, Expectations& expect) {
  const nn::VisionSpec& vision = spec.vision;
  const auto layers = std::max<int64_t>(1, static_cast<int64_t>(vision.feature_layers.size())) +
                      static_cast<int64_t>(vision.tapped_blocks.size());
  const auto check_end = [&](int64_t channels) {
    if (channels != spec.decoder.hidden)
      fail("config.json: the projector of '{}' makes {} channels, but the text model's 'hidden_size' is {}",
           spec.architecture, channels, spec.decoder.hidden);
  };
  int64_t channels = vision.width * layers;
  if (spec.layout.kind == ImageLayout::Kind::scales)
    channels *= static_cast<int64_t>(spec.layout.scales.size()) + 1;
  channels = expect_chain(spec.projector_prefix, spec.projector, channels, expect);
  for (const std::string* const name : {&spec.layout.row_end, &spec.layout.separator})
    if (!name->empty()) expect.loose_tensor(*name, {channels});
  check_end(expect_chain(spec.projector_prefix, spec.packed_projector, channels, expect));
  for (size_t i = 0; i < vision.deepstack_blocks.size(); ++i)
    check_end(
        expect_chain(visq::format("{}{}.", spec.deepstack_prefix, i), spec.deepstack, vision.width, expect));
}

void check_image(const ModelSpec& spec, const ProcessedImage& image) {
  switch (spec.vision.input) {
    case nn::VisionInput::tiles:
      check_tiles(spec.vision, image);
      break;
    case nn::VisionInput::images:
      check_whole(spec.vision, image);
      break;
    case nn::VisionInput::patches:
      check_patches(spec.vision, image);
      break;
  }
  const int64_t tiles = image.pixels.dim() == 4 ? image.pixels.size(0) : 1;
  const int64_t wanted = tiles_of(spec.layout, image);
  if (wanted != 0 && tiles != wanted)
    fail("the image processor makes {} tiles in a grid of {} x {}, but this model puts {} together", tiles,
         image.rows, image.columns, wanted);
  if (spec.vision.joined_tiles > 0) nn::tiling_row(spec.vision, {image.rows, image.columns});
}

}  // namespace visq

// The vision side of a Model: loading tower and projector, and images → features.
#include <ATen/ATen.h>

#include "visq/core/format.h"
#include "visq/families/model_parts.h"

namespace visq {
namespace {

// Patches that go through the tower together: bounds the memory of activations.
constexpr int64_t kChunkPatches = 8192;

int64_t patches_of(const nn::VisionSpec& spec, const ProcessedImage& image) {
  if (!spec.position_table) return image.grid_h * image.grid_w;
  const int64_t side = spec.image_size / spec.patch;
  return side * side;
}

/// Calls `body(images)` for runs of images of at most kChunkPatches patches (at least one image) and lays the
/// results end to end.
template <typename Body>
at::Tensor in_chunks(const nn::VisionSpec& spec, const std::vector<ProcessedImage>& images, Body&& body) {
  std::vector<at::Tensor> results;
  std::vector<ProcessedImage> chunk;
  int64_t patches = 0;
  for (const ProcessedImage& image : images) {
    const int64_t count = patches_of(spec, image);
    if (!chunk.empty() && patches + count > kChunkPatches) {
      results.push_back(body(chunk));
      chunk.clear();
      patches = 0;
    }
    chunk.push_back(image);
    patches += count;
  }
  results.push_back(body(chunk));
  return results.size() == 1 ? results.front() : at::cat(results);
}

/// @return rows before the projector, and the order that restores them afterwards (undefined: none needed)
nn::PatchFeatures run_tower(const nn::VisionSpec& spec, const nn::VisionTower& tower,
                            const std::vector<ProcessedImage>& images, at::Device device) {
  std::vector<at::Tensor> pixels;
  for (const ProcessedImage& image : images) pixels.push_back(image.pixels);
  if (spec.position_table)
    return {nn::vision_features(spec, tower, at::stack(pixels).to(device)).flatten(0, 1), {}};
  std::vector<std::pair<int64_t, int64_t>> grids;
  for (const ProcessedImage& image : images) grids.emplace_back(image.grid_h, image.grid_w);
  return nn::patch_features(spec, tower, at::cat(pixels).to(device), grids);
}

}  // namespace

nn::VisionTower Model::load_tower() const {
  const nn::VisionSpec& vision = spec_.vision;
  const TowerNames& names = spec_.tower_names;
  const std::string& prefix = spec_.tower_prefix;
  nn::VisionTower tower;
  tower.patch_weight = weight(prefix + names.patch + ".weight").flatten(1);
  if (vision.patch_bias) tower.patch_bias = weight(prefix + names.patch + ".bias");
  if (vision.class_token) tower.class_embedding = weight(prefix + names.class_embedding);
  if (vision.position_table) tower.position_table = weight(prefix + names.position_table);
  if (vision.pre_norm) tower.pre_norm = load_norm(prefix + names.pre_norm);
  for (int64_t i = 0; i < vision.layers; ++i) {
    const std::string at = visq::format("{}{}{}.", prefix, names.blocks, i);
    nn::VisionBlock block;
    block.norm1 = load_norm(at + names.norm1);
    block.norm2 = load_norm(at + names.norm2);
    const auto load = [&](nn::Linear& linear, const std::string& name) {
      if (!name.empty()) linear = load_canonical(at + name);
    };
    load(block.q, names.q), load(block.k, names.k), load(block.v, names.v), load(block.qkv, names.qkv);
    load(block.out, names.out), load(block.fc1, names.fc1), load(block.fc2, names.fc2);
    load(block.gate, names.gate), load(block.up, names.up), load(block.down, names.down);
    tower.blocks.push_back(std::move(block));
  }
  return tower;
}

nn::Projector Model::load_projector() const {
  const ProjectorNames& names = spec_.projector_names;
  nn::Projector projector;
  if (spec_.projector.norm) projector.norm = load_norm(spec_.projector_prefix + names.norm);
  projector.linear_1 = load_canonical(spec_.projector_prefix + names.linear_1);
  projector.linear_2 = load_canonical(spec_.projector_prefix + names.linear_2);
  return projector;
}

const nn::VisionTower& Model::tower() const {
  return parts_->tower.get([this] { return load_tower(); });
}

at::Tensor Model::tower_features(const std::vector<ProcessedImage>& images) const {
  return in_chunks(spec_.vision, images, [this](const std::vector<ProcessedImage>& chunk) {
    return run_tower(spec_.vision, tower(), chunk, device_).rows;
  });
}

at::Tensor Model::image_features(const std::vector<ProcessedImage>& images) const {
  const nn::Projector& projector = parts_->projector.get([this] { return load_projector(); });
  return in_chunks(spec_.vision, images, [&](const std::vector<ProcessedImage>& chunk) {
    const nn::PatchFeatures features = run_tower(spec_.vision, tower(), chunk, device_);
    const at::Tensor rows = nn::project(spec_.projector, projector, features.rows);
    return features.restore.defined() ? rows.index_select(0, features.restore) : rows;
  });
}

}  // namespace visq

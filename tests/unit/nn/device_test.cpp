// The same computation on a CPU and on a GPU.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/tiny_models.h"

namespace visq::nn {
namespace {

using test::random;
using test::tiny_spec;

constexpr double kTolerance = 1e-4;  // other summation orders, in fp32

at::Tensor to_gpu(const at::Tensor& tensor) { return tensor.defined() ? tensor.to(at::kCUDA) : tensor; }
Linear to_gpu(const Linear& linear) { return {to_gpu(linear.weight), to_gpu(linear.bias), linear.input}; }
Norm to_gpu(const Norm& norm) { return {to_gpu(norm.weight), to_gpu(norm.bias)}; }

DecoderLayer to_gpu(const DecoderLayer& layer) {
  DecoderLayer moved = layer;
  for (const LinearId& id : linears(tiny_spec(), layer.index)) moved.linear(id) = to_gpu(moved.linear(id));
  moved.input_norm = to_gpu(layer.input_norm), moved.mlp_norm = to_gpu(layer.mlp_norm);
  return moved;
}

VisionTower to_gpu(const VisionTower& tower) {
  VisionTower moved;
  moved.patch_weight = to_gpu(tower.patch_weight), moved.patch_bias = to_gpu(tower.patch_bias);
  moved.class_embedding = to_gpu(tower.class_embedding), moved.position_table = to_gpu(tower.position_table);
  moved.pre_norm = to_gpu(tower.pre_norm);
  for (const VisionBlock& block : tower.blocks) {
    VisionBlock copy;
    copy.norm1 = to_gpu(block.norm1), copy.norm2 = to_gpu(block.norm2);
    copy.q = to_gpu(block.q), copy.k = to_gpu(block.k), copy.v = to_gpu(block.v);
    copy.qkv = to_gpu(block.qkv), copy.out = to_gpu(block.out);
    copy.fc1 = to_gpu(block.fc1), copy.fc2 = to_gpu(block.fc2);
    copy.gate = to_gpu(block.gate), copy.up = to_gpu(block.up), copy.down = to_gpu(block.down);
    moved.blocks.push_back(std::move(copy));
  }
  return moved;
}

class Gpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "no CUDA device";
  }
};

TEST_F(Gpu, DecodesAsTheCpuDoes) {
  DecoderSpec spec = test::tiny_spec();
  spec.rope.mrope_section = {1, 2, 1};
  const DecoderLayer layer = test::random_layer(spec, 1), moved = to_gpu(layer);
  KvCache cpu_cache, gpu_cache;
  // Prompts of 4, 1 and 4 tokens, then single tokens.
  std::vector<int64_t> offsets = {0, 4, 5, 9};
  for (int64_t step = 0; step < 4; ++step) {
    const int64_t tokens = offsets.back();
    const at::Tensor x = random({tokens, spec.hidden}, static_cast<uint64_t>(10 + step));
    const at::Tensor positions = at::arange(3 * tokens, at::kLong).view({3, tokens});
    const at::Tensor expected =
        decoder_layer(spec, layer, x, rope_table(spec, positions, at::kFloat), offsets, nullptr, &cpu_cache);
    const at::Tensor computed =
        decoder_layer(spec, moved, to_gpu(x), rope_table(spec, to_gpu(positions), at::kFloat), offsets,
                      nullptr, &gpu_cache);
    EXPECT_LT(test::largest_difference(computed.to(at::kCPU), expected), kTolerance);
    offsets = {0, 1, 2, 3};
  }
}

TEST_F(Gpu, SeesAsTheCpuDoes) {
  const VisionSpec clip = test::clip_spec();
  const VisionTower clip_tower = test::clip_tower(clip);
  const at::Tensor pixels = random({2, 3, 7, 7}, 20);
  EXPECT_LT(
      test::largest_difference(test::tile_features(clip, to_gpu(clip_tower), to_gpu(pixels)).to(at::kCPU),
                               test::tile_features(clip, clip_tower, pixels)),
      kTolerance);

  VisionSpec window = test::window_spec();
  window.full_blocks = {1};
  const VisionTower tower = test::window_tower(window);
  const at::Tensor patches = random({24 + 16, 24}, 21);
  const TowerRows expected = test::patch_features(window, tower, patches, {{6, 4}, {4, 4}});
  const TowerRows computed = test::patch_features(window, to_gpu(tower), to_gpu(patches), {{6, 4}, {4, 4}});
  EXPECT_LT(test::largest_difference(computed.rows.to(at::kCPU), expected.rows), kTolerance);
  EXPECT_TRUE(at::equal(computed.restore.to(at::kCPU), expected.restore));
}

}  // namespace
}  // namespace visq::nn

#include "visq/nn/cross_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/tiny_models.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;

DecoderSpec cross_spec() {
  DecoderSpec spec = test::tiny_spec();
  spec.cross = {true, false};
  return spec;
}

DecoderLayer cross_layer_weights(const DecoderSpec& spec) {
  DecoderLayer layer = test::random_layer(spec, 100);
  layer.q_norm.weight = random({spec.head_dim}, 1), layer.k_norm.weight = random({spec.head_dim}, 2);
  layer.attn_gate = at::tensor({0.7f}), layer.mlp_gate = at::tensor({-0.4f});
  return layer;
}

/// Sequences of 3, 5 and 4 tokens; the first has no image, the second text before its image, the third two
/// images of which its first token sees one. The last row of each is fill that only text before an image
/// sees.
const std::vector<int64_t> kOffsets = {0, 3, 8, 12};
CrossInput two_sequences() {
  return {random({13, 16}, 3),
          {{1, {0, 5}, {{2, {}}, {3, {{0, 4}}}}}, {2, {5, 8}, {{1, {{5, 2}}}, {3, {{5, 2}, {9, 3}}}}}}};
}

at::Tensor run(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
               const std::vector<int64_t>& offsets, const CrossInput* vision, KvCache* cache = nullptr,
               const LayerObserver* observer = nullptr) {
  return decoder_layer(spec, layer, x, {}, offsets, observer, cache, {}, vision);
}

/// One token by the formula of the specification. @param seen  the vision rows that it attends to
at::Tensor plain_token(const DecoderSpec& spec, const DecoderLayer& layer, const at::Tensor& x,
                       const at::Tensor& seen, bool has_mlp) {
  const auto norm = [&](const at::Tensor& t, const Norm& n) {
    return t / (t.square().mean(-1, true) + spec.norm_eps).sqrt() * n.weight;
  };
  const auto linear = [](const Linear& l, const at::Tensor& t) {
    const at::Tensor y = t.matmul(l.weight.t());
    return l.bias.defined() ? y + l.bias : y;
  };
  const at::Tensor q = norm(linear(layer.q, norm(x, layer.input_norm)).view({1, 4, 8}), layer.q_norm);
  const at::Tensor k = norm(linear(layer.k, seen).view({-1, 2, 8}), layer.k_norm);
  const at::Tensor v = linear(layer.v, seen).view({-1, 2, 8});
  const at::Tensor h = x + std::tanh(0.7) * linear(layer.o, test::plain_attention(q, k, v, /*causal=*/false));
  const at::Tensor m = norm(h, layer.mlp_norm), gate = linear(layer.gate, m);
  const at::Tensor mlp = linear(layer.down, gate * gate.sigmoid() * linear(layer.up, m));
  return has_mlp ? h + std::tanh(-0.4) * mlp : h;
}

TEST(CrossLayer, AttendsToWhatEachTokenSeesAndSkipsSequencesWithoutImages) {
  const DecoderSpec spec = cross_spec();
  const DecoderLayer layer = cross_layer_weights(spec);
  const CrossInput vision = two_sequences();
  const at::Tensor x = random({12, 16}, 4), out = run(spec, layer, x, kOffsets, &vision);
  const auto rows = [&](std::vector<int64_t> indices) {
    return vision.rows.index_select(0, at::tensor(indices, at::kLong));
  };
  EXPECT_TRUE(at::equal(out.narrow(0, 0, 3), x.narrow(0, 0, 3)));
  for (int64_t token = 3; token < 12; ++token) {
    const at::Tensor seen = token < 5    ? rows({0, 1, 2, 3, 4})
                            : token < 8  ? rows({0, 1, 2, 3})
                            : token == 8 ? rows({5, 6})
                                         : rows({5, 6, 9, 10, 11});
    const at::Tensor expected = plain_token(spec, layer, x.narrow(0, token, 1), seen, token >= 5);
    EXPECT_LT(largest_difference(out.narrow(0, token, 1), expected), 1e-5) << token;
  }
}

TEST(CrossLayer, WithACacheLaterTokensSeeWhatTheLastOneSaw) {
  const DecoderSpec spec = cross_spec();
  const DecoderLayer layer = cross_layer_weights(spec);
  const CrossInput vision = two_sequences();
  KvCache cache;
  run(spec, layer, random({12, 16}, 4), kOffsets, &vision, &cache);
  CrossInput longer = vision;  // as if each sequence had one token more
  for (CrossSequence& sequence : longer.sequences) ++sequence.runs.back().tokens;
  const at::Tensor x = random({15, 16}, 5);
  const at::Tensor whole = run(spec, layer, x, {0, 4, 10, 15}, &longer);
  const at::Tensor last = at::tensor({3, 9, 14}, at::kLong);
  at::Tensor next = run(spec, layer, x.index_select(0, last), {0, 1, 2, 3}, nullptr, &cache);
  EXPECT_LT(largest_difference(next, whole.index_select(0, last)), 1e-6);

  cache.keep(std::vector<int64_t>{0, 2});
  const at::Tensor kept = at::tensor({3, 14}, at::kLong);
  next = run(spec, layer, x.index_select(0, kept), {0, 1, 2}, nullptr, &cache);
  EXPECT_LT(largest_difference(next, whole.index_select(0, kept)), 1e-6);
  EXPECT_THROW(run(spec, layer, x.narrow(0, 0, 3), {0, 1, 2, 3}, nullptr, &cache), Error);
}

TEST(CrossLayer, WithoutImagesIsSkipped) {
  const DecoderSpec spec = cross_spec();
  const DecoderLayer layer = cross_layer_weights(spec);
  const at::Tensor x = random({4, 16}, 6);
  KvCache cache;
  LayerObserver observer;
  observer.input = [](InputGroup, const at::Tensor&) { FAIL(); };
  EXPECT_TRUE(at::equal(run(spec, layer, x, {0, 4}, nullptr, &cache, &observer), x));
}

TEST(CrossLayer, ShowsTheObserverOnlyWhatHasAnEffect) {
  const DecoderSpec spec = cross_spec();
  const CrossInput vision = two_sequences();
  std::vector<std::pair<std::string, std::vector<int64_t>>> seen;
  LayerObserver observer;
  observer.input = [&](InputGroup group, const at::Tensor& x) {
    seen.emplace_back(group_name(group), x.sizes().vec());
  };
  observer.kv = [&](const at::Tensor& k, const at::Tensor& v) {
    seen.emplace_back("keys", k.sizes().vec());
    seen.emplace_back("values", v.sizes().vec());
  };
  run(spec, cross_layer_weights(spec), random({12, 16}, 4), kOffsets, &vision, nullptr, &observer);
  const decltype(seen) expected = {{"attn_in", {9, 16}},   {"cross_in", {13, 16}}, {"keys", {13, 2, 8}},
                                   {"values", {13, 2, 8}}, {"attn_out", {9, 32}},  {"mlp_in", {7, 16}},
                                   {"mlp_out", {7, 24}}};
  EXPECT_EQ(seen, expected);
}

TEST(CrossLayer, PassesKeysAndValuesThroughTheSimulatedCache) {
  const DecoderSpec spec = cross_spec();
  DecoderLayer layer = cross_layer_weights(spec), doubled = layer;
  const CrossInput vision = two_sequences();
  const at::Tensor x = random({12, 16}, 4);
  layer.key_cache = layer.value_cache = [](const at::Tensor& rows) { return rows * 2; };
  doubled.k_norm.weight = doubled.k_norm.weight * 2;
  doubled.v.weight = doubled.v.weight * 2, doubled.v.bias = doubled.v.bias * 2;
  EXPECT_LT(
      largest_difference(run(spec, layer, x, kOffsets, &vision), run(spec, doubled, x, kOffsets, &vision)),
      1e-5);
}

TEST(CrossLayer, RefusesRunsThatAreNotTheTokensOfTheSequence) {
  const DecoderSpec spec = cross_spec();
  CrossInput vision = two_sequences();
  vision.sequences[0].runs.pop_back();
  EXPECT_THROW(run(spec, cross_layer_weights(spec), random({12, 16}, 4), kOffsets, &vision), Error);
}

TEST(Roles, OfACrossLayerReadTokensAndImages) {
  const DecoderSpec spec = cross_spec();
  EXPECT_EQ(role_path(spec, 0, Role::k), "cross_attn.k_proj");
  EXPECT_EQ(role_path(spec, 1, Role::k), "self_attn.k_proj");
  EXPECT_EQ(role_path(spec, 0, Role::down), "mlp.down_proj");
  using Ids = std::vector<LinearId>;
  EXPECT_EQ(members(spec, 0, {InputGroup::attn_in}), Ids{{Role::q}});
  EXPECT_EQ(members(spec, 0, {InputGroup::cross_in}), (Ids{{Role::k}, {Role::v}}));
  EXPECT_EQ(members(spec, 1, {InputGroup::attn_in}), (Ids{{Role::q}, {Role::k}, {Role::v}}));
  EXPECT_EQ(groups(spec, 0).size(), 5u);
  EXPECT_EQ(groups(spec, 1).size(), 4u);
  EXPECT_EQ(norm_path(spec, InputGroup::cross_in), nullptr);
}

}  // namespace
}  // namespace visq::nn

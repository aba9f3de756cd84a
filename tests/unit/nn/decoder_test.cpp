#include "visq/nn/decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "tests/unit/nn/tiny_models.h"
#include "visq/core/error.h"

namespace visq::nn {
namespace {

using test::largest_difference;
using test::random;
using test::random_layer;
using test::tiny_spec;

at::Tensor arange(int64_t begin, int64_t end) { return at::arange(begin, end, at::kLong).unsqueeze(0); }

TEST(Rope, StandardAnglesArePositionTimesThetaToTheMinusTwoIOverD) {
  DecoderSpec spec = tiny_spec();
  const RopeTable table = rope_table(spec, arange(5, 6), at::kFloat);
  for (int64_t i = 0; i < 8; ++i) {
    const double angle = 5 * std::pow(10000.0, -2.0 * static_cast<double>(i % 4) / 8);
    EXPECT_NEAR(table.cos[0][i].item<float>(), std::cos(angle), 1e-6);
    EXPECT_NEAR(table.sin[0][i].item<float>(), std::sin(angle), 1e-6);
  }
}

TEST(Rope, LinearDividesTheAngles) {
  DecoderSpec spec = tiny_spec();
  spec.rope.kind = Rope::Kind::linear;
  spec.rope.factor = 4;
  const RopeTable scaled = rope_table(spec, arange(8, 9), at::kFloat);
  const RopeTable plain = rope_table(tiny_spec(), arange(2, 3), at::kFloat);
  EXPECT_LT(largest_difference(scaled.cos, plain.cos), 1e-6);
}

TEST(Rope, Llama3KeepsShortWavesStretchesLongOnesAndBlendsBetween) {
  // theta 10000, d 8: frequencies 1, 0.1, 0.01, 0.001; wave lengths 6.28, 62.8, 628, 6283.
  // With an original length of 200, low 1, high 4: long is > 200, short is < 50.
  //   6.28 short: 1. 62.8 between: s = (200/62.83 − 1)/3 = 0.727699, so 0.1·((1−s)/8 + s) = 0.0761737.
  //   628 and 6283 long: 0.01/8 and 0.001/8.
  DecoderSpec spec = tiny_spec();
  spec.rope.kind = Rope::Kind::llama3;
  spec.rope.factor = 8;
  spec.rope.original_max_positions = 200;
  const RopeTable table = rope_table(spec, arange(1, 2), at::kFloat);
  const double angles[] = {1.0, 0.0761737, 0.00125, 0.000125};
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(table.sin[0][i].item<float>(), std::sin(angles[i]), 1e-6);
}

TEST(Rope, MropeTakesEachSectionOfFrequenciesFromItsAxis) {
  DecoderSpec spec = tiny_spec();
  spec.rope.mrope_section = {1, 2, 1};
  const at::Tensor positions = at::tensor({7, 3, 5}, at::kLong).view({3, 1});
  const RopeTable table = rope_table(spec, positions, at::kFloat);
  const double frequency[] = {1, 0.1, 0.01, 0.001}, position[] = {7, 3, 3, 5};
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_NEAR(table.sin[0][i].item<float>(), std::sin(position[i % 4] * frequency[i % 4]), 1e-6);
}

TEST(Rope, MropeOfTextIsOrdinaryRope) {
  DecoderSpec spec = tiny_spec();
  const RopeTable plain = rope_table(spec, arange(0, 6), at::kFloat);
  spec.rope.mrope_section = {1, 2, 1};
  const RopeTable mrope = rope_table(spec, arange(0, 6).expand({3, 6}), at::kFloat);
  EXPECT_TRUE(at::equal(plain.cos, mrope.cos));
  EXPECT_TRUE(at::equal(plain.sin, mrope.sin));
}

TEST(DecoderLayer, FollowsTheFormulaOfTheSpecification) {
  const DecoderSpec spec = tiny_spec();
  const DecoderLayer layer = random_layer(spec, 100);
  const at::Tensor x = random({5, 16}, 1);
  const RopeTable rope = rope_table(spec, arange(0, 5), at::kFloat);
  const auto norm = [&](const at::Tensor& t, const at::Tensor& w) {
    return t / (t.square().mean(-1, true) + spec.norm_eps).sqrt() * w;
  };
  const auto linear = [](const Linear& l, const at::Tensor& t) {
    const at::Tensor y = t.matmul(l.weight.t());
    return l.bias.defined() ? y + l.bias : y;
  };
  const at::Tensor n = norm(x, layer.input_norm.weight);
  const at::Tensor q = rotate(linear(layer.q, n).view({5, 4, 8}), rope.cos, rope.sin);
  const at::Tensor k = rotate(linear(layer.k, n).view({5, 2, 8}), rope.cos, rope.sin);
  const at::Tensor h =
      x + linear(layer.o, test::plain_attention(q, k, linear(layer.v, n).view({5, 2, 8}), true));
  const at::Tensor m = norm(h, layer.mlp_norm.weight);
  const at::Tensor gate = linear(layer.gate, m);
  const at::Tensor expected = h + linear(layer.down, gate * gate.sigmoid() * linear(layer.up, m));
  EXPECT_LT(largest_difference(decoder_layer(spec, layer, x, rope, std::vector<int64_t>{0, 5}), expected),
            1e-5);
}

TEST(DecoderLayer, TokenByTokenWithACacheEqualsTheWholeSequence) {
  const DecoderSpec spec = tiny_spec();
  DecoderLayer first = random_layer(spec, 200), second = random_layer(spec, 300);
  second.index = 1;
  const std::vector<int64_t> offsets = {0, 7, 11};
  const at::Tensor x = random({11, 16}, 2);
  const at::Tensor positions = at::cat({arange(0, 7), arange(0, 4)}, 1);
  const RopeTable rope = rope_table(spec, positions, at::kFloat);
  const at::Tensor whole =
      decoder_layer(spec, second, decoder_layer(spec, first, x, rope, offsets), rope, offsets);

  KvCache cache;
  std::vector<at::Tensor> last;
  const auto feed = [&](const at::Tensor& rows, const std::vector<int64_t>& borders) {
    const RopeTable table = rope_table(spec, positions.index_select(1, rows), at::kFloat);
    const at::Tensor h = decoder_layer(spec, first, x.index_select(0, rows), table, borders, nullptr, &cache);
    return decoder_layer(spec, second, h, table, borders, nullptr, &cache);
  };
  // Prompts of 4 and 1 tokens, then three single tokens of each.
  at::Tensor rows = at::tensor({0, 1, 2, 3, 7}, at::kLong);
  EXPECT_LT(largest_difference(feed(rows, {0, 4, 5}), whole.index_select(0, rows)), 1e-5);
  for (int64_t step = 0; step < 3; ++step) {
    rows = at::tensor({4 + step, 8 + step}, at::kLong);
    EXPECT_LT(largest_difference(feed(rows, {0, 1, 2}), whole.index_select(0, rows)), 1e-5);
  }
}

TEST(DecoderLayer, ShowsTheObserverWhatEachLinearReads) {
  const DecoderSpec spec = tiny_spec();
  const DecoderLayer layer = random_layer(spec, 400);
  const RopeTable rope = rope_table(spec, arange(0, 3), at::kFloat);
  std::vector<std::pair<std::string, int64_t>> seen;
  std::vector<int64_t> cached;
  LayerObserver observer;
  observer.input = [&](InputGroup group, const at::Tensor& x) {
    seen.emplace_back(group_name(group), x.size(1));
  };
  observer.kv = [&](const at::Tensor& keys, const at::Tensor& values) {
    cached = {keys.size(0), keys.size(1), keys.size(2), values.size(2)};
  };
  decoder_layer(spec, layer, random({3, 16}, 3), rope, std::vector<int64_t>{0, 3}, &observer);
  const std::vector<std::pair<std::string, int64_t>> expected = {
      {"attn_in", 16}, {"attn_out", 32}, {"mlp_in", 16}, {"mlp_out", 24}};
  EXPECT_EQ(seen, expected);
  EXPECT_EQ(cached, (std::vector<int64_t>{3, 2, 8, 8}));
}

TEST(DecoderLayer, PassesKeysAndValuesThroughTheSimulatedCache) {
  const DecoderSpec spec = tiny_spec();
  DecoderLayer layer = random_layer(spec, 500);
  const RopeTable rope = rope_table(spec, arange(0, 3), at::kFloat);
  const at::Tensor x = random({3, 16}, 4);
  const std::vector<int64_t> offsets = {0, 3};
  layer.value_cache = [](const at::Tensor& values) { return at::zeros_like(values); };
  DecoderLayer silent = layer;
  silent.value_cache = {};
  silent.o.weight = at::zeros_like(layer.o.weight);
  EXPECT_TRUE(
      at::equal(decoder_layer(spec, layer, x, rope, offsets), decoder_layer(spec, silent, x, rope, offsets)));
}

TEST(DecoderLayer, RefusesSequencesBeyondTheLimit) {
  DecoderSpec spec = tiny_spec();
  spec.max_tokens = 4;
  spec.max_tokens_reason = "the sliding window";
  const DecoderLayer layer = random_layer(spec, 600);
  const auto run = [&](int64_t begin, int64_t end, KvCache* cache) {
    return decoder_layer(spec, layer, random({end - begin, 16}, 5),
                         rope_table(spec, arange(begin, end), at::kFloat),
                         std::vector<int64_t>{0, end - begin}, nullptr, cache);
  };
  EXPECT_NO_THROW(run(0, 4, nullptr));
  EXPECT_THROW(run(0, 5, nullptr), Error);
  KvCache cache;
  EXPECT_NO_THROW(run(0, 4, &cache));
  EXPECT_THROW(run(4, 5, &cache), Error);
}

TEST(Roles, HaveTheNamesAndGroupsOfTheCheckpoints) {
  const DecoderSpec spec = tiny_spec();
  EXPECT_EQ(role_path(spec, 0, Role::q), "self_attn.q_proj");
  EXPECT_EQ(role_path(spec, 0, Role::down), "mlp.down_proj");
  EXPECT_EQ(group_of(spec, 0, Role::v), InputGroup::attn_in);
  EXPECT_EQ(group_of(spec, 0, Role::o), InputGroup::attn_out);
  EXPECT_EQ(group_of(spec, 0, Role::up), InputGroup::mlp_in);
  EXPECT_EQ(group_of(spec, 0, Role::down), InputGroup::mlp_out);
}

/// What a layer is like, and how to change the tiny one into it.
struct Kind {
  const char* name;
  void (*change)(DecoderSpec&, DecoderLayer&);
};

class GradientOfALayer : public testing::TestWithParam<Kind> {};

TEST_P(GradientOfALayer, IsTheSlopeAlongAnyDirection) {
  DecoderSpec spec = tiny_spec();
  DecoderLayer layer = random_layer(spec, 100);
  GetParam().change(spec, layer);
  const RopeTable rope = rope_table(spec, arange(0, 7), at::kFloat);
  const std::vector<int64_t> offsets = {0, 3, 7};
  const at::Tensor above = random({7, 16}, 5), direction = random({7, 16}, 6);
  const auto value = [&](const at::Tensor& x) {
    return (decoder_layer(spec, layer, x, rope, offsets) * above).sum();
  };
  const at::Tensor x = random({7, 16}, 1).requires_grad_();
  value(x).backward();
  const double slope = (x.grad() * direction).sum().item<double>(), step = 1e-3;
  const at::Tensor point = x.detach();
  const double measured =
      (value(point + step * direction) - value(point - step * direction)).item<double>() / (2 * step);
  EXPECT_NEAR(slope, measured, 0.01 * x.grad().norm().item<double>());
  EXPECT_GT(x.grad().norm().item<double>(), 1);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, GradientOfALayer,
    testing::Values(Kind{"Plain", [](DecoderSpec&, DecoderLayer&) {}},
                    Kind{"Softcapped", [](DecoderSpec& spec, DecoderLayer&) { spec.score_softcap = 2; }},
                    Kind{"Windowed",
                         [](DecoderSpec& spec, DecoderLayer&) {
                           spec.window = 2, spec.windowed = {true, true};
                         }},
                    Kind{"Neighbours", [](DecoderSpec& spec,
                                          DecoderLayer&) { spec.rope.neighbours = spec.unit_heads = true; }},
                    Kind{"Sparse",
                         [](DecoderSpec& spec, DecoderLayer& layer) {
                           spec.experts.count = 3, spec.experts.per_token = 2, spec.experts.intermediate = 8;
                           spec.experts.shared = spec.intermediate;
                           spec.experts.sparse = {true, true};
                           layer.router.weight = random({3, 16}, 7);
                           for (uint64_t seed = 10; seed < 13; ++seed)
                             layer.experts.push_back({{random({8, 16}, seed) * 0.2, {}, {}},
                                                      {random({8, 16}, seed + 10) * 0.2, {}, {}},
                                                      {random({16, 8}, seed + 20) * 0.2, {}, {}}});
                         }}),
    [](const auto& kind) { return kind.param.name; });

TEST(DecoderLayer, AnOutputCanBeReplaced) {
  const DecoderSpec spec = tiny_spec();
  DecoderLayer layer = random_layer(spec, 100);
  const at::Tensor x = random({5, 16}, 1);
  const RopeTable rope = rope_table(spec, arange(0, 5), at::kFloat);
  const auto silence = [](const at::Tensor&, const at::Tensor& y) { return at::zeros_like(y); };
  layer.o.output = layer.down.output = silence;
  EXPECT_TRUE(at::equal(decoder_layer(spec, layer, x, rope, std::vector<int64_t>{0, 5}), x));
}

}  // namespace
}  // namespace visq::nn

#include "visq/nn/experts.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/nn/reference.h"
#include "visq/nn/decoder.h"

namespace visq::nn {
namespace {

using test::random;

ExpertsSpec four_experts() {
  ExpertsSpec spec;
  spec.count = 4, spec.per_token = 2, spec.intermediate = 6;
  spec.sparse = {false, true};
  return spec;
}

std::vector<Expert> random_experts(const ExpertsSpec& spec, int64_t hidden) {
  std::vector<Expert> experts;
  for (uint64_t seed = 1; seed <= static_cast<uint64_t>(spec.count); ++seed)
    experts.push_back({{random({spec.intermediate, hidden}, 10 * seed), {}, {}},
                       {random({spec.intermediate, hidden}, 10 * seed + 1), {}, {}},
                       {random({hidden, spec.intermediate}, 10 * seed + 2), {}, {}}});
  return experts;
}

at::Tensor one_expert(const Expert& expert, const at::Tensor& x) {
  return at::matmul(at::silu(at::matmul(x, expert.gate.weight.t())) * at::matmul(x, expert.up.weight.t()),
                    expert.down.weight.t());
}

TEST(RunExperts, AddsUpTheChosenExpertsByTheirShares) {
  const ExpertsSpec spec = four_experts();
  const std::vector<Expert> experts = random_experts(spec, 5);
  const at::Tensor x = random({2, 5}, 1);
  // Token 0 goes to experts 2 and 0, token 1 to 3 and 2.
  const at::Tensor scores = at::tensor({1.0f, -2.0f, 2.0f, 0.0f, -1.0f, 0.0f, 0.5f, 3.0f}).view({2, 4});
  const at::Tensor share = scores.softmax(1);
  const auto expected = [&](int64_t token, int64_t a, int64_t b) {
    const at::Tensor row = x.narrow(0, token, 1), p = share[token][a], q = share[token][b];
    return (one_expert(experts[static_cast<size_t>(a)], row) * p +
            one_expert(experts[static_cast<size_t>(b)], row) * q) /
           (p + q);
  };
  const at::Tensor wanted = at::cat({expected(0, 0, 2), expected(1, 2, 3)});
  EXPECT_TRUE(at::allclose(run_experts(spec, Activation::silu, experts, x, scores), wanted, 1e-5, 1e-6));

  ExpertsSpec raw = spec;
  raw.normalize = false;
  const at::Tensor first = wanted[0] * (share[0][0] + share[0][2]);
  EXPECT_TRUE(at::allclose(run_experts(raw, Activation::silu, experts, x, scores)[0], first, 1e-5, 1e-6));
}

TEST(RunExperts, ASigmoidRouterScalesTheInput) {
  ExpertsSpec spec = four_experts();
  spec.routing = ExpertsSpec::Routing::sigmoid_input;
  spec.per_token = 1;
  const std::vector<Expert> experts = random_experts(spec, 5);
  const at::Tensor x = random({1, 5}, 1), scores = at::tensor({0.0f, 0.7f, -1.0f, 0.2f}).view({1, 4});
  const at::Tensor wanted = one_expert(experts[1], x * scores[0][1].sigmoid());
  EXPECT_TRUE(at::allclose(run_experts(spec, Activation::silu, experts, x, scores), wanted, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(unrouted_input(spec, x, scores, 3), x * scores[0][3].sigmoid()));
}

TEST(RunExperts, ShowsTheObserverTheRowsOfEachExpertAndNoOthers) {
  const ExpertsSpec spec = four_experts();
  const at::Tensor x = random({2, 5}, 1);
  const at::Tensor scores = at::tensor({1.0f, -2.0f, 2.0f, 0.0f, -1.0f, 0.0f, 0.5f, 3.0f}).view({2, 4});
  std::map<int64_t, std::vector<int64_t>> seen;
  run_experts(spec, Activation::silu, random_experts(spec, 5), x, scores,
              [&](int64_t expert, const at::Tensor& rows, const at::Tensor& input, const at::Tensor& hidden) {
                EXPECT_TRUE(at::equal(input, x.index_select(0, rows)));
                EXPECT_EQ(hidden.size(1), spec.intermediate);
                for (int64_t i = 0; i < rows.size(0); ++i) seen[expert].push_back(rows[i].item<int64_t>());
              });
  const std::map<int64_t, std::vector<int64_t>> expected = {{0, {0}}, {2, {0, 1}}, {3, {1}}};
  EXPECT_EQ(seen, expected);
}

TEST(Groups, OfASparseLayerAreThoseOfItsExperts) {
  DecoderSpec spec;
  spec.intermediate = 24;
  spec.experts = four_experts();
  EXPECT_EQ(groups(spec, 0).size(), 4u);
  EXPECT_EQ(groups(spec, 1).size(), 2u + 2 * 4);
  EXPECT_EQ(linears(spec, 1).size(), 4u + 3 * 4);
  // Gate and up of all experts read one norm; each down has its own input.
  EXPECT_EQ(smoothed_together(spec, 1, {InputGroup::mlp_in, 2}).size(), 8u);
  EXPECT_EQ(smoothed_together(spec, 1, {InputGroup::mlp_out, 2}).size(), 1u);
  EXPECT_EQ(linear_path(spec, 1, {Role::up, 3}), "mlp.experts.3.up_proj");
  EXPECT_EQ(linear_path(spec, 0, {Role::up}), "mlp.up_proj");
  EXPECT_EQ(up_rows(spec, 1, 3).count, 6);
  EXPECT_EQ(up_rows(spec, 0, kNoExpert).count, 24);
  spec.experts.shared = 9;
  EXPECT_EQ(groups(spec, 1).size(), 4u + 2 * 4);
  EXPECT_EQ(smoothed_together(spec, 1, {InputGroup::mlp_in}).size(), 10u);
  EXPECT_EQ(linear_path(spec, 1, {Role::down}), "mlp.shared_expert.down_proj");
  EXPECT_EQ(up_rows(spec, 1, kNoExpert).count, 9);
}

}  // namespace
}  // namespace visq::nn

#include "visq/io/expert_stacks.h"

#include <ATen/ATen.h>

#include "tests/unit/io/fixtures.h"
#include "visq/core/error.h"
#include "visq/io/checkpoint.h"

namespace visq {
namespace {

// Three experts of width 2 on 5 channels; matrices [in, out], or [out, in].
class ExpertStacks : public testing::TestWithParam<bool> {
 protected:
  at::Tensor stack(at::IntArrayRef shape) const {
    const at::Tensor all = at::arange(shape[0] * shape[1] * shape[2], at::kFloat).view(shape);
    return GetParam() ? all.transpose(1, 2).contiguous() : all;
  }
  const at::Tensor gate_up_ = stack({3, 4, 5}), down_ = stack({3, 5, 2});
};

TEST_P(ExpertStacks, AreReadMatrixByMatrix) {
  const TemporaryDirectory directory;
  write_text(directory.path() / "config.json", "{}");
  write_safetensors(directory.path() / "model.safetensors", {{"layers.1.mlp.experts.gate_up_proj", gate_up_},
                                                             {"layers.1.mlp.experts.down_proj", down_}});
  const Checkpoint checkpoint(directory.path());
  EXPECT_EQ(checkpoint.names().size(), 2u);
  EXPECT_EQ(checkpoint.stacked_names().size(), 9u);
  const std::string up = "layers.1.mlp.experts.2.up_proj.weight",
                    down = "layers.1.mlp.experts.1.down_proj.weight";
  ASSERT_TRUE(checkpoint.contains(up));
  EXPECT_EQ(checkpoint.info(up).shape, (std::vector<int64_t>{2, 5}));
  EXPECT_EQ(checkpoint.stored_in(up), "layers.1.mlp.experts.gate_up_proj");
  EXPECT_TRUE(at::equal(checkpoint.tensor(up), at::arange(50, 60, at::kFloat).view({2, 5})));
  EXPECT_TRUE(at::equal(checkpoint.tensor(down), at::arange(10, 20, at::kFloat).view({5, 2})));
  EXPECT_THROW(checkpoint.bytes(up), Error);
}

TEST_P(ExpertStacks, OfUnlikeExpertsAreRefused) {
  const TemporaryDirectory directory;
  write_text(directory.path() / "config.json", "{}");
  write_safetensors(
      directory.path() / "model.safetensors",
      {{"mlp.experts.gate_up_proj", gate_up_}, {"mlp.experts.down_proj", down_.narrow(0, 0, 2).clone()}});
  try {
    const Checkpoint checkpoint(directory.path());
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("'mlp.experts.gate_up_proj'"), std::string::npos)
        << error.what();
  }
}

INSTANTIATE_TEST_SUITE_P(, ExpertStacks, testing::Bool(),
                         [](const auto& test) { return test.param ? "transposed" : "straight"; });

}  // namespace
}  // namespace visq

#include "visq/pipeline/solve.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/pipeline/tiny_checkpoint.h"
#include "visq/quant/rotation.h"

namespace visq {
namespace {

using nn::InputGroup;

// The first twenty are text.
TokenRows rows(int64_t count) {
  const at::Tensor number = at::arange(count);
  return {number >= 20, at::zeros({count}, at::kBool), number};
}

// Hidden states with outlier channels, and what a layer makes of them.
struct LayerRun {
  LayerRun(const Model& model, const nn::DecoderLayer& layer, LayerStatistics* statistics) {
    at::manual_seed(11);
    const nn::DecoderSpec& spec = model.spec().decoder;
    at::Tensor hidden = at::randn({40, spec.hidden});
    hidden.slice(1, 5, spec.hidden, 61).mul_(20);
    // Of cross layers: the first sequence sees its image from the sixth token on.
    nn::CrossInput vision{at::randn({30, spec.hidden}),
                          {{0, {0, 20}, {{5, {}}, {20, {{0, 15}}}}}, {1, {20, 10}, {{15, {{20, 10}}}}}}};
    const nn::RopeTable rope = nn::rope_table(spec, at::arange(40).unsqueeze(0), at::kFloat);
    nn::LayerObserver observer;
    observer.input = [&](InputGroup group, const at::Tensor& x) {
      if (statistics != nullptr) statistics->inputs[static_cast<size_t>(group)].add(x, rows(x.size(0)));
    };
    observer.kv = [&](const at::Tensor& keys, const at::Tensor& values) {
      if (statistics == nullptr) return;
      statistics->kv_cache.add(keys, values);
    };
    if (statistics != nullptr && spec.is_sparse(layer.index))
      statistics->experts.resize(static_cast<size_t>(spec.experts.count), ExpertStatistics(Detail::gram));
    observer.expert = [&](int64_t expert, const at::Tensor& rows, const at::Tensor&, const at::Tensor& h) {
      if (statistics != nullptr)
        statistics->experts[static_cast<size_t>(expert)].down.add(
            h, TokenRows::alike(rows.size(0), /*image=*/false, at::kCPU));
    };
    const int64_t offsets[] = {0, 25, 40};
    output = nn::decoder_layer(spec, layer, hidden, rope, offsets, &observer, nullptr, {}, &vision);
  }
  at::Tensor output;
};

Plan plan_for(const Model& model, const char* preset) {
  return make_plan(model, recipe_of(find_preset(preset), KvCacheFormat::fp8), "auto", "out");
}

// What smoothing makes of a layer, unquantized.
void smooth(nn::DecoderLayer& layer, const Model& model, const LayerSolver& solver,
            const SmoothedLayer& smoothed) {
  for (const nn::LinearId& id : nn::linears(model.spec().decoder, layer.index))
    layer.linear(id).weight = solver.smoothed_weight(smoothed, id).to(at::kFloat);
  for (const auto& [name, value] : smoothed.rewritten) {
    if (name.ends_with("input_layernorm.weight")) layer.input_norm.weight = value;
    if (name.ends_with("post_attention_layernorm.weight")) layer.mlp_norm.weight = value;
    if (name.ends_with("mlp.gate.weight")) layer.router.weight = value;
    if (name.ends_with("v_proj.bias")) layer.v.bias = value;
  }
}

class Smoothing : public testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(Smoothing, FoldingLeavesTheFunctionOfTheLayerAsItWas) {
  const auto [preset, text_model] = GetParam();
  const TinyCheckpoint files(at::kFloat, text_model);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const Plan plan = plan_for(model, preset);
  for (const int64_t index : {0, 1}) {
    LayerStatistics statistics(Detail::gram);
    nn::DecoderLayer layer = model.load_layer(index);
    const at::Tensor before = LayerRun(model, layer, &statistics).output;
    LayerSolver solver(model, index, &statistics);
    const SmoothedLayer smoothed = solver.smooth(plan);
    smooth(layer, model, solver, smoothed);
    for (const nn::GroupId& id : nn::groups(model.spec().decoder, index)) {
      const at::Tensor scale = smoothed.scale_of(id);
      ASSERT_EQ(scale.defined(), id.group != InputGroup::cross_in);
      if (!scale.defined()) continue;
      EXPECT_GT((scale - 1).abs().max().item<float>(), 0.1f) << "nothing was smoothed";
    }
    const at::Tensor after = LayerRun(model, layer, nullptr).output;
    const double error = ((after - before).abs().max() / before.abs().max()).item<double>();
    EXPECT_LT(error, 1e-5);
  }
}

class Rotation : public testing::TestWithParam<const char*> {};

TEST_P(Rotation, LeavesTheFunctionOfTheLayerAsItWas) {
  const TinyCheckpoint files(at::kFloat, GetParam());
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  Recipe recipe = recipe_of(find_preset("w4a16"), KvCacheFormat::none);
  recipe.rules.front().scheme->rotated = true;
  const Plan plan = make_plan(model, recipe, "auto", "out");
  for (const int64_t index : {0, 1}) {
    nn::DecoderLayer layer = model.load_layer(index);
    const at::Tensor before = LayerRun(model, layer, nullptr).output, output = layer.o.weight;
    LayerSolver solver(model, index, nullptr);
    const SmoothedLayer smoothed = solver.smooth(plan);
    EXPECT_TRUE(smoothed.rotated);
    smooth(layer, model, solver, smoothed);
    EXPECT_GT((layer.o.weight - output).abs().max().item<float>(), 0.01f) << "nothing was rotated";
    const at::Tensor after = LayerRun(model, layer, nullptr).output;
    EXPECT_LT(((after - before).abs().max() / before.abs().max()).item<double>(), 1e-5);
  }
}
INSTANTIATE_TEST_SUITE_P(, Rotation, testing::Values("llama", "qwen3_moe", "mllama"),
                         [](const auto& test) { return std::string(test.param); });

TEST(LayerSolver, GptqOfRotatedLinearsSeesRotatedInputs) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  LayerRun(model, model.load_layer(0), &statistics);
  const int64_t dim = model.spec().decoder.head_dim;
  const auto error_of = [&](Rounding rounding) {
    Recipe recipe = recipe_of(find_preset("w4a16"), KvCacheFormat::none);
    recipe.rules.front().scheme->rotated = true;
    recipe.rules.front().scheme->rounding = rounding;
    const Plan plan = make_plan(model, recipe, "auto", "out");
    const SolvedLayer solved = LayerSolver(model, 0, &statistics).solve(plan);
    for (const auto& [site, linear] : solved.linears) {
      if (site->id.role != nn::Role::o) continue;
      const at::Tensor turned_back = rotate_columns(dequantize(linear.weight), dim);
      return gram_loss(turned_back - model.linear_weight(0, site->id).to(at::kFloat),
                       statistics.of({InputGroup::attn_out}).gram());
    }
    return 0.0;
  };
  EXPECT_GT(error_of(Rounding::gptq), 0);
  EXPECT_LT(error_of(Rounding::gptq), 0.8 * error_of(Rounding::nearest));
}

TEST(LayerSolver, ARouterIsScaledExactly) {
  const TinyCheckpoint files(at::kBFloat16, "qwen3_moe");
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  LayerRun(model, model.load_layer(1), &statistics);
  for (const char* preset : {"int8_sq", "int4_awq"}) {
    LayerSolver solver(model, 1, &statistics);
    const SmoothedLayer smoothed = solver.smooth(plan_for(model, preset));
    const at::Tensor scale = smoothed.scale_of({InputGroup::mlp_in, 0});
    bool seen = false;
    for (const auto& [name, value] : smoothed.rewritten) {
      if (!name.ends_with("mlp.gate.weight")) continue;
      seen = true;
      EXPECT_EQ(value.scalar_type(), at::kBFloat16);
      const at::Tensor stored = checkpoint.tensor(name).to(at::kFloat);
      EXPECT_TRUE(at::equal(value.to(at::kFloat) / scale, stored)) << "the router would choose otherwise";
    }
    EXPECT_TRUE(seen);
  }
}

INSTANTIATE_TEST_SUITE_P(, Smoothing,
                         testing::Combine(testing::Values("int8_sq", "int4_awq"),
                                          testing::Values("llama", "qwen2", "qwen3_moe", "mllama")),
                         [](const auto& test) {
                           return std::string(std::get<0>(test.param)) + "_" + std::get<1>(test.param);
                         });

// Statistics with channels far larger than the rest; misleading ones, where those are zero in held-out
// tokens.
LayerStatistics outlier_statistics(const Model& model, bool mislead) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  at::manual_seed(21);
  LayerStatistics statistics(Detail::gram);
  for (const nn::GroupId& id : nn::groups(spec, 0)) {
    const int64_t channels = model.linear_weight(0, nn::members(spec, 0, id).front()).size(1);
    at::Tensor fitted = at::randn({300, channels}), held_out = at::randn({60, channels});
    fitted.slice(1, 3, channels, channels / 2).mul_(60);
    held_out.slice(1, 3, channels, channels / 2).mul_(mislead ? 0 : 60);
    Statistics& input = statistics.inputs[static_cast<size_t>(id.group)];
    input.add(at::cat({fitted, held_out}),
              {at::zeros({360}, at::kBool), at::arange(360) >= 300, at::arange(360)});
  }
  return statistics;
}

TEST(LayerSolver, UndoesWhatDoesNotHoldOnTokensThatItHasNotSeen) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  for (const bool mislead : {false, true}) {
    const LayerStatistics statistics = outlier_statistics(model, mislead);
    const Plan plan =
        make_plan(model, recipe_of(find_preset("int4_awq_lite"), KvCacheFormat::none), "auto", "out");
    const SolvedLayer solved = LayerSolver(model, 0, &statistics).solve(plan);
    for (const GroupReport& report : solved.reports) {
      ASSERT_TRUE(report.held_out_error.has_value());
      EXPECT_EQ(report.undone, mislead ? std::vector<std::string>{"awq"} : std::vector<std::string>());
      if (mislead)
        EXPECT_EQ(*report.held_out_error, *report.held_out_plain_error);
      else
        EXPECT_LT(*report.held_out_error, *report.held_out_plain_error);
    }
  }
}

TEST(LayerSolver, WithoutHeldOutTokensNothingIsTried) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  LayerRun(model, model.load_layer(0), &statistics);
  for (const GroupReport& report :
       LayerSolver(model, 0, &statistics).solve(plan_for(model, "int4_awq")).reports) {
    EXPECT_FALSE(report.held_out_error.has_value());
    EXPECT_TRUE(report.undone.empty());
  }
}

// The error of the text tokens of q, k and v under a scale.
double text_error(const Model& model, const LayerStatistics& statistics, const at::Tensor& scale) {
  const Statistics& seen = statistics.of({InputGroup::attn_in});
  double error = 0;
  for (const nn::LinearId& id : nn::members(model.spec().decoder, 0, {InputGroup::attn_in})) {
    const at::Tensor weight = model.linear_weight(0, id).to(at::kFloat);
    error += gram_loss(dequantize(pack_int4(weight * scale, 128)) / scale - weight, seen.text().gram);
  }
  return error;
}

TEST(LayerSolver, ModalitiesCountAsTheRecipeSays) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  at::manual_seed(31);
  LayerStatistics statistics(Detail::gram);
  for (const nn::GroupId& id : nn::groups(model.spec().decoder, 0)) {
    const int64_t channels = model.linear_weight(0, nn::members(model.spec().decoder, 0, id).front()).size(1);
    at::Tensor x = at::randn({400, channels});
    x.slice(0, 0, 200).slice(1, 3, channels, 41).mul_(20);
    x.slice(0, 200).slice(1, 11, channels, 23).mul_(40);
    statistics.inputs[static_cast<size_t>(id.group)].add(
        x, {at::arange(400) >= 200, at::zeros({400}, at::kBool), at::arange(400)});
  }
  const auto scale_for = [&](std::optional<double> weight, const ModalitySensitivity* sensitivity) {
    Recipe recipe = recipe_of(find_preset("int4_awq_lite"), KvCacheFormat::none);
    recipe.modality_weight = weight;
    const Plan plan = make_plan(model, recipe, "modelopt", "out");
    const SmoothedLayer smoothed = LayerSolver(model, 0, &statistics, sensitivity).smooth(plan);
    return std::pair{smoothed.scale_of({InputGroup::attn_in}), smoothed.reports.front().image_weight};
  };
  const at::Tensor text_first = scale_for(1e-4, nullptr).first, images_first = scale_for(1e4, nullptr).first;
  EXPECT_LT(text_error(model, statistics, text_first), text_error(model, statistics, images_first));
  // Twice as sensitive: twice as much weight.
  const ModalitySensitivity alike{1, 1}, images_matter{1, 2};
  EXPECT_NEAR(scale_for(std::nullopt, &images_matter).second / scale_for(std::nullopt, &alike).second, 2,
              1e-9);
  // Images have four times the power here, so that the same relative error is worth a fourth a token.
  EXPECT_LT(scale_for(std::nullopt, &alike).second, 0.6);
  EXPECT_EQ(scale_for(1.0, nullptr).second, 1);
}

TEST(LayerSolver, SaysWhyTheReadersOfImagesAreNotSmoothed) {
  const TinyCheckpoint files(at::kFloat, "mllama");
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  LayerRun(model, model.load_layer(0), &statistics);
  const auto reports = LayerSolver(model, 0, &statistics).smooth(plan_for(model, "int4_awq")).reports;
  ASSERT_EQ(reports.size(), 5u);
  EXPECT_EQ(reports[1].group.group, InputGroup::cross_in);
  EXPECT_EQ(reports[1].note, "not smoothed: reads the images, which no norm precedes");
  EXPECT_EQ(reports[0].note, "");
}

TEST(LayerSolver, FusedLinearsShareTheirScalarScales) {
  const TinyCheckpoint files(at::kBFloat16);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  LayerRun(model, model.load_layer(1), &statistics);
  for (const char* preset : {"fp8", "nvfp4_max", "nvfp4", "w4a8_awq"}) {
    const Plan plan = plan_for(model, preset);
    const SolvedLayer solved = LayerSolver(model, 1, &statistics).solve(plan);
    std::map<nn::GroupId, const PackedLinear*> first;
    for (const auto& [site, linear] : solved.linears) {
      const PackedLinear*& leader =
          first[{nn::group_of(model.spec().decoder, 1, site->id.role), site->id.expert}];
      if (leader == nullptr) leader = &linear;
      EXPECT_EQ(linear.input_scale, leader->input_scale);
      EXPECT_EQ(linear.second_scale, leader->second_scale);
      if (linear.weight.scale_2.defined()) {
        EXPECT_TRUE(at::equal(linear.weight.scale_2, leader->weight.scale_2));
      }
      if (linear.weight.codec == Codec::fp8_e4m3) {
        EXPECT_TRUE(at::equal(linear.weight.scale, leader->weight.scale));
      }
    }
  }
}

TEST(LayerSolver, ValueCacheScaleIsThatOfTheFoldedValues) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  nn::DecoderLayer layer = model.load_layer(0);
  LayerRun(model, layer, &statistics);
  const Plan plan = plan_for(model, "int4_awq");
  LayerSolver solver(model, 0, &statistics);
  const SmoothedLayer smoothed = solver.smooth(plan);
  smooth(layer, model, solver, smoothed);
  LayerStatistics folded(Detail::rows);
  LayerRun(model, layer, &folded);
  const KvStatistics& values = folded.kv_cache.values;
  const float expected = at::maximum(-values.min, values.max).max().item<float>() / 448;
  EXPECT_NEAR(solver.solve(plan).kv_scales->value.scale.item<float>() / expected, 1.0, 1e-5);
}

TEST(LayerSolver, ACacheThatIsCastNeedsNoStatistics) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const Preset& preset = find_preset("int8_wo");
  const Plan plan = make_plan(model, recipe_of(preset, KvCacheFormat::fp8_cast), "auto", "out");
  const SolvedLayer solved = LayerSolver(model, 0, nullptr).solve(plan);
  EXPECT_EQ(solved.kv_scales->key.scale.item<float>(), 1.0f);
  EXPECT_EQ(solved.kv_scales->value.scale.item<float>(), 1.0f);
}

TEST(LayerSolver, MeansOfFoldedValuesAreThoseOfTheCache) {
  const TinyCheckpoint files(at::kFloat);
  const Checkpoint checkpoint(files.directory());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  LayerStatistics statistics(Detail::gram);
  nn::DecoderLayer layer = model.load_layer(0);
  LayerRun(model, layer, &statistics);
  const Preset& preset = find_preset("int4_awq");
  const Plan plan = make_plan(model, recipe_of(preset, KvCacheFormat::fp8_affine), "auto", "out");
  EXPECT_STREQ(plan.layout->name(), "modelopt");
  LayerSolver solver(model, 0, &statistics);
  const SmoothedLayer smoothed = solver.smooth(plan);
  smooth(layer, model, solver, smoothed);
  LayerStatistics folded(Detail::rows);
  LayerRun(model, layer, &folded);
  const KvStatistics& values = folded.kv_cache.values;
  const at::Tensor means = (values.sum / values.tokens).to(at::kFloat);
  EXPECT_TRUE(at::allclose(solver.solve(plan).kv_scales->value.bias, means, 1e-4, 1e-6));
}

}  // namespace
}  // namespace visq

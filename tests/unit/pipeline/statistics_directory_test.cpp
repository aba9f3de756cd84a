#include "visq/pipeline/statistics_directory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "tests/unit/error_of.h"
#include "tests/unit/pipeline/tiny_checkpoint.h"
#include "visq/pipeline/fingerprint.h"
#include "visq/pipeline/solve.h"
#include "visq/quant/presets.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

std::vector<LayerShape> shapes_of(const nn::DecoderSpec& spec) {
  std::vector<LayerShape> shapes;
  for (int64_t layer = 0; layer < spec.layers; ++layer) shapes.push_back(layer_shape(spec, layer));
  return shapes;
}

// Rows of which every third is an image token and every fourth is held out.
void add_rows(Statistics& statistics, const at::Tensor& x) {
  const at::Tensor image = at::arange(x.size(0)) % 3 == 0;
  statistics.add(x, {image, at::arange(x.size(0)) % 4 == 0, at::randint(1000, {x.size(0)}, at::kLong)});
}

/// Of tokens that nobody computed; expert i is sent `sent[i]` of them.
LayerStatistics random_statistics(const LayerShape& shape, Detail detail, const std::vector<int64_t>& sent) {
  constexpr int64_t kTokens = 50;
  LayerStatistics statistics(detail);
  for (size_t group = 0; group < shape.inputs.size(); ++group)
    if (shape.inputs[group] > 0)
      add_rows(statistics.inputs[group], at::randn({kTokens, shape.inputs[group]}));
  if (shape.routed_inputs)
    add_rows(statistics.experts_in,
             at::randn({kTokens, shape.inputs[static_cast<size_t>(nn::InputGroup::mlp_in)]}));
  for (size_t i = 0; i < static_cast<size_t>(shape.experts); ++i) {
    ExpertStatistics& expert = statistics.experts.emplace_back(detail);
    add_rows(expert.down, at::randn({sent.at(i), shape.expert_width}));
    expert.text_tokens = expert.down.text().tokens;
    expert.image_tokens = expert.down.image().tokens;
    if (expert.down.fitted_tokens() >= kMinExpertTokens) continue;
    expert.borrowed = true;
    expert.few = std::exchange(expert.down, Statistics(detail));
    add_rows(expert.down, at::randn({kTokens, shape.expert_width}));
  }
  statistics.kv_cache.add(at::randn({kTokens, shape.kv_heads, shape.head_dim}),
                          at::randn({kTokens, shape.kv_heads, shape.head_dim}));
  return statistics;
}

void expect_equal(const at::Tensor& a, const at::Tensor& b) {
  ASSERT_EQ(a.defined(), b.defined());
  if (a.defined()) {
    EXPECT_TRUE(at::equal(a, b));
  }
}
void expect_equal(const TokenStatistics& a, const TokenStatistics& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  expect_equal(a.abs_max, b.abs_max);
  expect_equal(a.abs_sum, b.abs_sum);
  expect_equal(a.gram, b.gram);
  EXPECT_EQ(a.held_out_tokens, b.held_out_tokens);
  expect_equal(a.sample.rows, b.sample.rows);
  expect_equal(a.sample.tickets, b.sample.tickets);
  expect_equal(a.held_out.rows, b.held_out.rows);
}
void expect_equal(const Statistics& a, const Statistics& b) {
  expect_equal(a.text(), b.text());
  expect_equal(a.image(), b.image());
}
void expect_equal(const KvStatistics& a, const KvStatistics& b) {
  EXPECT_EQ(a.tokens, b.tokens);
  expect_equal(a.min, b.min);
  expect_equal(a.max, b.max);
  expect_equal(a.sum, b.sum);
}
void expect_equal(const LayerStatistics& a, const LayerStatistics& b) {
  for (size_t group = 0; group < a.inputs.size(); ++group) expect_equal(a.inputs[group], b.inputs[group]);
  expect_equal(a.experts_in, b.experts_in);
  ASSERT_EQ(a.experts.size(), b.experts.size());
  for (size_t i = 0; i < a.experts.size(); ++i) {
    expect_equal(a.experts[i].down, b.experts[i].down);
    expect_equal(a.experts[i].few, b.experts[i].few);
    EXPECT_EQ(a.experts[i].text_tokens, b.experts[i].text_tokens);
    EXPECT_EQ(a.experts[i].image_tokens, b.experts[i].image_tokens);
    EXPECT_EQ(a.experts[i].borrowed, b.experts[i].borrowed);
  }
  expect_equal(a.kv_cache.keys, b.kv_cache.keys);
  expect_equal(a.kv_cache.rotated_keys, b.kv_cache.rotated_keys);
  expect_equal(a.kv_cache.values, b.kv_cache.values);
}

// A model, and a folder for statistics of it.
class OnDisk {
 protected:
  explicit OnDisk(const std::string& text_model)
      : files_(at::kBFloat16, text_model),
        checkpoint_(files_.directory()),
        model_(checkpoint_, at::kCPU, at::kFloat) {
    at::manual_seed(3);
    manifest_.family = model_.spec().family;
    manifest_.model = "tiny";
    manifest_.fingerprint = fingerprint(checkpoint_);
    manifest_.image_profile = "tv";
    manifest_.compute_dtype = "F32";
    manifest_.samples = 7;
    manifest_.text_tokens = 33;
    manifest_.image_tokens = 17;
    manifest_.layers = shapes_of(model_.spec().decoder);
  }

  std::vector<LayerStatistics> write(const fs::path& path, const std::vector<int64_t>& sent = {0, 20, 63, 96},
                                     bool with_gram = true) {
    StatisticsWriter writer(path, /*replace_existing=*/false);
    std::vector<LayerStatistics> layers;
    manifest_.gram = with_gram;
    for (size_t layer = 0; layer < manifest_.layers.size(); ++layer) {
      layers.push_back(
          random_statistics(manifest_.layers[layer], with_gram ? Detail::gram : Detail::rows, sent));
      writer.write_layer(static_cast<int64_t>(layer), layers.back(), manifest_.layers[layer]);
    }
    writer.finish(manifest_);
    return layers;
  }

  fs::path operator/(const std::string& name) const { return folder_.path() / name; }

  TinyCheckpoint files_;
  Checkpoint checkpoint_;
  Model model_;
  StatisticsManifest manifest_;
  test::TemporaryDirectory folder_;
};
class EveryKind : public testing::TestWithParam<const char*>, protected OnDisk {
 protected:
  EveryKind() : OnDisk(GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(, EveryKind, testing::Values("llama", "qwen3_moe", "mllama"),
                         [](const auto& test) { return std::string(test.param); });

TEST_P(EveryKind, ComesBackFromTheDiskAsItWas) {
  const auto written = write(*this / "stats");
  const StatisticsDirectory directory(*this / "stats");
  directory.check_model(model_);
  EXPECT_EQ(directory.manifest().samples, 7);
  EXPECT_EQ(directory.manifest().text_tokens, 33);
  EXPECT_EQ(directory.manifest().image_tokens, 17);
  ASSERT_EQ(directory.manifest().layers, manifest_.layers);
  for (size_t layer = 0; layer < written.size(); ++layer)
    expect_equal(directory.read_layer(static_cast<int64_t>(layer), at::kCPU), written[layer]);
}

TEST_P(EveryKind, SolvesToTheSameBytes) {
  const auto written = write(*this / "stats");
  const StatisticsDirectory directory(*this / "stats");
  for (const char* const preset : {"int4_gptq", "fp8", "int8_sq"}) {
    const Plan plan = make_plan(model_, recipe_of(find_preset(preset), KvCacheFormat::fp8), "auto", "out");
    for (size_t layer = 0; layer < written.size(); ++layer) {
      const auto index = static_cast<int64_t>(layer);
      const LayerStatistics read = directory.read_layer(index, at::kCPU, plan.detail());
      const SolvedLayer a = LayerSolver(model_, index, &written[layer]).solve(plan);
      const SolvedLayer b = LayerSolver(model_, index, &read).solve(plan);
      ASSERT_EQ(a.linears.size(), b.linears.size());
      const auto bytes = [](const at::Tensor& value) { return value.contiguous().flatten().view(at::kByte); };
      for (size_t i = 0; i < a.linears.size(); ++i)
        for (const LayoutTensor& tensor : plan.layout->tensors(a.linears[i].first->linear))
          EXPECT_TRUE(
              at::equal(bytes(tensor.value(a.linears[i].second)), bytes(tensor.value(b.linears[i].second))))
              << tensor.planned.name;
      expect_equal(a.kv_scales->key.scale, b.kv_scales->key.scale);
      expect_equal(a.kv_scales->value.scale, b.kv_scales->value.scale);
    }
  }
}

TEST_P(EveryKind, SumsAreThoseOfItsParts) {
  std::vector<LayerStatistics> a = write(*this / "a", {0, 20, 63, 96});
  const std::vector<LayerStatistics> b = write(*this / "b", {1, 43, 64, 1});
  const StatisticsResult result = merge_statistics({*this / "a", *this / "b"}, *this / "sum", false);
  EXPECT_EQ(result.manifest.samples, 14);
  const StatisticsDirectory sum(*this / "sum");
  sum.check_model(model_);
  EXPECT_EQ(sum.manifest().text_tokens, 66);
  EXPECT_EQ(sum.manifest().image_tokens, 34);
  for (size_t layer = 0; layer < a.size(); ++layer) {
    a[layer].merge(b[layer]);
    expect_equal(sum.read_layer(static_cast<int64_t>(layer), at::kCPU), a[layer]);
  }
}

TEST_P(EveryKind, ItsSizeIsKnownBeforehand) {
  for (const bool with_gram : {true, false}) {
    const std::string name = with_gram ? "whole" : "small";
    write(*this / name, {1, 1, 96, 96}, with_gram);
    for (size_t layer = 0; layer < manifest_.layers.size(); ++layer) {
      const uint64_t least = least_bytes(manifest_.layers[layer], with_gram, /*with_images=*/true);
      const uint64_t size = fs::file_size(*this / name / visq::format("layer-{:05}.safetensors", layer));
      EXPECT_LE(least, size);
      if (with_gram) {
        EXPECT_GT(static_cast<double>(least), 0.3 * static_cast<double>(size));
      }
    }
  }
}

TEST_P(EveryKind, WithoutGramMatricesServesWhatNeedsNone) {
  write(*this / "stats", {0, 20, 63, 96}, /*with_gram=*/false);
  const StatisticsDirectory directory(*this / "stats");
  const LayerStatistics layer = directory.read_layer(1, at::kCPU);
  EXPECT_FALSE(directory.manifest().gram);
  EXPECT_FALSE(layer.of({nn::InputGroup::attn_in}).gram().defined());
  EXPECT_EQ(layer.of({nn::InputGroup::attn_in}).tokens(), 50);
}

TEST(ExpertStatistics, IsWhatBothTogetherWouldHaveSeen) {
  const at::Tensor first = at::randn({40, 8}), second = at::randn({24, 8});
  const auto few = [](const at::Tensor& rows) {
    ExpertStatistics expert(Detail::gram);
    expert.borrowed = true;
    expert.text_tokens = rows.size(0);
    expert.few = Statistics(Detail::gram);
    expert.few.add(rows, TokenRows::alike(rows.size(0), /*image=*/false, at::kCPU));
    expert.down.add(at::ones({100, 8}), TokenRows::alike(100, /*image=*/false, at::kCPU));
    return expert;
  };
  ExpertStatistics enough = few(first);
  enough.merge(few(second));
  EXPECT_FALSE(enough.borrowed);
  EXPECT_EQ(enough.few.tokens(), 0);
  EXPECT_EQ(enough.down.tokens(), 64);
  const at::Tensor rows = at::cat({first, second});
  EXPECT_TRUE(at::allclose(enough.down.gram(), rows.t().matmul(rows), 1e-4, 1e-4));
  EXPECT_TRUE(at::equal(enough.down.abs_max(), rows.abs().amax(0)));

  ExpertStatistics too_few = few(second);
  too_few.merge(few(second));
  EXPECT_TRUE(too_few.borrowed);
  EXPECT_EQ(too_few.few.tokens(), 48);
  EXPECT_EQ(too_few.down.tokens(), 200);  // all that was borrowed
  too_few.merge(few(second));
  EXPECT_FALSE(too_few.borrowed);
  EXPECT_EQ(too_few.down.tokens(), 72);
}

class Damaged : public testing::Test, protected OnDisk {
 protected:
  Damaged() : OnDisk("qwen3_moe") { write(*this / "stats"); }

  /// Writes a tensor of a layer anew; undefined: leaves it out.
  void replace(const std::string& file, const std::string& name, const at::Tensor& value) {
    const fs::path path = *this / "stats" / file;
    test::Tensors tensors;
    {
      const SafetensorsFile stored(path);
      for (const TensorInfo& info : stored.tensors())
        if (info.name != name) tensors.emplace_back(info.name, stored.tensor(info).clone());
    }
    if (value.defined()) tensors.emplace_back(name, value);
    write_safetensors(path, tensors);
  }
  std::string error() {
    return error_of([&] {
      const StatisticsDirectory directory(*this / "stats");
      directory.check_model(model_);
      for (const int64_t layer : {0, 1}) directory.read_layer(layer, at::kCPU);
    });
  }
  std::string in(const std::string& file) const { return (*this / "stats" / file).string() + ": "; }
};

TEST_F(Damaged, TensorsAreNamed) {
  const std::string first = "layer-00000.safetensors", second = "layer-00001.safetensors";
  ASSERT_EQ(error(), "");
  const at::Tensor magnitudes = at::ones({256});
  replace(first, "attn_in.text.abs_max", magnitudes.slice(0, 0, 8));
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.text.abs_max' is F32 [8] and not F32 [256]");
  replace(first, "attn_in.text.abs_max", magnitudes.to(at::kHalf));
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.text.abs_max' is F16 [256] and not F32 [256]");
  replace(first, "attn_in.text.abs_max", {});
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.text.abs_max' is missing");
  const at::Tensor broken = magnitudes.clone();
  broken[3].fill_(NAN);
  replace(first, "attn_in.text.abs_max", broken);
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.text.abs_max' holds a NaN or an infinity");
  replace(first, "attn_in.text.abs_max", -magnitudes);
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.text.abs_max' holds a negative magnitude: -1");
  replace(first, "attn_in.text.abs_max", magnitudes);
  replace(first, "attn_in.video.abs_max", magnitudes);
  EXPECT_EQ(error(), in(first) + "tensor 'attn_in.video.abs_max' does not belong to these statistics");
  replace(first, "attn_in.video.abs_max", {});
  ASSERT_EQ(error(), "");
  replace(second, "keys.tokens", at::full({}, -1, at::kLong));
  EXPECT_EQ(error(), in(second) + "tensor 'keys.tokens' is -1");
  replace(second, "keys.tokens", at::full({}, 0, at::kLong));
  EXPECT_EQ(error(), in(second) + "tensor 'keys.sum' does not belong to these statistics");
}

TEST_F(Damaged, NumbersOfTokensAgree) {
  const std::string second = "layer-00001.safetensors";
  replace(second, "experts.3.own.text.tokens", at::full({}, 0, at::kLong));
  EXPECT_EQ(error(), in(second) + "tensor 'experts.3.lent.text.tokens' is missing");
  replace(second, "experts.3.own.text.tokens", at::full({}, 64, at::kLong));
  for (const char* const member : {"min", "max", "sum"}) replace(second, std::string("keys.") + member, {});
  replace(second, "keys.tokens", at::full({}, 0, at::kLong));
  EXPECT_EQ(error(), in(second) + "'keys' saw 0 tokens and 'attn_in' 50");
}

TEST_F(Damaged, OtherModelsAreRefused) {
  const TinyCheckpoint other_files(at::kFloat, "qwen3_moe");
  const Checkpoint other(other_files.directory());
  const Model model(other, at::kCPU, at::kFloat);
  const std::string message = error_of([&] { StatisticsDirectory(*this / "stats").check_model(model); });
  EXPECT_NE(message.find("stats: statistics of another model: of 'tiny' (llava, "), std::string::npos)
      << message;
  EXPECT_NE(message.find("not of 'visq-families-"), std::string::npos) << message;
}

TEST_F(Damaged, AWriterThatDoesNotFinishLeavesNothing) {
  { StatisticsWriter writer(*this / "other", false); }
  EXPECT_FALSE(fs::exists(*this / "other"));
  EXPECT_FALSE(fs::exists(*this / "other.partial"));
  EXPECT_NE(error_of([&] { StatisticsWriter(*this / "stats", false); }), "");
  EXPECT_NE(error_of([&] { StatisticsWriter(files_.directory(), true); }), "")
      << "a checkpoint is no statistics";
  { StatisticsWriter writer(*this / "stats", true); }
  EXPECT_EQ(error(), "") << "the old ones stay until the new ones are finished";
}

TEST_F(Damaged, ASumIsOfLikeThings) {
  manifest_.image_profile = "pil";
  write(*this / "pil");
  EXPECT_NE(error_of([&] {
              merge_statistics({*this / "stats", *this / "pil"}, *this / "sum", false);
            }).find("their image profiles differ: tv and pil"),
            std::string::npos);
  manifest_.image_profile = "tv";
  write(*this / "small", {0, 20, 63, 96}, /*with_gram=*/false);
  EXPECT_NE(error_of([&] {
              merge_statistics({*this / "small", *this / "stats"}, *this / "sum", false);
            }).find("small: has no Gram matrices"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              merge_statistics({*this / "stats", *this / "stats"}, *this / "sum", false);
            }).find("is named twice"),
            std::string::npos);
  EXPECT_NE(error_of([&] { merge_statistics({*this / "stats"}, *this / "sum", false); }), "");
  EXPECT_FALSE(fs::exists(*this / "sum"));
  EXPECT_FALSE(fs::exists(*this / "sum.partial"));
}

TEST(Fingerprint, IsOfTheWeightsAndTheConfiguration) {
  const TinyCheckpoint files(at::kBFloat16), same(at::kBFloat16);
  const auto of = [](const fs::path& directory) { return fingerprint(Checkpoint(directory)); };
  const std::string before = of(files.directory());
  EXPECT_EQ(before.size(), 40u);
  EXPECT_EQ(of(same.directory()), before);

  // In two files.
  test::Tensors first, second;
  std::string last;
  Json index = {{"metadata", Json::object()}, {"weight_map", Json::object()}};
  {
    const SafetensorsFile whole(same.directory() / "model.safetensors");
    for (const TensorInfo& info : whole.tensors()) {
      const bool even = (first.size() + second.size()) % 2 == 0;
      (even ? first : second).emplace_back(info.name, whole.tensor(info).clone());
      index["weight_map"][info.name] = even ? "a.safetensors" : "b.safetensors";
    }
  }
  fs::remove(same.directory() / "model.safetensors");
  write_safetensors(same.directory() / "a.safetensors", first);
  write_safetensors(same.directory() / "b.safetensors", second);
  std::ofstream(same.directory() / "model.safetensors.index.json") << index.dump();
  EXPECT_EQ(of(same.directory()), before);

  first.front().second.mul_(2);
  write_safetensors(same.directory() / "a.safetensors", first);
  const std::string after = of(same.directory());
  EXPECT_NE(after, before);
  Json config = Checkpoint(same.directory()).config();
  config["text_config"]["rms_norm_eps"] = 0.5;
  std::ofstream(same.directory() / "config.json") << config.dump(1);
  EXPECT_NE(of(same.directory()), after);
}

}  // namespace
}  // namespace visq

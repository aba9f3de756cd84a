#include "visq/families/model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"

namespace visq {
namespace {

using test::TemporaryDirectory;
using test::Tensors;

std::string hub_spelling(const std::string& canonical) {  // A of spec/models-llava-vila-qwen.md §2, LLaVA
  std::string name = test::replace_prefix(canonical, "model.language_model.", "language_model.model.");
  name = test::replace_prefix(name, "lm_head.", "language_model.lm_head.");
  name = test::replace_prefix(name, "model.vision_tower.", "vision_tower.vision_model.");
  return test::replace_prefix(name, "model.multi_modal_projector.", "multi_modal_projector.");
}

std::string construction_error(const Json& config, const Tensors& tensors) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), config, tensors);
  const Checkpoint checkpoint(directory.path());
  try {
    const Model model(checkpoint, at::kCPU, at::kFloat);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

at::Tensor* find(Tensors& tensors, const std::string& name) {
  for (auto& [key, tensor] : tensors)
    if (key == name) return &tensor;
  return nullptr;
}

TEST(Model, NamesTheTensorWhoseShapeContradictsTheConfig) {
  Tensors tensors = test::random_tensors(test::llava_config(), hub_spelling);
  *find(tensors, "language_model.model.layers.1.self_attn.k_proj.weight") = at::zeros({8, 12});
  const std::string error = construction_error(test::llava_config(), tensors);
  EXPECT_NE(error.find(
                "model.safetensors: tensor 'language_model.model.layers.1.self_attn.k_proj.weight' has shape "
                "[8, 12], but config.json says [8, 16]"),
            std::string::npos)
      << error;
}

TEST(Model, NamesATensorThatIsMissing) {
  for (const std::string name : {"model.vision_tower.encoder.layers.2.mlp.fc1.bias", "lm_head.weight",
                                 "model.language_model.layers.0.mlp.down_proj.weight"}) {
    Tensors tensors = test::random_tensors(test::llava_config());
    std::erase_if(tensors, [&](const auto& tensor) { return tensor.first == name; });
    EXPECT_NE(construction_error(test::llava_config(), tensors).find("'" + name + "' is missing"),
              std::string::npos);
  }
}

TEST(Model, RefusesABiasThatTheConfigDoesNotAnnounce) {
  Tensors tensors = test::random_tensors(test::llava_config());
  tensors.emplace_back("model.language_model.layers.0.self_attn.q_proj.bias", at::zeros({16}));
  EXPECT_NE(construction_error(test::llava_config(), tensors).find("has no bias"), std::string::npos);
}

TEST(Model, RefusesPackedWeightsUnlessALoaderReadsThem) {
  Tensors tensors = test::random_tensors(test::llava_config());
  const std::string name = "model.language_model.layers.0.self_attn.q_proj.weight";
  *find(tensors, name) = at::zeros({16, 8}, at::kByte);
  EXPECT_NE(construction_error(test::llava_config(), tensors).find(name), std::string::npos);

  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::llava_config(), tensors);
  const Checkpoint checkpoint(directory.path());
  std::vector<std::string> asked;
  const Model model(checkpoint, at::kCPU, at::kFloat, [&](const std::string& module) {
    asked.push_back(module);
    return nn::Linear{at::ones({1, 1}), {}, {}};
  });
  EXPECT_EQ(model.load_layer(0).q.weight.numel(), 1);
  EXPECT_EQ(asked.front(), "model.language_model.layers.0.self_attn.q_proj");
  EXPECT_EQ(asked.size(), 7u);
  EXPECT_THROW(model.load_linear(asked.front()), Error);
}

EncodedSample llava_sample(std::vector<int64_t> ids, int64_t images) {
  EncodedSample sample;
  sample.ids = std::move(ids);
  for (int64_t i = 0; i < images; ++i)
    sample.images.push_back(
        {at::randn({3, 6, 6}, at::detail::createCPUGenerator(static_cast<uint64_t>(i))), 0, 0});
  return sample;
}

TEST(Model, MergesImageFeaturesAtTheImageTokens) {
  const TemporaryDirectory directory;
  const Tensors tensors = test::random_tensors(test::llava_config(), hub_spelling, at::kBFloat16);
  test::write_checkpoint(directory.path(), test::llava_config(), tensors);
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const std::vector<EncodedSample> samples = {llava_sample({1, 30, 30, 30, 30, 2}, 1),
                                              llava_sample({3, 4}, 0),
                                              llava_sample({30, 30, 30, 30, 5, 30, 30, 30, 30}, 2)};
  const Batch batch = model.embed(samples);
  EXPECT_EQ(batch.offsets, (std::vector<int64_t>{0, 6, 8, 17}));
  EXPECT_EQ(batch.next_position, (std::vector<int64_t>{6, 2, 9}));
  EXPECT_EQ(batch.positions.sizes(), at::IntArrayRef({1, 17}));
  EXPECT_EQ(batch.positions[0][8].item<int64_t>(), 0);
  EXPECT_EQ(batch.image_mask.sum().item<int64_t>(), 12);
  const at::Tensor table = checkpoint.tensor("language_model.model.embed_tokens.weight").to(at::kFloat);
  EXPECT_TRUE(at::equal(batch.hidden[0], table[1]));
  EXPECT_TRUE(at::equal(batch.hidden[7], table[4]));
  EXPECT_TRUE(
      at::allclose(batch.hidden.narrow(0, 1, 4), model.image_features(samples[0].images).rows, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(batch.hidden.narrow(0, 13, 4), model.image_features({samples[2].images[1]}).rows,
                           1e-5, 1e-5));
}

TEST(Model, RefusesImageTokensWithoutFeatures) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::llava_config(), test::random_tensors(test::llava_config()));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const std::vector<EncodedSample> few = {llava_sample({30, 30, 30, 1}, 1)},
                                   none = {llava_sample({30, 1}, 0)};
  EXPECT_THROW(model.embed(few), Error);
  EXPECT_THROW(model.embed(none), Error);
  EXPECT_THROW(model.embed_next({32}, {0}, {false}), Error);  // the embedding has 32 rows
}

/// @param columns  of tiles, for each image
EncodedSample mllama_sample(std::vector<int64_t> ids, const std::vector<int64_t>& columns) {
  EncodedSample sample;
  sample.ids = std::move(ids);
  for (const int64_t count : columns) {
    sample.images.push_back({at::randn({count, 3, 6, 6}, at::detail::createCPUGenerator(1)), 0, 0});
    sample.images.back().rows = 1, sample.images.back().columns = count;
  }
  return sample;
}

TEST(Model, GivesEachTokenOfMllamaTheImagesThatItSees) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::mllama_config(),
                         test::random_tensors(test::mllama_config()));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  // An image has 4 tiles of 5 rows, of which only those are seen that it was cut into.
  const std::vector<EncodedSample> samples = {mllama_sample({32, 1}, {1}), mllama_sample({2, 3}, {}),
                                              mllama_sample({1, 32, 32, 5, 6, 32, 7}, {1, 2, 1})};
  EXPECT_EQ(model.rows_of(samples[2]), 7 + 3 * 20);
  const Batch batch = model.embed(samples);
  EXPECT_EQ(batch.vision.rows.sizes(), at::IntArrayRef({80, 16}));
  EXPECT_FALSE(batch.image_mask.any().item<bool>());
  const at::Tensor table = checkpoint.tensor("model.language_model.embed_tokens.weight");
  EXPECT_TRUE(at::equal(batch.hidden[5], table[32]));  // a row that the head lacks
  EXPECT_EQ(model.logits(batch.hidden).size(1), 32);
  std::vector<std::pair<int64_t, std::vector<std::pair<int64_t, int64_t>>>> runs;
  for (const nn::CrossRun& run : batch.vision.sequences.back().runs) {
    runs.push_back({run.tokens, {}});
    for (const nn::RowSpan& span : run.seen) runs.back().second.emplace_back(span.begin, span.count);
  }
  const decltype(runs) expected = {{1, {}}, {1, {{20, 5}}}, {3, {{20, 5}, {40, 10}}}, {2, {{60, 5}}}};
  EXPECT_EQ(runs, expected);
  ASSERT_EQ(batch.vision.sequences.size(), 2u);
  EXPECT_EQ(batch.vision.sequences[1].number, 2);
  EXPECT_EQ(batch.vision.sequences[1].rows.begin, 20);
  EXPECT_EQ(batch.vision.sequences[1].rows.count, 60);
  EXPECT_THROW(model.embed(std::vector{mllama_sample({1, 2}, {1})}), Error);
  EXPECT_THROW(model.embed(std::vector{mllama_sample({1, 32}, {})}), Error);
  EXPECT_THROW(model.embed(std::vector{mllama_sample({1, 32}, {3, 1})}), Error);
}

TEST(Model, TakesTheHeadFromTheEmbeddingWhenItIsTied) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::qwen_config(), test::random_tensors(test::qwen_config()));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  const at::Tensor hidden = at::randn({2, 16}, at::detail::createCPUGenerator(7));
  const at::Tensor norm = checkpoint.tensor("model.language_model.norm.weight");
  const at::Tensor expected = (hidden / (hidden.square().mean(-1, true) + 1e-5).sqrt() * norm)
                                  .matmul(checkpoint.tensor("model.language_model.embed_tokens.weight").t());
  EXPECT_TRUE(at::allclose(model.logits(hidden), expected, 1e-5, 1e-5));
}

TEST(Model, GivesQwenThreePositionsAToken) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::qwen_config(), test::random_tensors(test::qwen_config()));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  EncodedSample sample;
  sample.ids = {1, 1, 1, 30, 30, 30, 30, 30, 30, 1, 1};
  sample.images.push_back({at::randn({24, 24}, at::detail::createCPUGenerator(7)), 4, 6});
  const std::vector<EncodedSample> samples = {sample};
  const Batch batch = model.embed(samples);
  EXPECT_EQ(batch.next_position, std::vector<int64_t>{8});
  const std::vector<int64_t> widths = {0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7};
  EXPECT_TRUE(at::equal(batch.positions[2], at::tensor(widths, at::kLong)));
}

TEST(Model, PlacesTheStepsOfAVideoByTheClock) {
  const TemporaryDirectory directory;
  Json config = test::qwen_config();
  config["video_token_id"] = 31;
  config["vision_config"]["tokens_per_second"] = 3;
  test::write_checkpoint(directory.path(), config, test::random_tensors(config));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kFloat);
  // Three steps of two cells; two frames a step, four a second: 3 · 0.5 positions a step.
  EncodedSample sample;
  sample.ids = {1, 31, 31, 31, 31, 31, 31, 1};
  ProcessedImage video{at::randn({24, 24}, at::detail::createCPUGenerator(7)), 2, 4};
  video.grid_t = 3, video.frames = 5, video.fps = 4;
  sample.images.push_back(video);
  const Batch batch = model.embed(std::span(&sample, 1));
  EXPECT_TRUE(at::equal(batch.positions[0], at::tensor({0, 1, 1, 2, 2, 4, 4, 3}, at::kLong)));
  EXPECT_EQ(batch.next_position, std::vector<int64_t>{5});
  EXPECT_EQ(batch.image_mask.sum().item<int64_t>(), 6);
  // A step sees itself alone: it has the same features as an image of the same patches.
  sample.images = {{video.pixels.narrow(0, 8, 8), 2, 4}};
  EXPECT_TRUE(at::allclose(model.image_features({video}).rows.narrow(0, 2, 2),
                           model.image_features(sample.images).rows, 1e-5, 1e-5));
}

/// A folder with config, weights and tokenizer.
class Encoding : public testing::Test {
 protected:
  void write(const Json& config, const std::vector<std::pair<std::string, int64_t>>& special) {
    test::write_checkpoint(directory_.path(), config, test::random_tensors(config));
    test::write_tokenizer(directory_.path(), special);
    checkpoint_.emplace(directory_.path());
    model_.emplace(*checkpoint_, at::kCPU, at::kFloat);
  }
  static Sample sample(const std::string& question) {
    return {{{"user", {{ContentPart::Kind::text, question, {}}}}}, "Yes", "", "data.jsonl:3"};
  }
  static std::vector<int64_t> codes(const std::string& text) { return {text.begin(), text.end()}; }

  TemporaryDirectory directory_;
  std::optional<Checkpoint> checkpoint_;
  std::optional<Model> model_;
};

TEST_F(Encoding, TheAnswerBeginsWhereItsTokensPartFromThePrompts) {
  write(test::llava_config(), {{"<image>", 30}});
  // Alone, the prompt ends with ':'; with the answer behind it, one token takes ':' and the space.
  std::vector<int64_t> user = codes("USER");
  user.push_back(200);
  for (const int64_t code : codes("Hi ASSISTANT")) user.push_back(code);
  std::vector<int64_t> prompt = user, whole = user;
  prompt.push_back(':');
  for (const int64_t id : {200, static_cast<int>('Y'), static_cast<int>('e'), static_cast<int>('s'), 2})
    whole.push_back(id);
  const EncodedSample without = model_->encode(sample("Hi"), false),
                      with = model_->encode(sample("Hi"), true);
  EXPECT_EQ(without.ids, prompt);
  EXPECT_EQ(without.prompt_tokens, static_cast<int64_t>(prompt.size()));
  EXPECT_EQ(with.ids, whole);
  EXPECT_EQ(with.prompt_tokens, static_cast<int64_t>(user.size()));
}

TEST_F(Encoding, ALiteralPlaceholderIsRefusedByNameOfTheSample) {
  write(test::llava_config(), {{"<image>", 30}});
  try {
    model_->encode(sample("What is <image>?"), false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(
        std::string(error.what()).find("data.jsonl:3: the prompt has 1 image placeholders for 0 images"),
        std::string::npos);
  }
}

TEST_F(Encoding, AFamilyWithoutVideosRefusesThemByNameOfTheSample) {
  write(test::llava_config(), {{"<image>", 30}});
  Sample with_video = sample("Hi");
  ContentPart part{.kind = ContentPart::Kind::video};
  part.video.frames = {"frame.png"};
  with_video.messages[0].content.push_back(part);
  try {
    model_->encode(with_video, false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("data.jsonl:3: a model of the family 'llava' reads no videos"),
              std::string::npos);
  }
}

TEST_F(Encoding, ASampleBeyondTheLimitIsRefusedByName) {
  Json config = test::llava_config();
  config["text_config"]["rope_scaling"] = {{"type", "dynamic"}, {"factor", 2.0}};
  config["text_config"]["max_position_embeddings"] = 40;
  write(config, {{"<image>", 30}});
  EXPECT_NO_THROW(model_->encode(sample("Hi"), false));
  try {
    model_->encode(sample("Is this sentence longer than forty tokens?"), false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("data.jsonl:3: "), std::string::npos);
    EXPECT_NE(std::string(error.what()).find("max_position_embeddings"), std::string::npos);
  }
}

TEST_F(Encoding, LlavaWithQwen2SpeaksChatmlOnlyWhenItsTokenizerDoes) {
  Json config = test::llava_config();
  config["text_config"]["model_type"] = "qwen2";
  config["text_config"]["eos_token_id"] = 2;
  write(config, {{"<image>", 30}});
  EXPECT_EQ(model_->encode(sample("Hi"), false).ids.front(), 'U');
  write(config, {{"<image>", 30}, {"<|im_start|>", 301}, {"<|im_end|>", 302}});
  const EncodedSample encoded = model_->encode(sample("Hi"), true);
  EXPECT_EQ(encoded.ids.front(), 301);
  EXPECT_EQ(encoded.ids.back(), 302);
}

TEST(Model, PrefersTheEndTokensOfTheGenerationConfig) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::llava_config(), test::random_tensors(test::llava_config()));
  const Checkpoint checkpoint(directory.path());
  EXPECT_EQ(Model(checkpoint, at::kCPU, at::kFloat).spec().eos_ids, std::vector<int64_t>{2});
  std::ofstream(directory.path() / "generation_config.json") << R"({"eos_token_id": [7, 8]})";
  EXPECT_EQ(Model(checkpoint, at::kCPU, at::kFloat).spec().eos_ids, (std::vector<int64_t>{7, 8}));
}

TEST(Model, ComputesInTheTypeItIsAskedFor) {
  const TemporaryDirectory directory;
  test::write_checkpoint(directory.path(), test::llava_config(), test::random_tensors(test::llava_config()));
  const Checkpoint checkpoint(directory.path());
  const Model model(checkpoint, at::kCPU, at::kBFloat16);
  EXPECT_EQ(model.load_layer(0).down.weight.scalar_type(), at::kBFloat16);
  const std::vector<EncodedSample> samples = {llava_sample({1, 30, 30, 30, 30, 2}, 1)};
  EXPECT_EQ(model.embed(samples).hidden.scalar_type(), at::kBFloat16);
  EXPECT_EQ(model.logits(model.embed(samples).hidden).scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace visq

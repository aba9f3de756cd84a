#include "visq/eval/score.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "visq/core/error.h"

namespace visq {
namespace {

const std::filesystem::path kDemo = std::filesystem::path(VISQ_SOURCE_DIR) / "demo";

/// Questions of the demo without pictures, which cost little.
std::vector<Sample> facts(size_t count) {
  std::vector<Sample> samples = read_samples(kDemo / "questions.jsonl");
  std::erase_if(samples, [](const Sample& sample) { return sample.category != "fact"; });
  samples.resize(std::min(count, samples.size()));
  return samples;
}

TEST(Evaluation, ACheckpointIsNoDistanceFromItself) {
  const Runner runner(kDemo / "model", at::kCPU);
  Evaluation evaluation(facts(4), 16);
  evaluation.set_reference(runner);
  const Score score = evaluation.score(runner);
  EXPECT_NEAR(score.mean_kl.value(), 0, 1e-9);
  EXPECT_EQ(score.top1_agreement.value(), 1);
  EXPECT_EQ(score.kl.size(), 4u);
  EXPECT_GE(score.perplexity, 1);
}

TEST(Evaluation, AnswersCountWhenTheyAreEqualButForWhiteSpaceAround) {
  const Runner runner(kDemo / "model", at::kCPU);
  std::vector<Sample> samples = facts(4);
  const Score plain = Evaluation(samples, 16).score(runner);
  ASSERT_EQ(plain.accuracy.correct, 4);
  samples[0].answer = "  " + *samples[0].answer + "\n";
  samples[1].answer = "something else";
  samples[1].category = "other";
  const Score changed = Evaluation(samples, 16).score(runner);
  EXPECT_EQ(changed.accuracy.correct, 3);
  EXPECT_EQ(changed.accuracy.total, 4);
  EXPECT_EQ(changed.per_category.at("other").rate(), 0);
  EXPECT_EQ(changed.per_category.at("fact").rate(), 1);
  EXPECT_GT(changed.perplexity, plain.perplexity);
  EXPECT_FALSE(changed.mean_kl.has_value());
}

TEST(Evaluation, ASampleWithoutAnAnswerIsRefused) {
  std::vector<Sample> samples = facts(1);
  samples[0].answer.reset();
  EXPECT_THROW(Evaluation(samples, 16), Error);
}

TEST(ScoreJson, LeavesOutWhatWasNotCompared) {
  Score score;
  score.accuracy = {3, 4};
  EXPECT_EQ(score_json(score).at("accuracy"), 0.75);
  EXPECT_FALSE(score_json(score).contains("mean_kl"));
  score.mean_kl = 0.5;
  EXPECT_EQ(score_json(score).at("mean_kl"), 0.5);
}

}  // namespace
}  // namespace visq

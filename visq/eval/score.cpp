#include "visq/eval/score.h"

#include <chrono>
#include <cmath>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"

namespace visq {
namespace {

constexpr size_t kChunkTokens = 8192;                // prompts that go through the model together
constexpr int64_t kReferenceCacheBytes = 512 << 20;  // beyond, the reference runs again for every checkpoint

std::string trimmed(const std::string& text) {
  const char* kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Samples in order, cut where a chunk would exceed kChunkTokens.
template <typename Body>
void for_each_chunk(const Model& model, const std::vector<Sample>& samples, bool with_answer, Body&& body) {
  std::vector<EncodedSample> chunk;
  size_t tokens = 0, begin = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    check_interrupt();
    EncodedSample encoded = model.encode(samples[i], with_answer);
    if (!chunk.empty() && tokens + encoded.ids.size() > kChunkTokens) {
      body(begin, std::as_const(chunk));
      begin = i;
      chunk.clear();
      tokens = 0;
    }
    tokens += encoded.ids.size();
    chunk.push_back(std::move(encoded));
  }
  if (!chunk.empty()) body(begin, std::as_const(chunk));
}

struct Predictions {
  at::Tensor log_probabilities;  // f32 [answer tokens, vocab]
  at::Tensor targets;            // int64 [answer tokens]
};

// What the model thinks at the positions that predict the answers' tokens.
Predictions predict(const Runner& runner, std::span<const EncodedSample> samples) {
  const Batch batch = runner.model().embed(samples);
  std::vector<int64_t> rows, targets;
  for (size_t i = 0; i < samples.size(); ++i)
    for (size_t t = static_cast<size_t>(samples[i].prompt_tokens); t < samples[i].ids.size(); ++t) {
      rows.push_back(batch.offsets[i] + static_cast<int64_t>(t) - 1);
      targets.push_back(samples[i].ids[t]);
    }
  const at::Tensor hidden =
      runner.forward(batch).index_select(0, at::tensor(rows, at::kLong).to(runner.model().device()));
  return {at::log_softmax(runner.model().logits(hidden), 1),
          at::tensor(targets, at::kLong).to(hidden.device())};
}

}  // namespace

Evaluation::Evaluation(std::vector<Sample> samples, int64_t max_new_tokens)
    : samples_(std::move(samples)), max_new_tokens_(max_new_tokens) {
  if (samples_.empty()) fail("the data holds no samples");
  for (const Sample& sample : samples_)
    if (!sample.answer) fail("{}: has no reference answer (a last turn of the assistant)", sample.origin);
}

void Evaluation::set_reference(const Runner& runner) {
  reference_ = &runner;
  reference_cache_.clear();
}

void Evaluation::answer(const Runner& runner, Score& score) const {
  Progress progress("answering", static_cast<int64_t>(samples_.size()));
  for_each_chunk(runner.model(), samples_, false, [&](size_t begin, const std::vector<EncodedSample>& chunk) {
    const std::vector<std::string> answers = runner.generate(chunk, max_new_tokens_);
    for (size_t i = 0; i < answers.size(); ++i) {
      const Sample& sample = samples_[begin + i];
      const bool correct = trimmed(answers[i]) == trimmed(*sample.answer);
      for (Accuracy* accuracy : {&score.accuracy, &score.per_category[sample.category]}) {
        accuracy->correct += correct;
        ++accuracy->total;
      }
      score.answers.push_back(trimmed(answers[i]));
    }
    progress.advance(static_cast<int64_t>(begin + chunk.size()));
  });
}

void Evaluation::compare(const Runner& runner, Score& score) const {
  double negative_log_likelihood = 0, divergence = 0;
  int64_t agreed = 0;
  size_t chunk_index = 0;
  for_each_chunk(runner.model(), samples_, true, [&](size_t, const std::vector<EncodedSample>& chunk) {
    const Predictions here = predict(runner, chunk);
    score.answer_tokens += here.targets.size(0);
    const at::Tensor likelihood = here.log_probabilities.gather(1, here.targets.unsqueeze(1));
    negative_log_likelihood -= likelihood.sum(at::kDouble).item<double>();
    if (reference_ == nullptr) return;
    at::Tensor theirs;
    if (chunk_index < reference_cache_.size()) {
      theirs = reference_cache_[chunk_index];
    } else {
      const Predictions predictions = predict(*reference_, chunk);
      theirs = predictions.log_probabilities;
      int64_t cached = theirs.nbytes();
      for (const at::Tensor& tensor : reference_cache_) cached += tensor.nbytes();
      if (chunk_index == reference_cache_.size() && cached <= kReferenceCacheBytes)
        reference_cache_.push_back(theirs);
    }
    if (theirs.sizes() != here.log_probabilities.sizes())
      fail("the two checkpoints have unlike vocabularies ({} and {} tokens), so they cannot be compared",
           here.log_probabilities.size(1), theirs.size(1));
    ++chunk_index;
    divergence += (theirs.exp() * (theirs - here.log_probabilities)).sum(1).sum(at::kDouble).item<double>();
    agreed += theirs.argmax(1).eq(here.log_probabilities.argmax(1)).sum().item<int64_t>();
  });
  const double tokens = static_cast<double>(score.answer_tokens);
  score.perplexity = std::exp(negative_log_likelihood / tokens);
  if (reference_ == nullptr) return;
  score.mean_kl = divergence / tokens;
  score.top1_agreement = static_cast<double>(agreed) / tokens;
}

Score Evaluation::score(const Runner& runner) const {
  const auto start = std::chrono::steady_clock::now();
  Score score;
  answer(runner, score);
  compare(runner, score);
  score.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return score;
}

Json score_json(const Score& score) {
  Json json;
  json["accuracy"] = score.accuracy.rate();
  json["correct"] = score.accuracy.correct;
  json["questions"] = score.accuracy.total;
  for (const auto& [category, accuracy] : score.per_category)
    json["per_category"][category.empty() ? "(none)" : category] = {
        {"accuracy", accuracy.rate()}, {"correct", accuracy.correct}, {"questions", accuracy.total}};
  json["perplexity"] = score.perplexity;
  json["answer_tokens"] = score.answer_tokens;
  if (score.mean_kl) json["mean_kl"] = *score.mean_kl;
  if (score.top1_agreement) json["top1_agreement"] = *score.top1_agreement;
  json["seconds"] = score.seconds;
  return json;
}

}  // namespace visq

#include "visq/eval/score.h"

#include <ATen/ATen.h>

#include <chrono>
#include <cmath>
#include <numeric>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"

namespace visq {
namespace {

constexpr int64_t kChunkRows = 8192;                // of prompts that go through the model together
constexpr size_t kReferenceCacheBytes = 512 << 20;  // beyond, the reference runs again for every checkpoint

std::string trimmed(const std::string& text) {
  const char* kSpace = " \t\r\n";
  const size_t begin = text.find_first_not_of(kSpace);
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

// Calls `body(members, encoded)` for the samples of `which` in order, cut where a chunk would exceed
// kChunkRows.
template <typename Body>
void for_each_chunk(const Model& model, const std::vector<Sample>& samples, const std::vector<size_t>& which,
                    bool with_answer, Body&& body) {
  std::vector<size_t> members;
  std::vector<EncodedSample> chunk;
  int64_t rows = 0;
  for (const size_t i : which) {
    check_interrupt();
    EncodedSample encoded = model.encode(samples[i], with_answer);
    if (!chunk.empty() && rows + model.rows_of(encoded) > kChunkRows) {
      body(std::as_const(members), std::as_const(chunk));
      members.clear();
      chunk.clear();
      rows = 0;
    }
    rows += model.rows_of(encoded);
    members.push_back(i);
    chunk.push_back(std::move(encoded));
  }
  if (!chunk.empty()) body(std::as_const(members), std::as_const(chunk));
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

// Scores the reference answers. Where every token of the reference is also the most likely one, greedy
// decoding gives the reference; the other samples are `undecided`.
void Evaluation::compare(const Runner& runner, Score& score, std::vector<size_t>& undecided) const {
  double negative_log_likelihood = 0, divergence = 0;
  int64_t agreed = 0;
  size_t chunk_index = 0;
  std::vector<size_t> all(samples_.size());
  std::iota(all.begin(), all.end(), size_t{0});
  Progress progress("scoring", static_cast<int64_t>(all.size()));
  for_each_chunk(
      runner.model(), samples_, all, true,
      [&](const std::vector<size_t>& members, const std::vector<EncodedSample>& chunk) {
        const Predictions here = predict(runner, chunk);
        const at::Tensor best = here.log_probabilities.argmax(1);
        const at::Tensor hits = best.eq(here.targets).to(at::kCPU);
        int64_t row = 0;
        for (size_t i = 0; i < chunk.size(); ++i) {
          const int64_t tokens = static_cast<int64_t>(chunk[i].ids.size()) - chunk[i].prompt_tokens;
          if (hits.slice(0, row, row + tokens).all().item<bool>())
            score.answers[members[i]] = trimmed(*samples_[members[i]].answer);
          else
            undecided.push_back(members[i]);
          row += tokens;
        }
        score.answer_tokens += here.targets.size(0);
        const at::Tensor likelihood = here.log_probabilities.gather(1, here.targets.unsqueeze(1));
        negative_log_likelihood -= likelihood.sum(at::kDouble).item<double>();
        progress.advance(static_cast<int64_t>(members.back() + 1));
        if (reference_ == nullptr) return;
        at::Tensor theirs;
        if (chunk_index < reference_cache_.size()) {
          theirs = reference_cache_[chunk_index];
        } else {
          theirs = predict(*reference_, chunk).log_probabilities;
          size_t cached = theirs.nbytes();
          for (const at::Tensor& tensor : reference_cache_) cached += tensor.nbytes();
          if (chunk_index == reference_cache_.size() && cached <= kReferenceCacheBytes)
            reference_cache_.push_back(theirs);
        }
        if (theirs.sizes() != here.log_probabilities.sizes())
          fail("the two checkpoints have unlike vocabularies ({} and {} tokens), so they cannot be compared",
               here.log_probabilities.size(1), theirs.size(1));
        ++chunk_index;
        const at::Tensor per_token =
            (theirs.exp() * (theirs - here.log_probabilities)).sum(1).to(at::kCPU, at::kDouble);
        row = 0;
        for (size_t i = 0; i < chunk.size(); ++i) {
          const int64_t tokens = static_cast<int64_t>(chunk[i].ids.size()) - chunk[i].prompt_tokens;
          score.kl.push_back(per_token.slice(0, row, row + tokens).mean().item<double>());
          row += tokens;
        }
        divergence += per_token.sum().item<double>();
        agreed += theirs.argmax(1).eq(best).sum().item<int64_t>();
      });
  const double tokens = static_cast<double>(score.answer_tokens);
  score.perplexity = std::exp(negative_log_likelihood / tokens);
  if (reference_ == nullptr) return;
  score.mean_kl = divergence / tokens;
  score.top1_agreement = static_cast<double>(agreed) / tokens;
}

void Evaluation::answer(const Runner& runner, Score& score, const std::vector<size_t>& undecided) const {
  for_each_chunk(runner.model(), samples_, undecided, false,
                 [&](const std::vector<size_t>& members, const std::vector<EncodedSample>& chunk) {
                   const std::vector<std::string> answers = runner.generate(chunk, max_new_tokens_);
                   for (size_t i = 0; i < answers.size(); ++i)
                     score.answers[members[i]] = trimmed(answers[i]);
                 });
}

Score Evaluation::score(const Runner& runner) const {
  const auto start = std::chrono::steady_clock::now();
  Score score;
  score.answers.resize(samples_.size());
  std::vector<size_t> undecided;
  compare(runner, score, undecided);
  answer(runner, score, undecided);
  for (size_t i = 0; i < samples_.size(); ++i) {
    const bool correct = score.answers[i] == trimmed(*samples_[i].answer);
    for (Accuracy* accuracy : {&score.accuracy, &score.per_category[samples_[i].category]}) {
      accuracy->correct += correct;
      ++accuracy->total;
    }
  }
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

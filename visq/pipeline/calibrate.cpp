#include "visq/pipeline/calibrate.h"

#include <ATen/ATen.h>

#include <tuple>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"

namespace visq {
namespace {

// Tokens, and vision rows of cross layers, that go through a layer together: bounds the memory of activations
// (the MLP's are several times the hidden states).
constexpr size_t kChunkRows = 2048;

/// int64: rows of `mask` that are true, and that are false.
std::pair<at::Tensor, at::Tensor> split_rows(const at::Tensor& mask) {
  return {at::nonzero(mask).squeeze(1), at::nonzero(mask.logical_not()).squeeze(1)};
}

}  // namespace

const Statistics& LayerStatistics::of(const nn::GroupId& id) const {
  if (id.expert == nn::kNoExpert) return inputs[static_cast<size_t>(id.group)];
  if (id.group == nn::InputGroup::mlp_out) return experts[static_cast<size_t>(id.expert)].down;
  return experts_in.tokens() > 0 ? experts_in : inputs[static_cast<size_t>(id.group)];
}

void ExpertStatistics::merge(const ExpertStatistics& other) {
  text_tokens += other.text_tokens;
  image_tokens += other.image_tokens;
  Statistics own = borrowed ? few : down;
  own.merge(other.borrowed ? other.few : other.down);
  if (text_tokens + image_tokens >= kMinExpertTokens) {
    down = std::move(own);
    few = Statistics();
    borrowed = false;
  } else {  // so both had borrowed
    down.merge(other.down);
    few = std::move(own);
  }
}

void LayerStatistics::merge(const LayerStatistics& other) {
  for (size_t group = 0; group < inputs.size(); ++group) inputs[group].merge(other.inputs[group]);
  experts_in.merge(other.experts_in);
  for (size_t expert = 0; expert < experts.size(); ++expert) experts[expert].merge(other.experts.at(expert));
  kv_cache.merge(other.kv_cache);
}

Calibration::Calibration(const Model& model, const CalibrationOptions& options) : model_(model) {
  const std::vector<Sample> data = read_samples(options.data, options.max_samples);
  if (data.empty()) fail("{}: holds no samples", options.data.string());
  bool has_images = false;
  Progress progress("encoding samples", static_cast<int64_t>(data.size()));
  std::vector<EncodedSample> waiting;
  size_t waiting_rows = 0;
  for (const Sample& sample : data) {
    check_interrupt();
    has_images |= sample.image_count() > 0;
    EncodedSample encoded = model.encode(sample, /*with_answer=*/true);
    if (static_cast<int64_t>(encoded.ids.size()) > options.max_tokens) {
      if (!encoded.images.empty()) {  // cutting would tear an image apart
        ++left_out_;
        continue;
      }
      encoded.ids.resize(static_cast<size_t>(options.max_tokens));
    }
    ++samples_;
    const auto rows = static_cast<size_t>(model.rows_of(encoded));
    if (!waiting.empty() && waiting_rows + rows > kChunkRows) {
      add_chunk(waiting);
      waiting.clear();
      waiting_rows = 0;
    }
    waiting_rows += rows;
    waiting.push_back(std::move(encoded));
    progress.advance(samples_ + left_out_);
  }
  if (!waiting.empty()) add_chunk(waiting);
  if (samples_ == 0)
    fail("{}: every sample is longer than {} tokens; raise --seq-len", options.data.string(),
         options.max_tokens);
  if (image_tokens_ == 0 && has_images)
    fail(
        "{}: all samples with images are longer than {} tokens, so calibration saw no image token; raise "
        "--seq-len",
        options.data.string(), options.max_tokens);
  if (image_tokens_ == 0 && !options.text_only)
    fail(
        "{}: holds no images, so calibration would see no image token; add samples with images, or say "
        "--text-only",
        options.data.string());
  if (left_out_ > 0)
    log_warning(visq::format("{} samples with images are longer than {} tokens and were left out (--seq-len)",
                             left_out_, options.max_tokens));
}

void Calibration::add_chunk(const std::vector<EncodedSample>& samples) {
  Chunk chunk;
  chunk.batch = model_.embed(samples);
  std::tie(chunk.image_rows, chunk.text_rows) = split_rows(chunk.batch.image_mask);
  image_tokens_ += chunk.image_rows.size(0);
  if (chunk.batch.vision.rows.defined()) image_tokens_ += chunk.batch.vision.rows.size(0);
  text_tokens_ += chunk.text_rows.size(0);
  chunks_.push_back(std::move(chunk));
}

LayerStatistics Calibration::run_layer(const nn::DecoderLayer& layer, bool with_gram) {
  const nn::DecoderSpec& spec = model_.spec().decoder;
  LayerStatistics statistics(with_gram);
  if (spec.is_sparse(layer.index))
    statistics.experts.resize(static_cast<size_t>(spec.experts.count), ExpertStatistics(with_gram));
  const bool scales_input = spec.experts.routing == nn::ExpertsSpec::Routing::sigmoid_input;
  at::Tensor lent_input, lent_scores;  // of the first chunk: what experts without tokens of their own see
  for (Chunk& chunk : chunks_) {
    check_interrupt();
    nn::LayerObserver observer;
    // A cross layer shows some rows only: the vision rows, or tokens, which are all text.
    const bool cross = spec.is_cross(layer.index);
    observer.input = [&](nn::InputGroup group, const at::Tensor& x) {
      Statistics& input = statistics.inputs[static_cast<size_t>(group)];
      if (!cross) {
        input.add(x, chunk.text_rows, chunk.image_rows);
      } else {
        const at::Tensor none = at::empty({0}, at::kLong), all = at::arange(x.size(0), at::kLong);
        const bool images = group == nn::InputGroup::cross_in;
        input.add(x, images ? none : all, images ? all : none);
      }
      if (group == nn::InputGroup::mlp_in && !lent_input.defined()) lent_input = x;
    };
    observer.kv = [&](const at::Tensor& keys, const at::Tensor& values) {
      statistics.kv_cache.add(keys, values);
    };
    observer.router = [&](const at::Tensor& scores) {
      if (!lent_scores.defined()) lent_scores = scores;
    };
    observer.expert = [&](int64_t expert, const at::Tensor& rows, const at::Tensor& input,
                          const at::Tensor& hidden) {
      const auto [image_rows, text_rows] = split_rows(chunk.batch.image_mask.index_select(0, rows));
      ExpertStatistics& own = statistics.experts[static_cast<size_t>(expert)];
      own.text_tokens += text_rows.size(0);
      own.image_tokens += image_rows.size(0);
      own.down.add(hidden, text_rows, image_rows);
      if (scales_input) statistics.experts_in.add(input, text_rows, image_rows);
    };
    model_.advance(chunk.batch, layer, &observer);
  }
  for (size_t i = 0; i < statistics.experts.size(); ++i) {
    ExpertStatistics& own = statistics.experts[i];
    if (own.text_tokens + own.image_tokens >= kMinExpertTokens) continue;
    const nn::Expert& expert = layer.experts[i];
    const at::Tensor input =
        nn::unrouted_input(spec.experts, lent_input, lent_scores, static_cast<int64_t>(i));
    own.borrowed = true;
    own.few = std::exchange(own.down, Statistics(with_gram));
    own.down.add(nn::gated(spec.activation, expert.gate, expert.up, input), chunks_.front().text_rows,
                 chunks_.front().image_rows);
  }
  return statistics;
}

}  // namespace visq

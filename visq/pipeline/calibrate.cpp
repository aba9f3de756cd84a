#include "visq/pipeline/calibrate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <span>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"

namespace visq {
namespace {

// Tokens, and vision rows of cross layers, that go through a layer together: bounds the memory of activations
// (the MLP's are several times the hidden states).
constexpr size_t kChunkRows = 2048;

// A bijection of 64-bit numbers whose results look random (the finalizer of splitmix64).
uint64_t mixed(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A number for a sample, from its tokens and some of its pixels.
uint64_t key_of(const EncodedSample& sample) {
  constexpr int64_t kPixels = 64;
  uint64_t key = sample.ids.size();
  const auto take_up = [&key](uint64_t value) { key = mixed(key + 0x9E3779B97F4A7C15u + value); };
  for (const int64_t id : sample.ids) take_up(static_cast<uint64_t>(id));
  for (const ProcessedImage& image : sample.images) {
    const at::Tensor pixels = image.pixels.flatten();
    const at::Tensor some =
        pixels.slice(0, 0, std::nullopt, std::max<int64_t>(1, pixels.numel() / kPixels)).contiguous();
    for (const float pixel : std::span(some.const_data_ptr<float>(), static_cast<size_t>(some.numel())))
      take_up(std::bit_cast<uint32_t>(pixel));
  }
  return key;
}

// Of samples laid end to end. @param image  bool [tokens]
TokenRows token_rows(const std::vector<EncodedSample>& samples, const at::Tensor& image, HoldOut hold_out) {
  std::vector<int64_t> tickets;
  std::vector<uint8_t> held_out;
  for (const EncodedSample& sample : samples) {
    const uint64_t key = key_of(sample);
    const bool may_be = sample.images.empty() ? hold_out.texts : hold_out.images;
    held_out.insert(held_out.end(), sample.ids.size(), may_be && key % kHeldOutShare == 0 ? 1 : 0);
    for (size_t i = 0; i < sample.ids.size(); ++i)
      tickets.push_back(static_cast<int64_t>(mixed(key + i) >> 1));
  }
  return {image, at::tensor(held_out, at::kByte).to(image.device(), at::kBool),
          at::tensor(tickets, at::kLong).to(image.device())};
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
  if (own.fitted_tokens() >= kMinExpertTokens) {
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
  const auto pictured =
      std::ranges::count_if(data, [](const Sample& sample) { return sample.image_count() > 0; });
  const bool has_images = pictured > 0;
  hold_out_ = {static_cast<int64_t>(data.size()) - pictured >= kMinSamplesToHoldOut,
               pictured >= kMinSamplesToHoldOut};
  Progress progress("encoding samples", static_cast<int64_t>(data.size()));
  std::vector<EncodedSample> waiting;
  size_t waiting_rows = 0;
  for (const Sample& sample : data) {
    check_interrupt();
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
  Batch batch = model_.embed(samples);
  TokenRows rows = token_rows(samples, batch.image_mask, hold_out_);
  image_tokens_ += rows.count(/*image=*/true);
  if (batch.vision.rows.defined()) image_tokens_ += batch.vision.rows.size(0);
  text_tokens_ += rows.count(/*image=*/false);
  chunks_.push_back({std::move(batch), std::move(rows)});
}

LayerStatistics Calibration::run_layer(const nn::DecoderLayer& layer, Detail detail) {
  const nn::DecoderSpec& spec = model_.spec().decoder;
  LayerStatistics statistics(detail);
  if (spec.is_sparse(layer.index))
    statistics.experts.resize(static_cast<size_t>(spec.experts.count), ExpertStatistics(detail));
  const bool scales_input = spec.experts.routing == nn::ExpertsSpec::Routing::sigmoid_input;
  at::Tensor lent_input, lent_scores;  // of the first chunk: what experts without tokens of their own see
  for (Chunk& chunk : chunks_) {
    check_interrupt();
    nn::LayerObserver observer;
    // A cross layer shows some rows only: the vision rows, or tokens, which are all text.
    const bool cross = spec.is_cross(layer.index);
    observer.input = [&](nn::InputGroup group, const at::Tensor& x) {
      Statistics& input = statistics.inputs[static_cast<size_t>(group)];
      input.add(
          x, cross ? TokenRows::alike(x.size(0), group == nn::InputGroup::cross_in, x.device()) : chunk.rows);
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
      const TokenRows sent = chunk.rows.of(rows);
      ExpertStatistics& own = statistics.experts[static_cast<size_t>(expert)];
      own.text_tokens += sent.count(/*image=*/false);
      own.image_tokens += sent.count(/*image=*/true);
      own.down.add(hidden, sent);
      if (scales_input) statistics.experts_in.add(input, sent);
    };
    model_.advance(chunk.batch, layer, &observer);
  }
  for (size_t i = 0; i < statistics.experts.size(); ++i) {
    ExpertStatistics& own = statistics.experts[i];
    if (own.down.fitted_tokens() >= kMinExpertTokens) continue;
    const nn::Expert& expert = layer.experts[i];
    const at::Tensor input =
        nn::unrouted_input(spec.experts, lent_input, lent_scores, static_cast<int64_t>(i));
    own.borrowed = true;
    own.few = std::exchange(own.down, Statistics(detail));
    own.down.add(nn::gated(spec.activation, expert.gate, expert.up, input),
                 chunks_.front().rows.without_held_out());
  }
  return statistics;
}

}  // namespace visq

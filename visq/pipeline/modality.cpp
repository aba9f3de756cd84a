#include "visq/pipeline/modality.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <algorithm>

#include "visq/core/process.h"
#include "visq/pipeline/score_data.h"

namespace visq {
namespace {

// Relative error of every update: about that of 4-bit formats.
constexpr double kError = 0.1;
constexpr int64_t kSamples = 16, kPartRows = 2048;

// One more layer, with an error on what it adds to some tokens. @param disturbed  bool [tokens]
void advance(const Model& model, const nn::DecoderLayer& layer, const at::Tensor& disturbed,
             at::Generator& random, Batch& batch) {
  const at::Tensor before = batch.hidden;
  model.advance(batch, layer);
  const at::Tensor update = (batch.hidden - before).to(at::kFloat);
  const at::Tensor noise = at::randn(update.sizes(), random, at::kFloat).to(update.device());
  const at::Tensor size = update.square().mean(1, /*keepdim=*/true).sqrt() * disturbed.unsqueeze(1);
  batch.hidden = batch.hidden + (noise * size * kError).to(batch.hidden.scalar_type());
}

}  // namespace

std::optional<ModalitySensitivity> modality_sensitivity(const Model& model,
                                                        const CalibrationOptions& options) {
  std::vector<Sample> samples = read_samples(options.data, options.max_samples);
  std::erase_if(samples, [](const Sample& sample) { return !sample.answer || sample.image_count() == 0; });
  const ScoreData data(model, samples, options.max_tokens, kSamples, kPartRows);
  if (data.samples == 0) return std::nullopt;
  struct Run {
    Batch clean, text, image;  // undisturbed, and disturbed in one modality
  };
  std::vector<Run> runs;
  for (const ScoreData::Part& part : data.parts) runs.push_back({part.batch, part.batch, part.batch});
  at::Generator random = at::detail::createCPUGenerator(/*seed=*/1);
  for (int64_t index = 0; index < model.spec().decoder.layers; ++index) {
    const nn::DecoderLayer layer = model.load_layer(index);
    for (Run& run : runs) {
      check_interrupt();
      model.advance(run.clean, layer);
      advance(model, layer, run.text.image_mask.logical_not(), random, run.text);
      advance(model, layer, run.image.image_mask, random, run.image);
    }
  }
  ModalitySensitivity result;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto answers = [&](const Batch& batch) {
      return at::log_softmax(model.logits(batch.hidden.index_select(0, data.parts[i].answer_rows)), 1);
    };
    const at::Tensor clean = answers(runs[i].clean);
    const auto divergence = [&](const Batch& batch) {
      return (clean.exp() * (clean - answers(batch))).sum(at::kDouble).item<double>();
    };
    result.text += divergence(runs[i].text);
    result.image += divergence(runs[i].image);
  }
  const double per_token = kError * kError * static_cast<double>(data.answer_tokens);
  return ModalitySensitivity{std::max(result.text, 0.0) / per_token, std::max(result.image, 0.0) / per_token};
}

}  // namespace visq

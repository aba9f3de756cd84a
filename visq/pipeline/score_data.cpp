#include "visq/pipeline/score_data.h"

#include <ATen/ATen.h>

#include "visq/core/process.h"

namespace visq {

ScoreData::ScoreData(const Model& model, const std::vector<Sample>& answered, int64_t max_tokens,
                     int64_t max_samples, int64_t max_rows) {
  const auto available = static_cast<int64_t>(answered.size()), wanted = std::min(max_samples, available);
  std::vector<EncodedSample> waiting;
  int64_t rows = 0;
  for (int64_t i = 0; i < wanted; ++i) {
    check_interrupt();
    EncodedSample encoded = model.encode(answered[static_cast<size_t>(i * available / wanted)], true);
    if (static_cast<int64_t>(encoded.ids.size()) > max_tokens) continue;
    if (!waiting.empty() && rows + model.rows_of(encoded) > max_rows) {
      add_part(model, waiting);
      waiting.clear();
      rows = 0;
    }
    rows += model.rows_of(encoded);
    waiting.push_back(std::move(encoded));
    ++samples;
  }
  if (!waiting.empty()) add_part(model, waiting);
}

void ScoreData::add_part(const Model& model, const std::vector<EncodedSample>& encoded) {
  Part part{model.embed(encoded), {}};
  std::vector<int64_t> rows;
  for (size_t i = 0; i < encoded.size(); ++i)
    for (auto token = encoded[i].prompt_tokens; token < static_cast<int64_t>(encoded[i].ids.size()); ++token)
      rows.push_back(part.batch.offsets[i] + token - 1);
  answer_tokens += static_cast<int64_t>(rows.size());
  part.answer_rows = at::tensor(rows, at::kLong).to(model.device());
  const int64_t pictured = part.batch.image_mask.sum().item<int64_t>();
  text_tokens += part.batch.hidden.size(0) - pictured;
  image_tokens += pictured + (part.batch.vision.rows.defined() ? part.batch.vision.rows.size(0) : 0);
  parts.push_back(std::move(part));
}

}  // namespace visq

// The text side of a Model: samples → token ids and images → embeddings and positions.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "visq/families/model_parts.h"
#include "visq/families/positions.h"
#include "visq/families/prompt.h"
#include "visq/families/tower_checks.h"
#include "visq/inputs/image.h"

namespace visq {
namespace {

/// Errors of a sample's images and texts name the sample.
template <typename Body>
auto naming(const Sample& sample, Body&& body) {
  try {
    return body();
  } catch (const Error& error) {
    fail("{}: {}", sample.origin, error.what());
  }
}

/// What ends an answer: the end of the turn in ChatML, else the first of the ids that stop generation.
std::optional<int64_t> end_token(const ModelSpec& spec, const Tokenizer& tokenizer) {
  if (spec.prompt != PromptStyle::vicuna)
    if (const auto id = tokenizer.id_of("<|im_end|>")) return id;
  if (spec.eos_ids.empty()) return std::nullopt;
  return spec.eos_ids.front();
}

}  // namespace

EncodedSample Model::encode(const Sample& sample, bool with_answer) const {
  const ModelSpec& prompted = parts_->prompt.get([this] {
    ModelSpec spec = spec_;
    if (spec.prompt == PromptStyle::chatml_images_first && !tokenizer().id_of("<|im_start|>"))
      spec.prompt = PromptStyle::vicuna;
    return spec;
  });
  return naming(sample, [&] {
    EncodedSample encoded;
    for (const Message& message : sample.messages) {
      for (const ContentPart& part : message.content) {
        if (part.kind != ContentPart::Kind::image) continue;
        const ImageProcessor& processor =
            parts_->processor.get([this] { return ImageProcessor::load(checkpoint_.directory()); });
        encoded.images.push_back(processor.process(read_image(part.image), sample.image_count()));
        check_image(spec_, encoded.images.back());
      }
    }
    if (!encoded.images.empty() && tokenizer().id_of(spec_.image_token) != spec_.image_token_id)
      fail("the tokenizer does not know '{}' as token {}, which config.json names as the image token",
           spec_.image_token, spec_.image_token_id);
    const std::string prompt = expand_images(spec_, render_prompt(prompted, sample.messages), encoded.images);
    encoded.ids = tokenizer().encode(prompt);
    encoded.prompt_tokens = static_cast<int64_t>(encoded.ids.size());
    if (with_answer && sample.answer) {
      if (sample.answer->find(spec_.image_token) != std::string::npos)
        fail("the answer contains '{}' literally; take it out", spec_.image_token);
      // A token can reach across the border, so the answer begins where the ids part.
      std::vector<int64_t> whole = tokenizer().encode(prompt + render_answer(prompted, *sample.answer));
      const auto parted = std::ranges::mismatch(encoded.ids, whole).in2;
      encoded.prompt_tokens = parted - whole.begin();
      encoded.ids = std::move(whole);
      if (const auto end = end_token(prompted, tokenizer())) encoded.ids.push_back(*end);
    }
    const auto tokens = static_cast<int64_t>(encoded.ids.size());
    if (tokens > kMaxSampleTokens) fail("{} tokens are more than the limit of {}", tokens, kMaxSampleTokens);
    if (const nn::DecoderSpec& decoder = spec_.decoder; decoder.max_tokens > 0 && tokens > decoder.max_tokens)
      fail("{} tokens are more than {} ({} tokens)", tokens, decoder.max_tokens_reason, decoder.max_tokens);
    return encoded;
  });
}

/// Rows of the embedding table, gathered where it lies (the mapped file), then converted.
at::Tensor Model::embed_rows(const at::Tensor& ids) const {
  const at::Tensor table = stored(spec_.decoder_prefix + "embed_tokens.weight");
  const at::Tensor local = ids.to(at::kCPU);
  if (local.numel() > 0) {
    const auto [lowest, highest] = local.aminmax();
    if (lowest.item<int64_t>() < 0 || highest.item<int64_t>() >= table.size(0))
      fail("{}: the tokenizer makes token {}, but the embedding has {} rows",
           checkpoint_.directory().string(), highest.item<int64_t>(), table.size(0));
  }
  return table.index_select(0, local).to(device_, dtype_);
}

at::Tensor Model::embed_ids(const at::Tensor& ids) const { return embed_rows(ids); }

Batch Model::embed(std::span<const EncodedSample> samples) const {
  Batch batch;
  batch.offsets = {0};
  std::vector<int64_t> ids, image_rows;
  std::array<std::vector<int64_t>, 3> axes;
  std::vector<ProcessedImage> images;
  for (const EncodedSample& sample : samples) {
    const auto tokens = static_cast<int64_t>(sample.ids.size());
    if (spec_.mrope) {
      std::vector<std::pair<int64_t, int64_t>> cells;
      for (const ProcessedImage& image : sample.images)
        cells.emplace_back(image.grid_h / spec_.vision.merge, image.grid_w / spec_.vision.merge);
      Positions positions = mrope_positions(sample.ids, spec_.image_token_id, cells);
      for (size_t axis = 0; axis < 3; ++axis)
        axes[axis].insert(axes[axis].end(), positions.axes[axis].begin(), positions.axes[axis].end());
      batch.next_position.push_back(positions.next);
    } else {
      for (int64_t i = 0; i < tokens; ++i) axes[0].push_back(i);
      batch.next_position.push_back(tokens);
    }
    for (const int64_t id : sample.ids) {
      if (id == spec_.image_token_id) image_rows.push_back(static_cast<int64_t>(ids.size()));
      ids.push_back(id);
    }
    images.insert(images.end(), sample.images.begin(), sample.images.end());
    batch.offsets.push_back(static_cast<int64_t>(ids.size()));
  }

  std::vector<at::Tensor> rows;
  for (const auto& axis : axes)
    if (spec_.mrope || rows.empty()) rows.push_back(at::tensor(axis, at::kLong));
  batch.positions = at::stack(rows).to(device_);
  batch.hidden = embed_rows(at::tensor(ids, at::kLong));
  const at::Tensor places = at::tensor(image_rows, at::kLong).to(device_);
  batch.image_mask = at::zeros({batch.hidden.size(0)}, batch.hidden.options().dtype(at::kBool));
  batch.image_mask.index_fill_(0, places, 1);
  if (images.empty() && image_rows.empty()) return batch;
  if (images.empty()) fail("{} image tokens, but no image", image_rows.size());
  ImageFeatures features = image_features(images);
  if (features.rows.size(0) != places.size(0))
    fail("{} image tokens, but the images make {} features", places.size(0), features.rows.size(0));
  batch.hidden.index_copy_(0, places, features.rows.to(batch.hidden.scalar_type()));
  batch.deepstack = std::move(features.deepstack);
  return batch;
}

}  // namespace visq

// The text side of a Model: samples → token ids and images → embeddings and positions.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <iterator>

#include "visq/families/model_parts.h"
#include "visq/families/positions.h"
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

void check_length(const nn::DecoderSpec& decoder, const std::vector<int64_t>& ids) {
  const auto tokens = static_cast<int64_t>(ids.size());
  if (tokens > kMaxSampleTokens) fail("{} tokens are more than the limit of {}", tokens, kMaxSampleTokens);
  if (decoder.max_tokens > 0 && tokens > decoder.max_tokens)
    fail("{} tokens are more than {} ({} tokens)", tokens, decoder.max_tokens_reason, decoder.max_tokens);
}

}  // namespace

/// With the BOS that the tokenizer adds, unless the prompt has one already (spec/inputs.md §4.4).
std::vector<int64_t> Model::tokenize_text(const std::string& text) const {
  std::vector<int64_t> ids = tokenizer().encode(text, /*add_special_tokens=*/false);
  const bool has_bos = !ids.empty() && spec_.bos_id == ids.front();
  if (has_bos || spec_.whole_prompt) return ids;
  return tokenizer().encode(text, /*add_special_tokens=*/true);
}

std::vector<int64_t> Model::tokenize(const std::string& text, std::span<const ProcessedImage> images) const {
  const std::string expanded = expand_images(spec_, text, images);
  if (!spec_.split_at_images) return tokenize_text(expanded);
  // Runs of image tokens cut the text into pieces that are tokenized each by itself (Phi-3-vision).
  const std::string& token = spec_.image_token;
  std::vector<int64_t> ids;
  size_t at = 0;
  while (at < expanded.size()) {
    const size_t next = std::min(expanded.find(token, at), expanded.size());
    if (next > at || (at == 0 && spec_.single_bos)) {  // an empty first piece has a BOS too
      std::vector<int64_t> piece = tokenize_text(expanded.substr(at, next - at));
      if (at > 0 && spec_.single_bos && !piece.empty() && piece.front() == spec_.bos_id)
        piece.erase(piece.begin());
      std::ranges::copy(piece, std::back_inserter(ids));
    }
    at = next;
    for (; expanded.compare(at, token.size(), token) == 0; at += token.size())
      ids.push_back(spec_.image_token_id);
  }
  return ids;
}

const ImageProcessor& Model::image_processor() const {
  return parts_->processor.get([this] {
    if (spec_.image_processor.is_null()) return ImageProcessor::load(checkpoint_.directory(), image_profile_);
    return ImageProcessor::parse(spec_.image_processor, (checkpoint_.directory() / "config.json").string(),
                                 image_profile_);
  });
}

const VideoProcessor& Model::video_processor() const {
  return parts_->video_processor.get(
      [this] { return VideoProcessor::load(checkpoint_.directory(), spec_.video.processor); });
}

/// An image or a video, in the shape that the tower reads.
ProcessedImage Model::process(const ContentPart& part, const Sample& sample) const {
  const bool video = part.kind == ContentPart::Kind::video;
  if (video && !spec_.video.token_id)
    fail("a model of the family '{}' reads no videos; give some frames as images instead", spec_.family);
  ProcessedImage processed = video ? video_processor().process(part.video)
                                   : image_processor().process(read_image(part.image), sample.image_count());
  check_image(spec_, processed);
  return processed;
}

void Model::check_placeholder(bool video) const {
  const std::string& token = video ? spec_.video.token : spec_.image_token;
  const int64_t id = video ? *spec_.video.token_id : spec_.image_token_id;
  if (tokenizer().id_of(token) != id)
    fail("the tokenizer does not know '{}' as token {}, which config.json names as the {} token", token, id,
         video ? "video" : "image");
}

EncodedSample Model::encode(const Sample& sample, bool with_answer) const {
  const Prompter& prompter = parts_->prompter.get([this] {
    return Prompter(spec_, tokenizer(),
                    spec_.own_prompt ? std::nullopt : ChatTemplate::load(checkpoint_.text_model().directory));
  });
  return naming(sample, [&] {
    EncodedSample encoded;
    for (const Message& message : sample.messages)
      for (const ContentPart& part : message.content)
        if (part.kind != ContentPart::Kind::text) encoded.images.push_back(process(part, sample));
    if (!spec_.split_at_images)
      for (const ProcessedImage& image : encoded.images) check_placeholder(image.is_video());
    const std::string prompt = prompter.prompt(sample.messages);
    encoded.ids = tokenize(prompt, encoded.images);
    encoded.prompt_tokens = static_cast<int64_t>(encoded.ids.size());
    if (with_answer && sample.answer) {
      for (const std::string& token : {spec_.image_token, spec_.video.token})
        if (!token.empty() && sample.answer->find(token) != std::string::npos)
          fail("the answer contains '{}' literally; take it out", token);
      const Prompter::Answer answer = prompter.answer(sample.messages, prompt, *sample.answer);
      // A token can reach across the border, so the answer begins where the ids part.
      std::vector<int64_t> whole = tokenize(prompt + answer.text, encoded.images);
      const auto parted = std::ranges::mismatch(encoded.ids, whole).in2;
      encoded.prompt_tokens = parted - whole.begin();
      encoded.ids = std::move(whole);
      if (answer.end) encoded.ids.push_back(*answer.end);
    }
    check_length(spec_.decoder, encoded.ids);
    return encoded;
  });
}

/// Rows of the embedding table, gathered where it lies (the mapped file), then converted and scaled.
at::Tensor Model::embed_rows(const std::vector<int64_t>& ids) const {
  const at::Tensor table = stored(spec_.decoder_prefix + "embed_tokens.weight");
  for (const int64_t id : ids)
    if (id < 0 || id >= table.size(0))
      fail("{}: the tokenizer makes token {}, but the embedding has {} rows",
           checkpoint_.directory().string(), id, table.size(0));
  const at::Tensor rows = table.index_select(0, at::tensor(ids, at::kLong)).to(device_, dtype_);
  if (spec_.decoder.embed_scale == 1) return rows;
  return rows * at::full({}, spec_.decoder.embed_scale, at::kFloat).to(dtype_).to(device_);
}

at::Tensor Model::adapted_tokens(const std::vector<bool>& pictured) const {
  if (merged_ || std::ranges::none_of(spec_.adapters, &AdapterSpec::for_images)) return {};
  const std::vector<float> flags(pictured.begin(), pictured.end());
  return at::tensor(flags, at::kFloat).unsqueeze(1).to(device_, dtype_);
}

Batch Model::embed_next(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions,
                        const std::vector<bool>& pictured) const {
  Batch batch;
  batch.hidden = embed_rows(ids);
  batch.adapted = adapted_tokens(pictured);
  batch.positions =
      at::tensor(positions, at::kLong).unsqueeze(0).expand({spec_.mrope ? 3 : 1, -1}).to(device_);
  for (size_t i = 0; i <= ids.size(); ++i) batch.offsets.push_back(static_cast<int64_t>(i));
  batch.rope = nn::rope_table(spec_.decoder, batch.positions, dtype_, batch.offsets);
  return batch;
}

namespace {

/// Runs of tokens of images and videos.
std::vector<TokenGrid> token_grids(const ModelSpec& spec, const std::vector<ProcessedImage>& images) {
  std::vector<TokenGrid> grids;
  for (const ProcessedImage& image : images) {
    const int64_t height = image.grid_h / spec.vision.merge, width = image.grid_w / spec.vision.merge;
    if (!image.is_video()) {
      grids.push_back({spec.image_token_id, 1, height, width});
    } else if (!spec.video.step_before.empty()) {
      grids.insert(grids.end(), static_cast<size_t>(image.grid_t), {*spec.video.token_id, 1, height, width});
    } else {
      const auto seconds = static_cast<float>(static_cast<double>(spec.vision.temporal_patch) / image.fps);
      const auto rate = static_cast<float>(spec.video.tokens_per_second);
      grids.push_back({*spec.video.token_id, image.grid_t, height, width, rate > 0 ? rate * seconds : 1});
    }
  }
  return grids;
}

/// The numbers of the blocks whose tokens see one another; empty: there are none. Each run of image tokens is
/// one (Gemma 3), or each prompt (PaliGemma).
std::vector<int64_t> unordered_blocks(const ModelSpec& spec, const EncodedSample& sample) {
  std::vector<int64_t> blocks(sample.ids.size(), -1);
  if (spec.decoder.unordered == nn::DecoderSpec::Unordered::prompt)
    std::fill_n(blocks.begin(), sample.prompt_tokens, 0);
  if (spec.decoder.unordered == nn::DecoderSpec::Unordered::images) {
    int64_t block = -1;
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (sample.ids[i] != spec.image_token_id) continue;
      if (i == 0 || sample.ids[i - 1] != spec.image_token_id) ++block;
      blocks[i] = block;
    }
  }
  return blocks;
}

/// What the tokens of a sequence see: an image is seen from its token on to the next image that does not
/// follow directly; images that follow one another are seen together. Source: spec/inputs.md §7.9.
/// @param number     of the sequence
/// @param first_row  of its vision rows
nn::CrossSequence cross_sequence(const ModelSpec& spec, const EncodedSample& sample, size_t number,
                                 int64_t first_row) {
  nn::CrossSequence sequence{static_cast<int64_t>(number), {first_row, 0}, {}};
  size_t image = 0;
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    if (sample.ids[i] == spec.image_token_id) {
      if (image == sample.images.size()) fail("more image tokens than the {} images", image);
      nn::CrossRun run;
      if (i > 0 && sample.ids[i - 1] == spec.image_token_id) run.seen = sequence.runs.back().seen;
      const ProcessedImage& shown = sample.images[image++];
      const int64_t tile = nn::tower_tokens(spec.vision, image_grids(spec.vision, shown).front());
      run.seen.push_back({first_row + sequence.rows.count, shown.rows * shown.columns * tile});
      sequence.rows.count += feature_rows(spec, shown);
      sequence.runs.push_back(std::move(run));
    } else if (sequence.runs.empty()) {
      sequence.runs.emplace_back();
    }
    ++sequence.runs.back().tokens;
  }
  if (image < sample.images.size()) fail("{} image tokens, but {} images", image, sample.images.size());
  return sequence;
}

nn::CrossInput cross_input(const ModelSpec& spec, std::span<const EncodedSample> samples) {
  nn::CrossInput input;
  int64_t rows = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    nn::CrossSequence sequence = cross_sequence(spec, samples[i], i, rows);
    rows += sequence.rows.count;
    if (sequence.rows.count > 0) input.sequences.push_back(std::move(sequence));
  }
  return input;
}

}  // namespace

int64_t Model::rows_of(const EncodedSample& sample) const {
  auto rows = static_cast<int64_t>(sample.ids.size());
  if (spec_.layout.kind == ImageLayout::Kind::cross)
    for (const ProcessedImage& image : sample.images) rows += feature_rows(spec_, image);
  return rows;
}

Batch Model::embed(std::span<const EncodedSample> samples) const {
  const bool cross = spec_.layout.kind == ImageLayout::Kind::cross;
  Batch batch;
  batch.offsets = {0};
  std::vector<int64_t> feature_tokens = {spec_.image_token_id};
  if (spec_.video.token_id) feature_tokens.push_back(*spec_.video.token_id);
  std::vector<int64_t> ids, image_rows, blocks;
  std::array<std::vector<int64_t>, 3> axes;
  std::vector<ProcessedImage> images;
  std::vector<bool> pictured;  // per token
  for (const EncodedSample& sample : samples) {
    pictured.insert(pictured.end(), sample.ids.size(), !sample.images.empty());
    const auto tokens = static_cast<int64_t>(sample.ids.size());
    if (spec_.mrope) {
      Positions positions = mrope_positions(sample.ids, feature_tokens, token_grids(spec_, sample.images));
      for (size_t axis = 0; axis < 3; ++axis)
        axes[axis].insert(axes[axis].end(), positions.axes[axis].begin(), positions.axes[axis].end());
      batch.next_position.push_back(positions.next);
    } else {
      const int64_t first = spec_.decoder.first_position;
      for (int64_t i = 0; i < tokens; ++i) axes[0].push_back(first + i);
      batch.next_position.push_back(first + tokens);
    }
    for (const int64_t id : sample.ids) {
      const bool is_image = !cross && std::ranges::find(feature_tokens, id) != feature_tokens.end();
      if (is_image) image_rows.push_back(static_cast<int64_t>(ids.size()));
      ids.push_back(is_image ? 0 : id);  // overwritten below; VILA's has no embedding
    }
    std::ranges::copy(unordered_blocks(spec_, sample), std::back_inserter(blocks));
    images.insert(images.end(), sample.images.begin(), sample.images.end());
    batch.offsets.push_back(static_cast<int64_t>(ids.size()));
  }

  std::vector<at::Tensor> rows;
  for (const auto& axis : axes)
    if (spec_.mrope || rows.empty()) rows.push_back(at::tensor(axis, at::kLong));
  batch.positions = at::stack(rows).to(device_);
  batch.rope = nn::rope_table(spec_.decoder, batch.positions, dtype_, batch.offsets);
  if (std::ranges::any_of(blocks, [](int64_t block) { return block >= 0; }))
    batch.blocks = at::tensor(blocks, at::kLong).to(device_);
  batch.hidden = embed_rows(ids);
  batch.adapted = adapted_tokens(pictured);
  const at::Tensor places = at::tensor(image_rows, at::kLong).to(device_);
  batch.image_mask = at::zeros({batch.hidden.size(0)}, batch.hidden.options().dtype(at::kBool));
  batch.image_mask.index_fill_(0, places, 1);
  if (cross) batch.vision = cross_input(spec_, samples);
  if (images.empty() && image_rows.empty()) return batch;
  if (images.empty()) fail("{} image tokens, but no image", image_rows.size());
  ImageFeatures features = image_features(images);
  if (cross) {
    batch.vision.rows = features.rows.to(batch.hidden.scalar_type());
    return batch;
  }
  if (features.rows.size(0) != places.size(0))
    fail("{} image tokens, but the images make {} features", places.size(0), features.rows.size(0));
  batch.hidden.index_copy_(0, places, features.rows.to(batch.hidden.scalar_type()));
  batch.deepstack = std::move(features.deepstack);
  return batch;
}

}  // namespace visq

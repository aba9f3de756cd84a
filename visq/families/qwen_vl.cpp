#include "visq/families/qwen_vl.h"

#include <algorithm>
#include <numeric>

#include "visq/families/config.h"

// Source: spec/models-llava-vila-qwen.md §1.1–1.3, §2, §7, §8.

namespace visq {
namespace {

constexpr TextDefaults kText{.vocab = 152064,
                             .hidden = 8192,
                             .intermediate = 29568,
                             .layers = 80,
                             .heads = 64,
                             .kv_heads = 8,
                             .max_positions = 32768,
                             .norm_eps = 1e-5,
                             .theta = 1e6,
                             .biases = TextDefaults::Biases::qkv,
                             .window = TextDefaults::Window::when_enabled,
                             .bos = 151643,
                             .eos = 151645};

}  // namespace

void read_mrope(nn::DecoderSpec& decoder, const std::vector<int64_t>& otherwise, const std::string& origin) {
  auto& section = decoder.rope.mrope_section;
  if (section.empty()) section = otherwise;
  const bool positive = std::ranges::all_of(section, [](int64_t count) { return count >= 0; });
  if (!positive || std::accumulate(section.begin(), section.end(), int64_t{0}) != decoder.head_dim / 2)
    fail("{}: 'mrope_section' must add up to half of the head dimension {}", origin, decoder.head_dim);
}

VideoLayout read_qwen_video(const Json& config, const char* processor, const std::string& origin) {
  VideoLayout video;
  video.token_id = get_or<int64_t>(config, "video_token_id", 151656, origin);
  video.token = "<|video_pad|>";
  video.processor = processor;
  return video;
}

ModelSpec describe_qwen_vl(const Json& config, const QwenVl& parts, const std::string& origin) {
  // Hub files are flat; later ones nest the text fields, some with duplicates at the root.
  const Json none = Json::object();
  const Json& text = object_or(config, "text_config", config);
  const Json& vision = object_or(config, "vision_config", none);

  ModelSpec spec;
  spec.decoder = read_decoder(text, kText, origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  read_mrope(spec.decoder, {16, 24, 24}, origin);
  Tower tower = parts.read_tower(vision, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  const int64_t out = read_extent(vision, parts.out_key, 3584, 1 << 20, origin);
  if (out != spec.decoder.hidden)
    fail("{}: '{}' is {}, but the text model's 'hidden_size' is {}", origin, parts.out_key, out,
         spec.decoder.hidden);
  const int64_t merged = spec.vision.width * spec.vision.merge * spec.vision.merge;
  spec.projector = {nn::ProjectorOp::norm(parts.merger_norm, "ln_q", 1e-6),
                    nn::ProjectorOp::concat(spec.vision.merge), nn::ProjectorOp::linear("mlp.0", merged),
                    nn::ProjectorOp::activation(nn::Activation::gelu), nn::ProjectorOp::linear("mlp.2", out)};

  spec.name_rules = {{"visual.", "model.visual.", {}},
                     {"model.", "model.language_model.", {"model.language_model.", "model.visual."}}};
  spec.decoder_prefix = "model.language_model.";
  spec.tower_prefix = "model.visual.";
  spec.projector_prefix = "model.visual.merger.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.rotary_pos_emb.inv_freq"};

  spec.image_token_id = get_or<int64_t>(config, "image_token_id", 151655, origin);
  spec.image_token = "<|image_pad|>";
  spec.video = read_qwen_video(config, "Qwen2VLVideoProcessor", origin);
  spec.prompt = PromptStyle::chatml;
  spec.mrope = true;
  spec.eos_ids = read_eos(config, text, kText, origin);
  spec.bos_id = read_bos(text, kText, origin);
  spec.unquantized_roots = {"lm_head", "visual", "model.visual"};
  return spec;
}

}  // namespace visq

#include "visq/families/llava_like.h"

#include <charconv>

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-llava-vila-qwen.md §1.1–1.3, §2, §3.

namespace visq {
namespace {

void read_selection(const Json& config, const LlavaDefaults& defaults, nn::VisionSpec& spec,
                    const std::string& origin) {
  spec.feature_layers = read_integers(config, "vision_feature_layer", origin);
  if (spec.feature_layers.empty()) spec.feature_layers = defaults.feature_layers;
  check_feature_layers(spec, "vision_feature_layer", origin);
  const auto strategy = get_or<std::string>(config, "vision_feature_select_strategy",
                                            defaults.drop_class_token ? "default" : "full", origin);
  if (strategy != "default" && strategy != "full")
    fail("{}: 'vision_feature_select_strategy' is '{}' (default and full are supported)", origin, strategy);
  spec.drop_class_token = strategy == "default";  // the first token, whatever it is: so the reference
  if (spec.input == nn::VisionInput::images && spec.drop_class_token)
    fail("{}: 'vision_feature_select_strategy' must be full: this tower has no class token", origin);
}

}  // namespace

Json clip_large_336() {
  return {{"hidden_size", 1024},       {"intermediate_size", 4096}, {"num_hidden_layers", 24},
          {"num_attention_heads", 16}, {"image_size", 336},         {"patch_size", 14}};
}

ModelSpec describe_llava_like(const Json& config, const LlavaDefaults& defaults, const std::string& origin) {
  const Json& text = object_or(config, "text_config", defaults.text);
  const auto text_type = get_or<std::string>(text, "model_type", defaults.text_type, origin);
  const TextDefaults& text_class = text_defaults(text_type, origin);

  ModelSpec spec;
  spec.decoder = read_decoder(text, text_class, origin);
  if (!spec.decoder.rope.mrope_section.empty())
    fail("{}: 'mrope_section' does not belong to this architecture", origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  if (defaults.tied_head && !config.contains("tie_word_embeddings")) spec.decoder.tied_head = true;
  Tower tower = read_tower(object_or(config, "vision_config", defaults.vision), defaults.vision_type, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  read_selection(config, defaults, spec.vision, origin);
  const bool bias = get_or<bool>(config, "multimodal_projector_bias", defaults.projector_bias, origin);
  const auto act = get_or<std::string>(config, "projector_hidden_act", "gelu", origin);
  spec.projector = {nn::ProjectorOp::linear("linear_1", spec.decoder.hidden, bias),
                    nn::ProjectorOp::activation(nn::parse_activation(act, origin)),
                    nn::ProjectorOp::linear("linear_2", spec.decoder.hidden, bias)};

  spec.name_rules = {{"language_model.lm_head.", "lm_head.", {}},
                     {"language_model.model.", "model.language_model.", {}},
                     {"vision_tower.", "model.vision_tower.", {}},
                     {"multi_modal_projector.", "model.multi_modal_projector.", {}},
                     {"image_newline", "model.image_newline", {}},
                     {"model.vision_tower.vision_model.", "model.vision_tower.", {}}};
  spec.decoder_prefix = "model.language_model.";
  spec.tower_prefix = "model.vision_tower.";
  spec.projector_prefix = "model.multi_modal_projector.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.position_ids", "model.vision_tower.head.*",
                           "model.vision_tower.post_layernorm.*", "model.vision_tower.embeddings.mask_token"};

  spec.image_token_id = read_image_token(config, defaults.image_token_id, origin);
  spec.prompt = text_type == "qwen2" ? PromptStyle::chatml_images_first : PromptStyle::vicuna;
  spec.eos_ids = read_eos(config, text, text_class, origin);
  spec.bos_id = read_bos(text, text_class, origin);
  spec.unquantized_roots = {"lm_head",
                            "language_model.lm_head",
                            "vision_tower",
                            "model.vision_tower",
                            "multi_modal_projector",
                            "model.multi_modal_projector"};
  return spec;
}

void merge_patches(const Json& config, ModelSpec& spec, const std::string& origin) {
  using nn::ProjectorOp;
  const int64_t side = read_extent(config, "spatial_merge_size", 2, 64, origin);
  spec.projector.insert(
      spec.projector.begin(),
      {ProjectorOp::norm(ProjectorOp::Kind::rms_norm, "norm", spec.decoder.norm_eps),
       ProjectorOp::unshuffle(side, ProjectorOp::Channels::channels_first),
       ProjectorOp::linear("patch_merger.merging_layer", spec.vision.width, /*bias=*/false)});
}

ImageLayout row_break_layout() {
  ImageLayout layout;
  layout.kind = ImageLayout::Kind::row_breaks;
  layout.row_break = "[IMG_BREAK]";
  layout.last_break = "[IMG_END]";
  return layout;
}

void require_whole_grid(const ModelSpec& spec, const std::string& origin, const std::string& key) {
  const nn::VisionSpec& vision = spec.vision;
  if (vision.class_token != vision.drop_class_token)
    fail("{}: '{}' does not leave one row a patch", origin, key);
}

int64_t read_anyres_limit(const std::string& rule, const std::string& key, const std::string& origin) {
  const std::string prefix = "anyres_max_";
  int64_t tiles = 0;
  const char* const end = rule.data() + rule.size();
  const bool named = rule.starts_with(prefix);
  if (!named || std::from_chars(rule.data() + prefix.size(), end, tiles).ptr != end || tiles < 1)
    fail("{}: '{}' is '{}' (anyres_max_N is supported)", origin, key, rule);
  return tiles;
}

}  // namespace visq

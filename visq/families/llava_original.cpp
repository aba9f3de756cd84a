#include <algorithm>

#include "visq/families/config.h"
#include "visq/families/llava_like.h"
#include "visq/families/projectors.h"
#include "visq/families/towers.h"

// LLaVA as its authors publish it, before conversion to Hugging Face's classes: one flat config.json, the
// tower known by the name of its repository, no preprocessor_config.json. Source:
// spec/models-llava-vila-qwen.md §3.1, §4, §5.

namespace visq {
namespace {

/// A tower that the authors' code loads from the Hub, as its files in the checkpoint are.
struct HubTower {
  const char* name;  ///< last part of mm_vision_tower
  Json vision;
};

const std::vector<HubTower>& hub_towers() {
  static const std::vector<HubTower> all = [] {
    Json clip = clip_large_336();
    clip["model_type"] = "clip_vision_model";
    Json clip_224 = clip;
    clip_224["image_size"] = 224;
    // Of 27 layers the last is never used, and not saved.
    const Json siglip = {{"model_type", "siglip_vision_model"},
                         {"hidden_size", 1152},
                         {"intermediate_size", 4304},
                         {"num_hidden_layers", 26},
                         {"num_attention_heads", 16},
                         {"image_size", 384},
                         {"patch_size", 14}};
    return std::vector<HubTower>{{"clip-vit-large-patch14-336", clip},
                                 {"clip-vit-large-patch14", clip_224},
                                 {"siglip-so400m-patch14-384", siglip}};
  }();
  return all;
}

/// By the name of the tower, or what a `vision_config` says.
const Json& vision_config(const Json& config, const std::string& origin) {
  if (config.contains("vision_config") && config.at("vision_config").is_object())
    return config.at("vision_config");
  const std::string path = require<std::string>(config, "mm_vision_tower", origin),
                    name = path.substr(path.rfind('/') + 1);
  std::string known;
  for (const HubTower& tower : hub_towers()) {
    if (name == tower.name) return tower.vision;
    known += visq::format("{}{}", known.empty() ? "" : ", ", tower.name);
  }
  fail(
      "{}: the sizes of the vision tower '{}' are not known (those of {} are): add the tower's own "
      "config.json "
      "as 'vision_config'",
      origin, path, known);
}

void read_vision(const Json& config, ModelSpec& spec, const std::string& origin) {
  const Json& vision = vision_config(config, origin);
  const auto type = require<std::string>(vision, "model_type", origin + ": vision_config");
  if (type != "clip_vision_model" && type != "siglip_vision_model")
    fail("{}: vision tower '{}' is not supported (clip_vision_model and siglip_vision_model are)", origin,
         type);
  Tower tower = read_tower(vision, type, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  if (!spec.vision.class_token) {  // the authors' SigLIP tower asks nobody: all rows of the last layer
    spec.vision.feature_layers = {-1};
    return;
  }
  spec.vision.feature_layers = {get_or<int64_t>(config, "mm_vision_select_layer", -2, origin)};
  check_feature_layers(spec.vision, "mm_vision_select_layer", origin);
  const auto feature = get_or<std::string>(config, "mm_vision_select_feature", "patch", origin);
  if (feature != "patch" && feature != "cls_patch")
    fail("{}: 'mm_vision_select_feature' is '{}' (patch and cls_patch are supported)", origin, feature);
  spec.vision.drop_class_token = feature == "patch";
}

void read_projector(const Json& config, ModelSpec& spec, const std::string& origin) {
  const auto type = get_or<std::string>(config, "mm_projector_type", "linear", origin);
  if (type == "linear") {
    spec.projector = {nn::ProjectorOp::linear("linear", spec.decoder.hidden)};
    for (const char* tensor : {"weight", "bias"})
      spec.name_rules.push_back({visq::format("model.mm_projector.{}", tensor),
                                 visq::format("model.mm_projector.linear.{}", tensor),
                                 {}});
  } else if (auto chain = mlp_gelu_projector(type, "", spec.decoder.hidden)) {
    spec.projector = *chain;
  } else {
    fail("{}: 'mm_projector_type' is '{}' (linear and mlpNx_gelu are supported)", origin, type);
  }
  const auto resampler = get_or<std::string>(config, "mm_resampler_type", "", origin);
  if (!resampler.empty()) fail("{}: 'mm_resampler_type' {} is not supported", origin, resampler);
  if (get_or<bool>(config, "mm_use_im_start_end", false, origin))
    fail("{}: 'mm_use_im_start_end' is not supported", origin);
}

/// The sizes that images are cut from, which the authors' code reads as [width, height]: a list, or its text.
Json grid_pinpoints(const Json& config, const std::string& origin) {
  Json pairs = require<Json>(config, "image_grid_pinpoints", origin);
  if (pairs.is_string()) pairs = parse_json(pairs.get<std::string>(), origin + ": image_grid_pinpoints");
  if (!pairs.is_array()) fail("{}: 'image_grid_pinpoints' is no list", origin);
  for (Json& pair : pairs) {
    if (!pair.is_array() || pair.size() != 2)
      fail("{}: 'image_grid_pinpoints' holds a size that is not [width, height]", origin);
    std::swap(pair[0], pair[1]);
  }
  return pairs;
}

/// How images become tiles, and how their rows are laid out.
void read_images(const Json& config, ModelSpec& spec, const std::string& origin) {
  const auto aspect = get_or<std::string>(config, "image_aspect_ratio", "square", origin);
  const auto merge = get_or<std::string>(config, "mm_patch_merge_type", "flat", origin);
  const bool anyres = aspect == "anyres" || aspect.starts_with("anyres_max_");
  if (!anyres && aspect != "pad" && aspect != "square")
    fail("{}: 'image_aspect_ratio' is '{}' (square, pad, anyres and anyres_max_N are supported)", origin,
         aspect);
  if (merge != "flat" && merge != "spatial_unpad" && (anyres || merge != "spatial"))
    fail("{}: 'mm_patch_merge_type' is '{}' (flat and spatial_unpad are supported)", origin, merge);

  const int64_t side = spec.vision.image_size;
  const bool clip = spec.vision.class_token;
  Json& processor = spec.image_processor;
  const char* type = aspect == "pad" ? "LlavaImageProcessor"
                     : clip          ? "CLIPImageProcessor"
                                     : "SiglipImageProcessor";
  if (anyres) type = aspect == "anyres" ? "LlavaNextImageProcessor" : "LlavaOnevisionImageProcessor";
  processor = {{"image_processor_type", type}, {"resample", 3}};
  processor["do_center_crop"] = clip;
  if (clip) {
    processor["size"] = {{"shortest_edge", side}};
    processor["crop_size"] = side;
  } else {
    processor["size"] = {{"height", side}, {"width", side}};
    processor["image_mean"] = processor["image_std"] = {0.5, 0.5, 0.5};
  }
  if (aspect == "pad") processor["do_pad"] = true;
  if (!anyres) return;
  processor["image_grid_pinpoints"] = grid_pinpoints(config, origin);
  if (merge == "flat") return;
  spec.layout.kind = ImageLayout::Kind::anyres;
  spec.layout.row_end = "model.image_newline";
  spec.layout.max_tiles = aspect == "anyres" ? 0 : read_anyres_limit(aspect, "image_aspect_ratio", origin);
  require_whole_grid(spec, origin, "mm_vision_select_feature");
}

ModelSpec describe_with(const std::string& text_type, PromptStyle prompt, const Json& config,
                        const std::string& origin) {
  const TextDefaults& text_class = text_defaults(text_type, origin);
  ModelSpec spec;
  spec.family = "llava_original";
  spec.decoder = read_decoder(config, text_class, origin);
  spec.decoder.tied_head = read_tied(config, config, origin);
  read_vision(config, spec, origin);
  read_projector(config, spec, origin);
  read_images(config, spec, origin);

  spec.name_rules.push_back({"model.vision_tower.vision_tower.vision_model.", "model.vision_tower.", {}});
  spec.decoder_prefix = "model.";
  spec.tower_prefix = "model.vision_tower.";
  spec.projector_prefix = "model.mm_projector.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.position_ids", "model.vision_tower.head.*",
                           "model.vision_tower.post_layernorm.*"};
  spec.tower_elsewhere = get_or<std::string>(config, "mm_vision_tower", "", origin);
  spec.image_token_id = kUntokenizedImage;
  spec.image_token = "<image>";
  spec.image_placeholder = "<image>\n";
  spec.layout.after = "\n";
  spec.split_at_images = spec.single_bos = spec.template_reads_text = true;
  spec.prompt = prompt;
  spec.eos_ids = read_eos(config, config, text_class, origin);
  spec.bos_id = read_bos(config, text_class, origin);
  spec.unquantized_roots = {"lm_head",      "language_model.lm_head", "model.vision_tower",
                            "vision_tower", "model.mm_projector",     "multi_modal_projector"};
  return spec;
}

/// LlavaLlamaForCausalLM, LlavaMistralForCausalLM, LlavaQwenForCausalLM.
ModelSpec describe(const Json& config, const std::string& origin) {
  const auto architecture = require<std::vector<std::string>>(config, "architectures", origin).front();
  if (architecture == "LlavaMistralForCausalLM")
    return describe_with("mistral", PromptStyle::mistral, config, origin);
  if (architecture == "LlavaQwenForCausalLM")
    return describe_with("qwen2", PromptStyle::qwen_1_5, config, origin);
  return describe_with("llama", PromptStyle::llava_v1, config, origin);
}

}  // namespace

Family llava_original_family() {
  return {
      "llava_original",
      {"LlavaLlamaForCausalLM", "LlavaMistralForCausalLM", "LlavaQwenForCausalLM"},
      "LLaVA 1.6 and OneVision in the authors' format (llama, mistral, qwen2 text; the tower in the files)",
      describe};
}

}  // namespace visq

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §1.

namespace visq {
namespace {

using nn::ProjectorOp;

/// The model's own code fixes CLIP-L/14-336; keys of img_processor may say otherwise.
Tower read_clip(const Json& config, const std::string& origin) {
  Json vision = {{"hidden_size", 1024},       {"intermediate_size", 4096}, {"num_hidden_layers", 24},
                 {"num_attention_heads", 16}, {"image_size", 336},         {"patch_size", 14}};
  const Json none = Json::object();
  const Json& given = object_or(config, "img_processor", none);
  for (const auto& [key, value] : vision.items())
    if (given.contains(key)) value = given.at(key);
  Tower tower = read_tower(vision, "clip_vision_model", origin);
  tower.spec.feature_layers = {get_or<int64_t>(given, "layer_idx", -2, origin)};
  tower.spec.drop_class_token = get_or<std::string>(given, "type_feature", "patch", origin) == "patch";
  return tower;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const TextDefaults& text = text_defaults("phi3", origin);
  ModelSpec spec;
  spec.family = "phi3_v";
  spec.decoder = read_decoder(config, text, origin);
  spec.decoder.tied_head = read_tied(config, config, origin);
  Tower tower = read_clip(config, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  const Json none = Json::object();
  const auto order =
      get_or<std::string>(object_or(config, "embd_layer", none), "hd_transform_order", "sub_glb", origin);
  if (order != "sub_glb") fail("{}: 'hd_transform_order' is '{}' (sub_glb is supported)", origin, order);

  spec.projector = {ProjectorOp::unshuffle(2)};
  spec.packed_projector = {ProjectorOp::linear("img_projection.0", spec.decoder.hidden),
                           ProjectorOp::activation(nn::Activation::gelu),
                           ProjectorOp::linear("img_projection.2", spec.decoder.hidden)};
  spec.layout.kind = ImageLayout::Kind::hd;
  spec.layout.row_end = "model.vision_embed_tokens.sub_GN";
  spec.layout.separator = "model.vision_embed_tokens.glb_GN";

  spec.decoder_prefix = "model.";
  spec.tower_prefix = "model.vision_embed_tokens.img_processor.vision_model.";
  spec.projector_prefix = "model.vision_embed_tokens.";
  spec.ignored_patterns = {"*.position_ids", "*.post_layernorm.*", "model.vision_embed_tokens.wte.weight"};
  spec.image_token_id = 32044;
  spec.image_token = "<|image|>";
  spec.image_placeholder = "<|image_{n}|>";
  spec.split_at_images = spec.template_reads_text = true;
  spec.eos_ids = read_eos(config, config, text, origin);
  spec.bos_id = get_or<int64_t>(config, "bos_token_id", 1, origin);
  spec.unquantized_roots = {"lm_head", "model.vision_embed_tokens"};
  return spec;
}

}  // namespace

Family phi3_v_family() {
  return {"phi3_v", {"Phi3VForCausalLM"}, "Phi-3-vision, Phi-3.5-vision", describe, Reference::rewritten};
}

}  // namespace visq

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §3.

namespace visq {
namespace {

using nn::ProjectorOp;

Tower read_siglip(const Json& config, const std::string& origin) {
  Json vision = {{"hidden_size", 1152},       {"intermediate_size", 4304}, {"num_hidden_layers", 27},
                 {"num_attention_heads", 16}, {"image_size", 448},         {"patch_size", 14}};
  const Json none = Json::object();
  const Json& given = object_or(config, "vision_config", none);
  for (const auto& [key, value] : given.items())
    if (key != "model_type") vision[key] = value;
  Tower tower = read_tower(vision, "siglip_vision_model", origin);
  tower.spec.positions = nn::VisionPositions::stretched;
  tower.spec.feature_layers = {get_or<int64_t>(given, "feature_layer", -2, origin)};
  return tower;
}

ModelSpec describe_native(const Json& config, const std::string& origin) {
  const TextDefaults& text = text_defaults("phi4_multimodal", origin);
  const Json none = Json::object();
  ModelSpec spec;
  spec.family = "phi4_multimodal";
  spec.decoder = read_decoder(config, text, origin);
  spec.decoder.tied_head = read_tied(config, config, origin);
  Tower tower = read_siglip(config, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);

  const std::string images = "model.embed_tokens_extend.image_embed.";
  spec.projector = {ProjectorOp::average_pool(2)};
  spec.packed_projector = {ProjectorOp::linear("img_projection_up", spec.decoder.hidden),
                           ProjectorOp::activation(nn::Activation::gelu),
                           ProjectorOp::linear("img_projection_down", spec.decoder.hidden)};
  spec.layout.kind = ImageLayout::Kind::hd;
  spec.layout.row_end = images + "sub_img_feature_extensor";
  spec.layout.separator = images + "global_img_feature_extensor";

  spec.decoder_prefix = "model.";
  spec.tower_prefix = images + "img_processor.";
  spec.projector_prefix = images;
  spec.ignored_patterns = {"model.embed_tokens_extend.audio_embed.*", "*.post_layernorm.*", "*.head.*"};
  spec.image_token_id =
      get_or<int64_t>(object_or(config, "vision_config", none), "image_token_id", 200010, origin);
  spec.image_token = "<|endoftext10|>";
  spec.template_reads_text = true;
  spec.eos_ids = read_eos(config, config, text, origin);
  spec.bos_id = get_or<int64_t>(config, "bos_token_id", 199999, origin);
  spec.unquantized_roots = {"lm_head", "model.embed_tokens_extend"};
  return spec;
}

AdapterSpec read_adapter(const Json& config, const std::string& name, const std::string& origin) {
  const Json none = Json::object();
  const Json& given = object_or(config, name + "_lora", none);
  AdapterSpec adapter{name, read_extent(given, "r", name == "vision" ? 256 : 320, 1 << 16, origin), 1, false};
  const double alpha = get_or<double>(given, "lora_alpha", 2.0 * static_cast<double>(adapter.rank), origin);
  adapter.scale = alpha / static_cast<double>(adapter.rank);
  return adapter;
}

/// The layout of the checkpoint's own code: other names, a tower that config.json does not describe, and
/// adapters, of which one serves all tokens of a sample with images.
ModelSpec describe_hub(const Json& config, const std::string& origin) {
  ModelSpec spec = describe_native(config, origin);
  spec.family = "phi4mm";
  spec.adapters = {read_adapter(config, "vision", origin), read_adapter(config, "speech", origin)};
  spec.adapters.front().for_images = true;
  spec.name_rules = {{".base_layer.", ".", {}},
                     {".image_embed.glb_GN", ".image_embed.global_img_feature_extensor", {}},
                     {".image_embed.sub_GN", ".image_embed.sub_img_feature_extensor", {}},
                     {".image_embed.img_projection.0.", ".image_embed.img_projection_up.", {}},
                     {".image_embed.img_projection.2.", ".image_embed.img_projection_down.", {}}};
  spec.image_placeholder = "<|image_{n}|>";
  spec.unquantized_roots.emplace_back("*.lora_A");
  spec.unquantized_roots.emplace_back("*.lora_B");
  return spec;
}

}  // namespace

Family phi4_multimodal_family() {
  return {"phi4_multimodal",
          {"Phi4MultimodalForCausalLM"},
          "Phi-4-multimodal in transformers' layout",
          describe_native};
}

Family phi4mm_family() {
  return {"phi4mm",
          {"Phi4MMForCausalLM"},
          "Phi-4-multimodal in the hub's layout, vision and speech adapters kept",
          describe_hub};
}

}  // namespace visq

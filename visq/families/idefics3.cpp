#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §5.1.

namespace visq {
namespace {

using nn::ProjectorOp;

Tower read_siglip(const Json& config, const std::string& origin) {
  Json vision = {{"hidden_size", 1152},       {"intermediate_size", 3072}, {"num_hidden_layers", 12},
                 {"num_attention_heads", 16}, {"image_size", 224},         {"patch_size", 32}};
  const Json none = Json::object();
  for (const auto& [key, value] : object_or(config, "vision_config", none).items())
    if (key != "model_type") vision[key] = value;
  Tower tower = read_tower(vision, "siglip_vision_model", origin);
  tower.spec.positions = nn::VisionPositions::stretched;
  tower.spec.post_norm = true;
  return tower;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& text = object_or(config, "text_config", none);
  const TextDefaults& text_class =
      text_defaults(get_or<std::string>(text, "model_type", "llama", origin), origin);

  ModelSpec spec;
  spec.family = "idefics3";
  spec.decoder = read_decoder(text, text_class, origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  Tower tower = read_siglip(config, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  spec.projector = {ProjectorOp::unshuffle(read_extent(config, "scale_factor", 2, 64, origin)),
                    ProjectorOp::linear("modality_projection.proj", spec.decoder.hidden, /*bias=*/false)};

  spec.decoder_prefix = "model.text_model.";
  spec.tower_prefix = "model.vision_model.";
  spec.projector_prefix = "model.connector.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq"};
  spec.image_token_id = get_or<int64_t>(config, "image_token_id", 128257, origin);
  spec.image_token = "<image>";
  spec.layout.kind = ImageLayout::Kind::tagged;
  spec.layout.tile_tag = "<fake_token_around_image><row_{row}_col_{column}>";
  spec.layout.global_tag = "<fake_token_around_image><global-img>";
  spec.layout.line_end = spec.layout.tiles_end = "\n";
  spec.layout.after = "<fake_token_around_image>";
  spec.eos_ids = read_eos(config, text, text_class, origin);
  spec.bos_id = read_bos(text, text_class, origin);
  spec.unquantized_roots = {"lm_head", "model.vision_model", "model.connector"};
  return spec;
}

}  // namespace

Family idefics3_family() {
  return {"idefics3",
          {"Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"},
          "Idefics3, SmolVLM, SmolVLM2",
          describe};
}

}  // namespace visq

#include "visq/families/llava.h"

#include "visq/families/config.h"

// Source: spec/models-llava-vila-qwen.md §1.1–1.3, §2, §3.

namespace visq {
namespace {

const TowerNames kTowerNames{.patch = "embeddings.patch_embedding",
                             .class_embedding = "embeddings.class_embedding",
                             .position_table = "embeddings.position_embedding.weight",
                             .pre_norm = "pre_layrnorm",  // misspelt in the checkpoints
                             .blocks = "encoder.layers.",
                             .norm1 = "layer_norm1",
                             .norm2 = "layer_norm2",
                             .q = "self_attn.q_proj",
                             .k = "self_attn.k_proj",
                             .v = "self_attn.v_proj",
                             .out = "self_attn.out_proj",
                             .fc1 = "mlp.fc1",
                             .fc2 = "mlp.fc2"};

nn::VisionSpec read_tower(const Json& config, const std::string& origin) {
  // Without vision_config the class builds CLIP-L/336; a partial one falls back to CLIP-B/32 or SigLIP-B/16.
  const bool given = config.contains("vision_config") && config.at("vision_config").is_object();
  const Json absent = {{"hidden_size", 1024},       {"intermediate_size", 4096}, {"num_hidden_layers", 24},
                       {"num_attention_heads", 16}, {"image_size", 336},         {"patch_size", 14}};
  const Json& vision = given ? config.at("vision_config") : absent;
  const auto type = get_or<std::string>(vision, "model_type", "clip_vision_model", origin);
  const bool clip = type == "clip_vision_model";
  if (!clip && type != "siglip_vision_model")
    fail("{}: vision tower '{}' is not supported (clip_vision_model and siglip_vision_model are)", origin,
         type);

  nn::VisionSpec spec;
  spec.layers = read_extent(vision, "num_hidden_layers", 12, 1024, origin);
  spec.width = read_extent(vision, "hidden_size", 768, 1 << 20, origin);
  spec.mlp_width = read_extent(vision, "intermediate_size", 3072, 1 << 20, origin);
  spec.heads = read_extent(vision, "num_attention_heads", 12, 1 << 20, origin);
  spec.patch = read_extent(vision, "patch_size", clip ? 32 : 16, 1024, origin);
  spec.image_size = read_extent(vision, "image_size", 224, 1 << 14, origin);
  spec.norm_eps = get_or<double>(vision, "layer_norm_eps", clip ? 1e-5 : 1e-6, origin);
  const auto act =
      get_or<std::string>(vision, "hidden_act", clip ? "quick_gelu" : "gelu_pytorch_tanh", origin);
  spec.activation = nn::parse_activation(act, origin);
  spec.class_token = spec.pre_norm = clip;
  spec.patch_bias = !clip;
  if (get_or<int64_t>(vision, "num_channels", 3, origin) != 3) fail("{}: 'num_channels' is not 3", origin);
  if (spec.width % spec.heads != 0)
    fail("{}: tower width {} is no multiple of its {} heads", origin, spec.width, spec.heads);
  return spec;
}

void read_selection(const Json& config, nn::VisionSpec& spec, const std::string& origin) {
  spec.feature_layers = read_integers(config, "vision_feature_layer", origin);
  if (spec.feature_layers.empty()) spec.feature_layers = {-2};
  for (const int64_t layer : spec.feature_layers)
    if (layer > spec.layers || layer < -spec.layers - 1)
      fail("{}: 'vision_feature_layer' {} does not exist: the tower has {} layers", origin, layer,
           spec.layers);
  const auto strategy = get_or<std::string>(config, "vision_feature_select_strategy", "default", origin);
  if (strategy != "default" && strategy != "full")
    fail("{}: 'vision_feature_select_strategy' is '{}' (default and full are supported)", origin, strategy);
  spec.drop_class_token = strategy == "default";  // the first token, whatever it is: so the reference
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const bool given = config.contains("text_config") && config.at("text_config").is_object();
  const Json& text = given ? config.at("text_config") : none;
  const auto text_type = get_or<std::string>(text, "model_type", "llama", origin);
  const TextDefaults& defaults = text_defaults(text_type, origin);

  ModelSpec spec;
  spec.family = "llava";
  spec.decoder = read_decoder(text, defaults, origin);
  if (!spec.decoder.rope.mrope_section.empty()) fail("{}: 'mrope_section' does not belong to LLaVA", origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  spec.vision = read_tower(config, origin);
  read_selection(config, spec.vision, origin);
  const bool bias = get_or<bool>(config, "multimodal_projector_bias", true, origin);
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
  spec.tower_names = kTowerNames;
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.position_ids", "model.vision_tower.head.*",
                           "model.vision_tower.post_layernorm.*", "model.image_newline"};

  spec.image_token_id = get_or<int64_t>(config, "image_token_index",
                                        get_or<int64_t>(config, "image_token_id", 32000, origin), origin);
  spec.image_token = "<image>";
  spec.prompt = text_type == "qwen2" ? PromptStyle::chatml_images_first : PromptStyle::vicuna;
  spec.eos_ids = read_eos(config, text, defaults, origin);
  spec.bos_id = defaults.bos;
  if (const auto bos = read_integers(text, "bos_token_id", origin); !bos.empty()) spec.bos_id = bos.front();
  spec.unquantized_roots = {"lm_head",
                            "language_model.lm_head",
                            "vision_tower",
                            "model.vision_tower",
                            "multi_modal_projector",
                            "model.multi_modal_projector"};
  return spec;
}

}  // namespace

Family llava_family() {
  return {"llava",
          {"LlavaForConditionalGeneration"},
          "LLaVA 1.5 and its kin (llama, mistral, qwen2 text; CLIP, SigLIP towers)",
          describe};
}

}  // namespace visq

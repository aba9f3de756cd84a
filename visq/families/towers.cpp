#include "visq/families/towers.h"

#include "visq/families/config.h"

// Source: spec/models-llava-vila-qwen.md §1.2, §2, §10; spec/models-phi-gemma.md §0.2, §5.3.

namespace visq {
namespace {

const TowerNames kClipNames{.patch = "embeddings.patch_embedding",
                            .class_embedding = "embeddings.class_embedding",
                            .position_table = "embeddings.position_embedding.weight",
                            .pre_norm = "pre_layrnorm",  // misspelt in the checkpoints
                            .post_norm = "post_layernorm",
                            .blocks = "encoder.layers.",
                            .norm1 = "layer_norm1",
                            .norm2 = "layer_norm2",
                            .q = "self_attn.q_proj",
                            .k = "self_attn.k_proj",
                            .v = "self_attn.v_proj",
                            .out = "self_attn.out_proj",
                            .fc1 = "mlp.fc1",
                            .fc2 = "mlp.fc2"};

const TowerNames kInternNames{.patch = "embeddings.patch_embeddings.projection",
                              .class_embedding = "embeddings.cls_token",
                              .position_table = "embeddings.position_embeddings",
                              .post_norm = "layernorm",
                              .blocks = "encoder.layer.",
                              .norm1 = "layernorm_before",
                              .norm2 = "layernorm_after",
                              .q = "attention.q_proj",
                              .k = "attention.k_proj",
                              .v = "attention.v_proj",
                              .q_norm = "attention.q_norm",
                              .k_norm = "attention.k_norm",
                              .out = "attention.projection_layer",
                              .fc1 = "mlp.fc1",
                              .fc2 = "mlp.fc2",
                              .scale1 = "lambda_1",
                              .scale2 = "lambda_2"};

/// InternViT as its authors spell it.
const TowerNames kInternOriginalNames{.patch = "embeddings.patch_embedding",
                                      .class_embedding = "embeddings.class_embedding",
                                      .position_table = "embeddings.position_embedding",
                                      .blocks = "encoder.layers.",
                                      .norm1 = "norm1",
                                      .norm2 = "norm2",
                                      .qkv = "attn.qkv",
                                      .q_norm = "attn.q_norm",
                                      .k_norm = "attn.k_norm",
                                      .out = "attn.proj",
                                      .fc1 = "mlp.fc1",
                                      .fc2 = "mlp.fc2",
                                      .scale1 = "ls1",
                                      .scale2 = "ls2"};

const TowerNames kPixtralNames{.patch = "patch_conv",
                               .pre_norm = "ln_pre",
                               .blocks = "transformer.layers.",
                               .norm1 = "attention_norm",
                               .norm2 = "ffn_norm",
                               .q = "attention.q_proj",
                               .k = "attention.k_proj",
                               .v = "attention.v_proj",
                               .out = "attention.o_proj",
                               .gate = "feed_forward.gate_proj",
                               .up = "feed_forward.up_proj",
                               .down = "feed_forward.down_proj"};

/// What a class assumes where vision_config is silent.
struct Defaults {
  int64_t width, mlp_width, layers, heads, image_size, patch;
  double eps;
  const char* activation;
};
constexpr Defaults kClip{768, 3072, 12, 12, 224, 32, 1e-5, "quick_gelu"};
constexpr Defaults kSiglip{768, 3072, 12, 12, 224, 16, 1e-6, "gelu_pytorch_tanh"};
constexpr Defaults kIntern{1024, 4096, 24, 16, 448, 14, 1e-6, "gelu"};
constexpr Defaults kIntern6B{3200, 12800, 48, 25, 224, 14, 1e-6, "gelu"};
constexpr Defaults kPixtral{1024, 4096, 24, 16, 1024, 16, 1e-5, "gelu"};

nn::VisionSpec read_sizes(const Json& vision, const Defaults& defaults, const std::string& origin) {
  nn::VisionSpec spec;
  spec.layers = read_extent(vision, "num_hidden_layers", defaults.layers, 1024, origin);
  spec.width = read_extent(vision, "hidden_size", defaults.width, 1 << 20, origin);
  spec.mlp_width = read_extent(vision, "intermediate_size", defaults.mlp_width, 1 << 20, origin);
  spec.heads = read_extent(vision, "num_attention_heads", defaults.heads, 1 << 20, origin);
  spec.patch = read_extent(vision, "patch_size", defaults.patch, 1024, origin);
  spec.image_size = read_extent(vision, "image_size", defaults.image_size, 1 << 14, origin);
  spec.norm_eps = get_or<double>(vision, "layer_norm_eps", defaults.eps, origin);
  const auto act = get_or<std::string>(vision, "hidden_act", defaults.activation, origin);
  spec.activation = nn::parse_activation(act, origin);
  if (get_or<int64_t>(vision, "num_channels", 3, origin) != 3) fail("{}: 'num_channels' is not 3", origin);
  if (spec.width % spec.heads != 0)
    fail("{}: tower width {} is no multiple of its {} heads", origin, spec.width, spec.heads);
  return spec;
}

Tower read_intern(const Json& vision, const std::string& origin) {
  Tower tower{read_sizes(vision, kIntern, origin), kInternNames};
  nn::VisionSpec& spec = tower.spec;
  spec.class_token = spec.patch_bias = spec.layer_scale = true;
  spec.qkv_bias = get_or<bool>(vision, "attention_bias", false, origin);
  spec.qk_norm = get_or<bool>(vision, "use_qk_norm", false, origin);
  spec.post_norm = !get_or<bool>(vision, "use_mean_pooling", true, origin);
  const auto norm = get_or<std::string>(vision, "norm_type", "layer_norm", origin);
  if (norm != "layer_norm" && norm != "rms_norm")
    fail("{}: 'norm_type' is '{}' (layer_norm and rms_norm are supported)", origin, norm);
  spec.rms_norm = norm == "rms_norm";
  if (!get_or<bool>(vision, "use_absolute_position_embeddings", true, origin))
    spec.positions = nn::VisionPositions::none;
  return tower;
}

/// By the authors' keys. Its norms were RMS only when VILA took it; InternVL's later towers have other ones.
Tower read_intern_original(const Json& vision, const std::string& origin) {
  Tower tower{read_sizes(vision, kIntern6B, origin), kInternOriginalNames};
  nn::VisionSpec& spec = tower.spec;
  if (const auto norm = get_or<std::string>(vision, "norm_type", "rms_norm", origin); norm != "rms_norm")
    fail("{}: 'norm_type' is '{}' (rms_norm is supported)", origin, norm);
  spec.class_token = spec.patch_bias = spec.layer_scale = spec.rms_norm = spec.fused_qkv = true;
  spec.qkv_bias = get_or<bool>(vision, "qkv_bias", false, origin);
  spec.qk_norm = get_or<bool>(vision, "qk_normalization", true, origin);
  spec.qk_norm_eps = spec.norm_eps;
  return tower;
}

Tower read_pixtral(const Json& vision, const std::string& origin) {
  Tower tower{read_sizes(vision, kPixtral, origin), kPixtralNames};
  nn::VisionSpec& spec = tower.spec;
  spec.input = nn::VisionInput::images;
  spec.positions = nn::VisionPositions::none;
  read_tower_rope(vision, nn::VisionRope::alternating, spec, origin);
  spec.norm_eps = 1e-5;  // fixed in the reference
  spec.pre_norm = spec.rms_norm = spec.gated_mlp = true;
  spec.qkv_bias = spec.out_bias = spec.mlp_bias = false;
  return tower;
}

}  // namespace

Tower read_tower(const Json& vision, const std::string& otherwise, const std::string& origin) {
  const auto type = get_or<std::string>(vision, "model_type", otherwise, origin);
  if (type == "internvl_vision") return read_intern(vision, origin);
  if (type == "intern_vit_6b") return read_intern_original(vision, origin);
  if (type == "pixtral") return read_pixtral(vision, origin);
  const bool clip = type == "clip_vision_model";
  if (!clip && type != "siglip_vision_model")
    fail(
        "{}: vision tower '{}' is not supported (clip_vision_model, siglip_vision_model, internvl_vision, "
        "intern_vit_6b and pixtral are)",
        origin, type);
  Tower tower{read_sizes(vision, clip ? kClip : kSiglip, origin), kClipNames};
  tower.spec.class_token = tower.spec.pre_norm = clip;
  tower.spec.patch_bias = !clip;
  return tower;
}

void read_tower_rope(const Json& vision, nn::VisionRope rope, nn::VisionSpec& spec,
                     const std::string& origin) {
  const Json none = Json::object();
  spec.rope = rope;
  spec.rope_theta = get_or<double>(object_or(vision, "rope_parameters", none), "rope_theta",
                                   get_or<double>(vision, "rope_theta", 1e4, origin), origin);
  if (!(spec.rope_theta > 0)) fail("{}: the tower's 'rope_theta' must be positive", origin);
  if (spec.width % (4 * spec.heads) != 0)
    fail("{}: tower width {} does not split into {} heads of a multiple of 4", origin, spec.width,
         spec.heads);
}

void check_feature_layers(const nn::VisionSpec& spec, const std::string& key, const std::string& origin) {
  for (const int64_t layer : spec.feature_layers)
    if (layer > spec.layers || layer < -spec.layers - 1)
      fail("{}: '{}' {} does not exist: the tower has {} layers", origin, key, layer, spec.layers);
}

}  // namespace visq

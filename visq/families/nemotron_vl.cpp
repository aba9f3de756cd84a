#include <cmath>
#include <set>

#include "visq/families/config.h"
#include "visq/families/towers.h"

// Source: spec/models-phi-gemma.md §5.6.

namespace visq {
namespace {

using nn::ProjectorOp;

const TowerNames kRadioNames{.patch = "model.patch_generator.embedder",
                             .patch_is_linear = true,
                             .class_embedding = "model.patch_generator.cls_token.token",
                             .position_table = "model.patch_generator.pos_embed",
                             .post_norm = "model.norm",
                             .blocks = "model.blocks.",
                             .norm1 = "norm1",
                             .norm2 = "norm2",
                             .qkv = "attn.qkv",
                             .out = "attn.proj",
                             .fc1 = "mlp.fc1",
                             .fc2 = "mlp.fc2",
                             .pixel_mean = "input_conditioner.norm_mean",
                             .pixel_std = "input_conditioner.norm_std"};

/// Sizes of the vision transformers that timm names.
struct Size {
  const char* name;
  int64_t width, layers, heads;
};
constexpr Size kSizes[] = {{"vit_tiny_patch", 192, 12, 3},
                           {"vit_small_patch", 384, 12, 6},
                           {"vit_base_patch", 768, 12, 12},
                           {"vit_large_patch", 1024, 24, 16},
                           {"vit_huge_patch", 1280, 32, 16}};

const Size& size_of(const std::string& model, const std::string& origin) {
  for (const Size& size : kSizes)
    if (model.starts_with(size.name)) return size;
  fail(
      "{}: the tower's 'model' is '{}' (vit_tiny, vit_small, vit_base, vit_large and vit_huge are supported)",
      origin, model);
}

/// Of the tower's class: what it can be besides the plain one.
void refuse_other_towers(const Json& vision, const Json& args, const Json& changes,
                         const std::string& origin) {
  const auto is_set = [](const Json& object, const char* key) {
    return object.contains(key) && !object.at(key).is_null() && object.at(key) != false;
  };
  for (const char* const key : {"adaptor_names", "vitdet_window_size", "feature_normalizer_config",
                                "inter_feature_normalizer_config"})
    if (is_set(vision, key)) fail("{}: 'vision_config.{}' is not supported", origin, key);
  if (is_set(args, "spectral_reparam"))
    fail("{}: 'spectral_reparam' is set: weights in that form are not supported", origin);
  for (const char* const key :
       {"init_values", "qk_norm", "qkv_bias", "pre_norm", "act_layer", "norm_layer", "mlp_layer", "block_fn"})
    if (changes.contains(key)) fail("{}: 'model_kwargs.{}' is not supported", origin, key);
}

/// Class tokens and the registers that fill them up.
int64_t prefix_tokens(const Json& args, const std::string& origin) {
  int64_t tokens = 1;
  if (get_or<bool>(args, "cls_token_per_teacher", true, origin)) {
    std::set<std::string> teachers;
    for (const Json& teacher : get_or<std::vector<Json>>(args, "teachers", {}, origin))
      teachers.insert(require<std::string>(teacher, "name", origin + ": teachers"));
    tokens = static_cast<int64_t>(teachers.size());
  }
  if (const auto registers = get_or<int64_t>(args, "cpe_num_registers", 0, origin); registers > 0)
    return tokens + std::min<int64_t>(registers, 1 << 16);
  const auto multiple = get_or<int64_t>(args, "register_multiple", 0, origin);
  if (multiple > 1 << 16) fail("{}: 'register_multiple' is {}", origin, multiple);
  return multiple > 0 ? tokens + multiple - tokens % multiple : tokens;
}

nn::VisionSpec read_radio(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& vision = object_or(config, "vision_config", none);
  const Json& args = object_or(vision, "args", none);
  const Json& changes = object_or(args, "model_kwargs", none);
  const std::string name = origin + ": vision_config.args";
  refuse_other_towers(vision, args, changes, origin);
  const Size& size = size_of(require<std::string>(args, "model", name), name);
  nn::VisionSpec spec;
  spec.width = read_extent(changes, "embed_dim", size.width, 1 << 20, name);
  spec.layers = read_extent(changes, "depth", size.layers, 1024, name);
  spec.heads = read_extent(changes, "num_heads", size.heads, 1 << 20, name);
  if (spec.width % spec.heads != 0)
    fail("{}: tower width {} is no multiple of its {} heads", name, spec.width, spec.heads);
  const auto ratio = get_or<double>(changes, "mlp_ratio", 4, name);
  if (!(ratio > 0 && ratio < 1024)) fail("{}: 'mlp_ratio' is {}", name, ratio);
  spec.mlp_width = static_cast<int64_t>(static_cast<double>(spec.width) * ratio);
  spec.patch = read_extent(vision, "patch_size", 16, 1024, origin);
  spec.image_size = read_extent(config, "force_image_size", 512, 1 << 14, origin);
  spec.norm_eps = 1e-6;
  spec.activation = nn::Activation::gelu;
  spec.normalizes = spec.fused_qkv = spec.class_token = spec.drop_class_token = true;
  spec.class_tokens = prefix_tokens(args, name);
  spec.post_norm = get_or<bool>(args, "model_norm", false, name);
  spec.positions = nn::VisionPositions::resampled;
  const auto largest = require<double>(args, "cpe_max_size", name);
  const double side = std::round(largest / static_cast<double>(spec.patch));
  if (!(side >= 1 && side <= 4096)) fail("{}: 'cpe_max_size' is {}", name, largest);
  spec.position_rows = static_cast<int64_t>(side * side);
  return spec;
}

/// Version 1 of the pixel shuffle leaves rows and columns of the cells exchanged.
ProjectorOp read_shuffle(const Json& config, const nn::VisionSpec& vision, const std::string& origin) {
  const auto version = get_or<std::string>(config, "ps_version", "v1", origin);
  if (version != "v1" && version != "v2")
    fail("{}: 'ps_version' is '{}' (v1 and v2 are supported)", origin, version);
  const auto ratio = get_or<double>(config, "downsample_ratio", 0.5, origin);
  if (!(ratio > 0.01 && ratio <= 1)) fail("{}: 'downsample_ratio' {} is outside 0.01..1", origin, ratio);
  const auto side = static_cast<int64_t>(1 / ratio);
  const int64_t patches = vision.image_size / vision.patch;
  if (patches % side != 0 || patches == 0)
    fail("{}: {} patches a side do not divide by {} ('downsample_ratio' {})", origin, patches, side, ratio);
  return ProjectorOp::unshuffle(side, ProjectorOp::Channels::cells_first,
                                version == "v1" ? ProjectorOp::Order::columns : ProjectorOp::Order::rows);
}

ModelSpec describe(const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& text = object_or(config, "llm_config", none);
  const auto text_type = get_or<std::string>(text, "model_type", "llama", origin);
  if (text_type != "llama") fail("{}: text model '{}' is not supported (llama is)", origin, text_type);
  const auto tags = get_or<std::string>(config, "image_tag_type", "internvl", origin);
  if (tags != "internvl") fail("{}: 'image_tag_type' is '{}' (internvl is supported)", origin, tags);
  const TextDefaults& text_class = text_defaults(text_type, origin);

  ModelSpec spec;
  spec.family = "nemotron_vl";
  spec.decoder = read_decoder(text, text_class, origin);
  spec.decoder.tied_head = read_tied(text, text, origin);
  spec.vision = read_radio(config, origin);
  spec.tower_names = kRadioNames;
  const int64_t between = read_extent(config, "projector_hidden_size", 4096, 1 << 20, origin);
  spec.projector = {read_shuffle(config, spec.vision, origin),
                    ProjectorOp::norm(ProjectorOp::Kind::layer_norm, "0", 1e-5),
                    ProjectorOp::linear("1", between), ProjectorOp::activation(nn::Activation::gelu),
                    ProjectorOp::linear("3", spec.decoder.hidden)};

  spec.name_rules = {{"language_model.lm_head.", "lm_head.", {}}};
  spec.decoder_prefix = "language_model.model.";
  spec.tower_prefix = "vision_model.radio_model.";
  spec.projector_prefix = "mlp1.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "vision_model.radio_model.summary_idxs"};
  spec.image_token = "<image>";
  spec.tokenizer_knows_image = true;
  spec.layout.before = "<img>";
  spec.layout.after = "</img>";
  spec.template_reads_text = spec.whole_prompt = true;
  spec.behind_placeholder = "\n";
  spec.prompt = PromptStyle::template_only;
  spec.eos_ids = read_eos(config, text, text_class, origin);
  spec.bos_id = read_bos(text, text_class, origin);
  spec.unquantized_roots = {"lm_head", "language_model.lm_head", "vision_model", "mlp1"};
  return spec;
}

}  // namespace

Family nemotron_vl_family() {
  return {"nemotron_vl",
          {"Llama_Nemotron_Nano_VL"},
          "Llama-3.1-Nemotron-Nano-VL (llama text, RADIO tower)",
          describe,
          Reference::rewritten};
}

}  // namespace visq

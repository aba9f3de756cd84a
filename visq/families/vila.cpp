#include <filesystem>
#include <sstream>

#include "visq/families/config.h"
#include "visq/families/llava_like.h"
#include "visq/families/projectors.h"
#include "visq/families/towers.h"
#include "visq/inputs/image_processor_config.h"

// Source: spec/models-llava-vila-qwen.md §1.3, §6; spec/inputs.md §7.11.

namespace visq {
namespace {

using nn::ProjectorOp;

/// A folder's config.json, which Checkpoint has put under the root's `key`.
struct Part {
  const Json& config;
  std::string origin;
};

Part part_of(const Json& root, const std::string& key, const char* folder, const std::string& origin) {
  if (!root.contains(key) || !root.at(key).is_object())
    fail("{}: '{}' is missing: the checkpoint is not one of three folders", origin, key);
  const std::filesystem::path directory = std::filesystem::path(origin).parent_path();
  return {root.at(key), (directory / folder / "config.json").string()};
}

void refuse_what_is_not_supported(const Json& config, const std::string& origin) {
  if (get_or<bool>(config, "ps3", false, origin))
    fail("{}: 'ps3' is true: towers that choose patches of high resolution by the prompt are not supported",
         origin);
  const auto chat = get_or<std::string>(config, "chat_template", "qwen2", origin);
  if (chat != "qwen2") fail("{}: 'chat_template' is '{}' (qwen2 is supported)", origin, chat);
}

/// VILA 1.5 and NVILA share architecture and projector types, but not the code that reads them. NVILA's
/// configurations have keys that the older ones do not know, and newer versions.
bool is_vila_1_5(const Json& config, const std::string& origin) {
  for (const char* key : {"dynamic_s2", "fps", "num_time_tokens"})
    if (config.contains(key)) return false;
  int major = 0, minor = 0;
  char dot = 0;
  std::istringstream version(get_or<std::string>(config, "transformers_version", "", origin));
  version >> major >> dot >> minor;
  return std::pair(major, minor) < std::pair(4, 46);
}

/// How the rows of `mlp_downsample` follow: VILA 1.5 went through the grid column by column. Nothing in the
/// files tells; "mm_projector_token_order" in config.json is visq's own key, for users who know better.
ProjectorOp::Order token_order(const Json& config, bool vila_1_5, const std::string& origin) {
  const auto order =
      get_or<std::string>(config, "mm_projector_token_order", vila_1_5 ? "columns" : "rows", origin);
  if (order != "rows" && order != "columns")
    fail("{}: 'mm_projector_token_order' is '{}': choose rows or columns", origin, order);
  return order == "rows" ? ProjectorOp::Order::rows : ProjectorOp::Order::columns;
}

/// side × side cells become one, then norm, linear and activation for each width, and a last linear.
nn::ProjectorSpec downsample(int64_t side, ProjectorOp::Order order, const std::vector<int64_t>& widths) {
  nn::ProjectorSpec chain = {ProjectorOp::unshuffle(side, ProjectorOp::Channels::cells_first, order)};
  const auto name = [&] { return "layers." + std::to_string(chain.size()); };
  for (const int64_t width : widths) {
    chain.push_back(ProjectorOp::norm(ProjectorOp::Kind::layer_norm, name(), 1e-5));
    chain.push_back(ProjectorOp::linear(name(), width));
    chain.push_back(ProjectorOp::activation(nn::Activation::gelu));
  }
  chain.push_back(ProjectorOp::linear(name(), widths.back()));
  return chain;
}

/// @param channels  of the tower, all scales together
nn::ProjectorSpec read_projector(const Part& projector, int64_t channels, int64_t hidden,
                                 ProjectorOp::Order order) {
  const auto type = require<std::string>(projector.config, "mm_projector_type", projector.origin);
  constexpr auto kRows = ProjectorOp::Order::rows;
  if (type == "identity") return {};
  if (type == "linear") return {ProjectorOp::linear("layers", hidden)};
  if (type == "mlp_downsample") return downsample(2, order, {hidden});
  if (type == "mlp_downsample_2x2_fix") return downsample(2, kRows, {hidden});
  if (type == "mlp_downsample_3x3_fix") return downsample(3, kRows, {3 * channels, hidden});
  if (type == "mlp_downsample_3x3_s2")
    return downsample(3, kRows, {3 * channels, channels, channels / 3, hidden});
  if (type == "mlp_downsample_3x3_s2_new")
    return downsample(3, kRows, {4 * channels, 2 * channels, channels, channels / 3, hidden});
  if (auto chain = mlp_gelu_projector(type, "layers.", hidden)) return *chain;
  fail(
      "{}: 'mm_projector_type' is '{}' (identity, linear, mlpNx_gelu, mlp_downsample and its kinds 2x2_fix, "
      "3x3_fix, 3x3_s2 and 3x3_s2_new are supported)",
      projector.origin, type);
}

void read_vision(const Json& config, ModelSpec& spec, const std::string& origin) {
  const Part vision = part_of(config, "vision_tower_cfg", "vision_tower", origin);
  const auto type = get_or<std::string>(vision.config, "model_type", "siglip_vision_model", vision.origin);
  if (type != "siglip_vision_model" && type != "clip_vision_model" && type != kVilaInternTower)
    fail("{}: vision tower '{}' is not supported (siglip_vision_model, clip_vision_model and {} are)",
         vision.origin, type, kVilaInternTower);
  Tower tower = read_tower(vision.config, type, vision.origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  spec.vision.feature_layers = {get_or<int64_t>(config, "mm_vision_select_layer", -2, origin)};
  check_feature_layers(spec.vision, "mm_vision_select_layer", origin);
  const auto feature = get_or<std::string>(config, "mm_vision_select_feature", "patch", origin);
  if (feature != "patch" && feature != "cls_patch")
    fail("{}: 'mm_vision_select_feature' is '{}' (patch and cls_patch are supported)", origin, feature);
  spec.vision.drop_class_token = feature == "patch";  // the first row, whatever it is: so the reference
}

/// Tiles of several scales, where the tower makes them.
void read_layout(const Json& config, ModelSpec& spec, const std::string& origin) {
  const bool dynamic = get_or<bool>(config, "dynamic_s2", false, origin);
  const bool fixed = get_or<bool>(config, "s2", false, origin);
  const auto aspect = get_or<std::string>(config, "image_aspect_ratio", "", origin);
  if (dynamic && fixed) fail("{}: 's2' and 'dynamic_s2' are both true: choose one", origin);
  if ((aspect == "dynamic_s2" && !dynamic) || (aspect == "dynamic" && dynamic))
    fail("{}: 'image_aspect_ratio' is '{}', which does not go with 'dynamic_s2' {}", origin, aspect, dynamic);
  if (aspect == "dynamic" && fixed)
    fail("{}: 'image_aspect_ratio' is 'dynamic', which does not go with 's2' true", origin);
  if (aspect == "pad" && spec.vision.rms_norm)
    fail("{}: 'image_aspect_ratio' is 'pad', for which InternViT's image processor has no colour", origin);
  // Its prompts get a placeholder and a line break for each tile.
  if (aspect == "dynamic") spec.layout.tile_end = "\n";
  if (!dynamic && !fixed) return;
  spec.layout.kind = ImageLayout::Kind::scales;
  spec.layout.joined_map = fixed;
  const std::vector<int64_t> pixels = read_vila_scales(config, origin);
  const int64_t tile = fixed ? read_vila_tile(config, origin) : pixels.front();
  for (size_t i = 0; i + 1 < pixels.size(); ++i) spec.layout.scales.push_back(pixels[i] / tile);
  const auto count = static_cast<int64_t>(pixels.size());
  const auto index = get_or<int64_t>(config, "s2_resize_output_to_scale_idx", 0, origin);
  if (index < -count || index >= count)
    fail("{}: 's2_resize_output_to_scale_idx' is {}, but there are {} scales", origin, index, count);
  spec.layout.reference_scale = index < 0 ? index + count : index;
}

/// The text whose embedding ends the rows of an image. @param encoder  an object, or one as text
std::string read_end_text(const Json& config, const std::string& origin) {
  Json encoder = get_or<Json>(config, "image_encoder", Json::object(), origin);
  const std::string name = origin + ": image_encoder";
  if (encoder.is_string()) encoder = parse_json(encoder.get<std::string>(), name);
  const auto target = get_or<std::string>(encoder, "_target_", "BasicImageEncoder", name);
  if (!encoder.is_object() || !target.ends_with("BasicImageEncoder") ||
      !get_or<std::string>(encoder, "start_tokens", "", name).empty())
    fail("{} is {}: only a BasicImageEncoder without start_tokens is supported", name, json_excerpt(encoder));
  return encoder.contains("end_tokens") ? get_or<std::string>(encoder, "end_tokens", "", name) : "\n";
}

ModelSpec describe(const Json& config, const std::string& origin) {
  refuse_what_is_not_supported(config, origin);
  const Part part = part_of(config, "llm_cfg", "llm", origin);
  const Json& text = part.config;
  const auto text_type = get_or<std::string>(text, "model_type", "llama", part.origin);
  if (text_type != "llama" && text_type != "qwen2")
    fail("{}: text model '{}' is not supported (llama and qwen2 are)", part.origin, text_type);
  const TextDefaults& text_class = text_defaults(text_type, part.origin);
  const bool vila_1_5 = is_vila_1_5(config, origin);

  ModelSpec spec;
  spec.family = "vila";
  spec.decoder = read_decoder(text, text_class, part.origin);
  spec.decoder.tied_head = read_tied(text, text, part.origin);
  read_vision(config, spec, origin);
  read_layout(config, spec, origin);
  const int64_t scales = static_cast<int64_t>(spec.layout.scales.size()) + 1;
  spec.projector =
      read_projector(part_of(config, "mm_projector_cfg", "mm_projector", origin), spec.vision.width * scales,
                     spec.decoder.hidden, token_order(config, vila_1_5, origin));
  const bool on_grid =
      spec.layout.kind == ImageLayout::Kind::scales ||
      (!spec.projector.empty() && spec.projector.front().kind == ProjectorOp::Kind::unshuffle);
  if (on_grid) require_whole_grid(spec, origin, "mm_vision_select_feature");
  if (!vila_1_5) spec.layout.end_text = read_end_text(config, origin);

  spec.name_rules = {{"llm.lm_head.", "lm_head.", {}}, {"vision_tower.vision_model.", "vision_tower.", {}}};
  spec.decoder_prefix = "llm.model.";
  spec.tower_prefix = "vision_tower.";
  spec.projector_prefix = "mm_projector.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.position_ids", "vision_tower.head.*",
                           "vision_tower.post_layernorm.*"};
  spec.image_token_id = kUntokenizedImage;
  spec.image_token = "<image>";
  if (vila_1_5) {  // its prompts hold the line break, where NVILA has a row of its own
    spec.image_placeholder = "<image>\n";
    spec.layout.after = "\n";
  }
  spec.split_at_images = spec.single_bos = spec.template_reads_text = true;
  spec.own_prompt = vila_1_5;
  spec.prompt = text_type == "qwen2" ? PromptStyle::nvila : PromptStyle::vicuna_v1;
  spec.eos_ids = read_eos(text, text, text_class, part.origin);
  spec.bos_id = read_bos(text, text_class, part.origin);
  spec.unquantized_roots = {"lm_head"};  // the text model's folder is read by itself
  return spec;
}

}  // namespace

Family vila_family() {
  return {"vila",
          {"LlavaLlamaModel", "VILAForCausalLM"},
          "VILA 1.5, NVILA (llama, qwen2 text; SigLIP, CLIP, InternViT-6B towers)",
          describe,
          Reference::rewritten};
}

}  // namespace visq

#include "visq/families/config.h"
#include "visq/families/qwen_vl.h"

// Source: spec/models-llava-vila-qwen.md §9.

namespace visq {
namespace {

using nn::ProjectorOp;

ModelSpec describe_as(const TextDefaults& text_class, const Json& config, const std::string& origin) {
  const Json none = Json::object();
  const Json& text = object_or(config, "text_config", none);
  const Json& vision = object_or(config, "vision_config", none);

  ModelSpec spec;
  spec.decoder = read_decoder(text, text_class, origin);
  spec.decoder.tied_head = read_tied(config, text, origin);
  read_mrope(spec.decoder, {24, 20, 20}, origin);
  Tower tower = read_qwen3_vl_tower(vision, origin);
  spec.vision = std::move(tower.spec);
  spec.tower_names = std::move(tower.names);
  const int64_t merged = spec.vision.width * spec.vision.merge * spec.vision.merge;
  const int64_t out = read_extent(vision, "out_hidden_size", 3584, 1 << 20, origin);
  const ProjectorOp norm = ProjectorOp::norm(ProjectorOp::Kind::layer_norm, "norm", 1e-6);
  const ProjectorOp concat = ProjectorOp::concat(spec.vision.merge);
  const ProjectorOp up = ProjectorOp::linear("linear_fc1", merged),
                    down = ProjectorOp::linear("linear_fc2", out);
  const ProjectorOp gelu = ProjectorOp::activation(nn::Activation::gelu);
  spec.projector = {norm, concat, up, gelu, down};
  spec.deepstack = {concat, norm, up, gelu, down};

  spec.decoder_prefix = "model.language_model.";
  spec.tower_prefix = "model.visual.";
  spec.projector_prefix = "model.visual.merger.";
  spec.deepstack_prefix = "model.visual.deepstack_merger_list.";
  spec.ignored_patterns = {"*.rotary_emb.inv_freq", "*.rotary_pos_emb.inv_freq"};
  spec.image_token_id = get_or<int64_t>(config, "image_token_id", 151655, origin);
  spec.image_token = "<|image_pad|>";
  spec.video = read_qwen_video(config, "Qwen3VLVideoProcessor", origin);
  // Inside the pair that the chat template puts around a video: the reference keeps both since version 5.
  spec.video.step_before = "<{seconds} seconds><|vision_start|>";
  spec.video.step_after = "<|vision_end|>";
  spec.prompt = PromptStyle::chatml;
  spec.mrope = true;
  spec.eos_ids = read_eos(config, text, text_class, origin);
  spec.bos_id = text_class.bos;
  spec.unquantized_roots = {"lm_head", "visual", "model.visual"};
  return spec;
}

ModelSpec describe_dense(const Json& config, const std::string& origin) {
  ModelSpec spec = describe_as(text_defaults("qwen3_vl_text", origin), config, origin);
  spec.family = "qwen3_vl";
  return spec;
}

ModelSpec describe_moe(const Json& config, const std::string& origin) {
  ModelSpec spec = describe_as(text_defaults("qwen3_vl_moe_text", origin), config, origin);
  spec.family = "qwen3_vl_moe";
  return spec;
}

}  // namespace

Family qwen3_vl_family() {
  return {"qwen3_vl", {"Qwen3VLForConditionalGeneration"}, "Qwen3-VL (dense)", describe_dense};
}

Family qwen3_vl_moe_family() {
  return {"qwen3_vl_moe",
          {"Qwen3VLMoeForConditionalGeneration"},
          "Qwen3-VL with a mixture of experts (30B-A3B, 235B-A22B)",
          describe_moe};
}

}  // namespace visq

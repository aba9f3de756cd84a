#include "visq/families/llava_like.h"

// Source: transformers 5.23, models/lighton_ocr: Mistral 3's tower and merger before a Qwen3.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{
      .vision = {{"patch_size", 14}, {"image_size", 1540}, {"hidden_act", "silu"}},
      .vision_type = "pixtral",
      .text_type = "qwen3",
      .text = {{"head_dim", 128},
               {"hidden_size", 1024},
               {"intermediate_size", 3072},
               {"max_position_embeddings", 40960},
               {"num_attention_heads", 16},
               {"num_hidden_layers", 28},
               {"num_key_value_heads", 8},
               {"rms_norm_eps", 1e-6},
               {"rope_theta", 1e6},
               {"vocab_size", 151936}},
      .feature_layers = {-1},
      .drop_class_token = false,
      .projector_bias = false,
      .tied_head = true,
      .image_token_id = 151655};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "lighton_ocr";
  merge_patches(config, spec, origin);
  spec.name_rules = {};
  spec.tower_prefix = "model.vision_encoder.";
  spec.projector_prefix = "model.vision_projection.";
  spec.image_token = "<|image_pad|>";
  spec.prompt = PromptStyle::chatml;
  spec.unquantized_roots = {"lm_head", "model.vision_encoder", "model.vision_projection", "vision_tower",
                            "multi_modal_projector"};  // vLLM's names of both
  return spec;
}

}  // namespace

Family lighton_ocr_family() {
  return {"lighton_ocr", {"LightOnOcrForConditionalGeneration"}, "LightOnOCR (Qwen3 text)", describe};
}

}  // namespace visq

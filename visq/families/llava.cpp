#include "visq/families/llava_like.h"

// Source: spec/models-llava-vila-qwen.md §3; spec/models-phi-gemma.md §5.3 (Pixtral).

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  // Without vision_config the class builds CLIP-L/336; a partial one falls back to CLIP-B/32 or SigLIP-B/16.
  static const LlavaDefaults defaults{.vision = clip_large_336(),
                                      .vision_type = "clip_vision_model",
                                      .text_type = "llama",
                                      .text = Json::object(),
                                      .feature_layers = {-2}};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "llava";
  spec.image_token = "<image>";
  spec.ignored_patterns.emplace_back("model.image_newline");
  if (spec.vision.input == nn::VisionInput::images) {
    spec.image_token = "[IMG]";
    spec.layout = row_break_layout();
  }
  return spec;
}

}  // namespace

Family llava_family() {
  return {"llava",
          {"LlavaForConditionalGeneration"},
          "LLaVA 1.5 and its kin (llama, mistral, qwen2 text; CLIP, SigLIP, Pixtral towers)",
          describe};
}

}  // namespace visq

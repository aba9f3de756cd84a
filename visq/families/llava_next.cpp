#include "visq/families/llava_like.h"

// Source: spec/models-llava-vila-qwen.md §4.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = clip_large_336(),
                                      .vision_type = "clip_vision_model",
                                      .text_type = "llama",
                                      .text = Json::object(),
                                      .feature_layers = {-2}};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "llava_next";
  spec.image_token = "<image>";
  spec.layout.kind = ImageLayout::Kind::anyres;
  spec.layout.row_end = "model.image_newline";
  require_whole_grid(spec, origin);
  return spec;
}

}  // namespace

Family llava_next_family() {
  return {"llava_next",
          {"LlavaNextForConditionalGeneration"},
          "LLaVA-NeXT, LLaVA 1.6 (llama, mistral, qwen2 text)",
          describe};
}

}  // namespace visq

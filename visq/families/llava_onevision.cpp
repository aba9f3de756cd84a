#include "visq/families/llava_like.h"

// Source: spec/models-llava-vila-qwen.md §5.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = {{"hidden_size", 1152},
                                                 {"intermediate_size", 4304},
                                                 {"num_hidden_layers", 26},
                                                 {"num_attention_heads", 16},
                                                 {"image_size", 384},
                                                 {"patch_size", 14}},
                                      .vision_type = "siglip_vision_model",
                                      .text_type = "qwen2",
                                      .text = Json::object(),
                                      .feature_layers = {-1},
                                      .drop_class_token = false,
                                      .image_token_id = 151646};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "llava_onevision";
  spec.image_token = "<image>";
  spec.layout.kind = ImageLayout::Kind::anyres;
  spec.layout.row_end = "model.image_newline";
  spec.layout.max_tiles =
      read_anyres_limit(get_or<std::string>(config, "vision_aspect_ratio", "anyres_max_9", origin),
                        "vision_aspect_ratio", origin);
  require_whole_grid(spec, origin);
  return spec;
}

}  // namespace

Family llava_onevision_family() {
  return {"llava_onevision", {"LlavaOnevisionForConditionalGeneration"}, "LLaVA-OneVision", describe};
}

}  // namespace visq

#include <cmath>

#include "visq/families/config.h"
#include "visq/families/llava_like.h"

// Source: spec/models-phi-gemma.md §4.

namespace visq {
namespace {

using nn::ProjectorOp;

/// Patches a side of the squares whose mean becomes one token.
int64_t read_pool(const Json& config, const nn::VisionSpec& vision, const std::string& origin) {
  const int64_t tokens = read_extent(config, "mm_tokens_per_image", 256, 1 << 20, origin);
  const int64_t grid = vision.image_size / vision.patch;
  const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(tokens))));
  if (side * side != tokens || side > grid || grid % side != 0)
    fail("{}: 'mm_tokens_per_image' {} is no square that divides the {} x {} patches of an image", origin,
         tokens, grid, grid);
  return grid / side;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = Json::object(),
                                      .vision_type = "siglip_vision_model",
                                      .text_type = "gemma3_text",
                                      .text = Json::object(),
                                      .feature_layers = {},
                                      .drop_class_token = false,
                                      .tied_head = true,
                                      .image_token_id = 262144};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "gemma3";
  spec.vision.post_norm = true;
  spec.projector = {
      ProjectorOp::average_pool(read_pool(config, spec.vision, origin)),
      ProjectorOp::norm(ProjectorOp::Kind::rms_norm_1p, "mm_soft_emb_norm", spec.vision.norm_eps),
      ProjectorOp::matrix("mm_input_projection_weight", spec.decoder.hidden)};
  spec.decoder.unordered = nn::DecoderSpec::Unordered::images;
  spec.image_token = "<image_soft_token>";
  spec.image_placeholder = "<start_of_image>";
  spec.layout.before = "\n\n<start_of_image>";
  spec.layout.after = "<end_of_image>\n\n";
  return spec;
}

}  // namespace

Family gemma3_family() {
  return {"gemma3", {"Gemma3ForConditionalGeneration"}, "Gemma 3 (4B, 12B, 27B)", describe};
}

}  // namespace visq

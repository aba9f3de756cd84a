#include <cmath>

#include "visq/families/llava_like.h"

// Source: spec/models-llava-vila-qwen.md §10.

namespace visq {
namespace {

using nn::ProjectorOp;

/// Patches a side of the squares that become one row.
int64_t read_side(const Json& config, const nn::VisionSpec& vision, const std::string& origin) {
  const auto ratio = get_or<double>(config, "downsample_ratio", 0.5, origin);
  if (!(ratio > 0.01 && ratio <= 1)) fail("{}: 'downsample_ratio' {} is outside 0.01..1", origin, ratio);
  const auto side = static_cast<int64_t>(1 / ratio);
  if (vision.image_size / vision.patch % side != 0)
    fail("{}: {} patches a side do not divide by {} ('downsample_ratio' {})", origin,
         vision.image_size / vision.patch, side, ratio);
  return side;
}

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = Json::object(),
                                      .vision_type = "internvl_vision",
                                      .text_type = "qwen2",
                                      .text = Json::object(),
                                      .feature_layers = {-1},
                                      .tied_head = true,
                                      .image_token_id = 151667};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "internvl";
  require_whole_grid(spec, origin);
  // Layer −1 is what comes out of the tower: behind the final norm, where there is one.
  if (spec.vision.feature_layers == std::vector<int64_t>{-1}) spec.vision.feature_layers.clear();
  if (spec.vision.feature_layers.size() > 1) fail("{}: 'vision_feature_layer' must name one layer", origin);
  if (!spec.vision.feature_layers.empty()) spec.vision.post_norm = false;
  const int64_t side = read_side(config, spec.vision, origin);
  spec.projector.insert(
      spec.projector.begin(),
      {ProjectorOp::unshuffle(side), ProjectorOp::norm(ProjectorOp::Kind::layer_norm, "layer_norm", 1e-5)});
  spec.image_token = "<IMG_CONTEXT>";
  spec.layout.before = "<img>";
  spec.layout.after = "</img>";
  return spec;
}

}  // namespace

Family internvl_family() {
  return {"internvl", {"InternVLForConditionalGeneration"}, "InternVL3 in Hugging Face's format", describe};
}

}  // namespace visq

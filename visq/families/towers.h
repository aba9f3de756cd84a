// vision_config → switches and tensor names, for the vision models that several families use.
#pragma once
#include <string>

#include "visq/families/family.h"

namespace visq {

struct Tower {
  nn::VisionSpec spec;
  TowerNames names;
};

/// Of a `model_type`: clip_vision_model, siglip_vision_model, internvl_vision, intern_vit_6b (InternViT in
/// its authors' format), pixtral. Keys that are absent have the defaults of its class. Feature layers and the
/// class token are the caller's to choose.
/// @param vision     vision_config
/// @param otherwise  model_type, where `vision` names none
/// @throws Error for another type, or for extents that do not fit
Tower read_tower(const Json& vision, const std::string& otherwise, const std::string& origin);

/// Qwen2-VL, Qwen2.5-VL and Qwen3-VL, by their own keys.
Tower read_qwen2_vl_tower(const Json& vision, const std::string& origin);
Tower read_qwen2_5_vl_tower(const Json& vision, const std::string& origin);
Tower read_qwen3_vl_tower(const Json& vision, const std::string& origin);

/// Sets `rope` and its theta: that of rope_parameters, or rope_theta as older files have it.
/// @throws Error for heads that rows and columns cannot share
void read_tower_rope(const Json& vision, nn::VisionRope rope, nn::VisionSpec& spec,
                     const std::string& origin);

/// @throws Error when one of `feature_layers`, which stand under `key`, does not exist
void check_feature_layers(const nn::VisionSpec& spec, const std::string& key, const std::string& origin);

}  // namespace visq

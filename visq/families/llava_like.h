// What the families of LLaVA's kind share: a text model, a tower whose hidden states are chosen by index, a
// projector of two layers, and the names of their tensors.
#pragma once
#include <string>
#include <vector>

#include "visq/families/family.h"

namespace visq {

/// What a class assumes where config.json is silent.
struct LlavaDefaults {
  Json vision;              ///< when vision_config is absent
  std::string vision_type;  ///< model_type of the tower
  std::string text_type;    ///< model_type of the text model
  Json text;                ///< when text_config is absent
  std::vector<int64_t> feature_layers;
  bool drop_class_token = true;  ///< "vision_feature_select_strategy": default or full
  bool projector_bias = true;
  bool tied_head = false;
  int64_t image_token_id = 32000;
};

/// vision_config of CLIP-L/14 at 336 pixels, the tower of LLaVA 1.5 and 1.6.
Json clip_large_336();

/// Fills everything but family, layout and image_token; the projector is linear, activation, linear.
/// @throws Error for a text model or a tower that is not known, or a feature layer that does not exist
ModelSpec describe_llava_like(const Json& config, const LlavaDefaults& defaults, const std::string& origin);

/// Puts a norm and a linear that merges "spatial_merge_size"² patches before the projector (Mistral 3).
void merge_patches(const Json& config, ModelSpec& spec, const std::string& origin);

/// The layout of Pixtral's tower: a token behind each line of the grid.
ImageLayout row_break_layout();

/// @param key  what of config.json chose the rows, for the error
/// @throws Error unless the tower's rows are exactly those of its grid of patches
void require_whole_grid(const ModelSpec& spec, const std::string& origin,
                        const std::string& key = "vision_feature_select_strategy");

/// N of "anyres_max_N". @throws Error for another rule, which stands under `key`
int64_t read_anyres_limit(const std::string& rule, const std::string& key, const std::string& origin);

}  // namespace visq

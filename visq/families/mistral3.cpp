#include "visq/families/config.h"
#include "visq/families/llava_like.h"

// Source: spec/models-phi-gemma.md §5.3.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = {{"patch_size", 14}, {"image_size", 1540}},
                                      .vision_type = "pixtral",
                                      .text_type = "mistral",
                                      .text = {{"head_dim", 128},
                                               {"hidden_size", 5120},
                                               {"intermediate_size", 32768},
                                               {"num_attention_heads", 32},
                                               {"num_hidden_layers", 40},
                                               {"num_key_value_heads", 8},
                                               {"rms_norm_eps", 1e-5},
                                               {"rope_theta", 1e9},
                                               {"sliding_window", nullptr},
                                               {"vocab_size", 131072}},
                                      .feature_layers = {-1},
                                      .drop_class_token = false,
                                      .projector_bias = false,
                                      .tied_head = true,
                                      .image_token_id = 10};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "mistral3";
  if (spec.vision.feature_layers.size() > 1) fail("{}: 'vision_feature_layer' must name one layer", origin);
  merge_patches(config, spec, origin);
  spec.image_token = "[IMG]";
  spec.layout = row_break_layout();
  return spec;
}

}  // namespace

Family mistral3_family() {
  return {"mistral3", {"Mistral3ForConditionalGeneration"}, "Mistral Small 3.1 and later", describe};
}

}  // namespace visq

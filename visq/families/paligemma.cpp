#include "visq/families/llava_like.h"

// Source: spec/models-phi-gemma.md §5.4.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  static const LlavaDefaults defaults{.vision = {{"hidden_size", 1152},
                                                 {"intermediate_size", 4304},
                                                 {"num_hidden_layers", 27},
                                                 {"num_attention_heads", 16},
                                                 {"image_size", 224},
                                                 {"patch_size", 14}},
                                      .vision_type = "siglip_vision_model",
                                      .text_type = "gemma",
                                      .text = {{"hidden_size", 2048},
                                               {"num_hidden_layers", 18},
                                               {"intermediate_size", 16384},
                                               {"num_attention_heads", 8},
                                               {"num_key_value_heads", 1}},
                                      .feature_layers = {},
                                      .drop_class_token = false,
                                      .tied_head = true,
                                      .image_token_id = 256000};
  ModelSpec spec = describe_llava_like(config, defaults, origin);
  spec.family = "paligemma";
  spec.vision.post_norm = true;
  spec.projector = {nn::ProjectorOp::linear("linear", spec.decoder.hidden)};
  spec.decoder.unordered = nn::DecoderSpec::Unordered::prompt;
  spec.decoder.first_position = 1;
  spec.image_token = "<image>";
  spec.prompt = PromptStyle::paligemma;
  spec.whole_prompt = true;
  return spec;
}

}  // namespace

Family paligemma_family() {
  return {"paligemma", {"PaliGemmaForConditionalGeneration"}, "PaliGemma, PaliGemma 2", describe};
}

}  // namespace visq

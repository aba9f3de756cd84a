#include "visq/families/config.h"
#include "visq/families/qwen_vl.h"

// Source: spec/models-llava-vila-qwen.md §8.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  const QwenVl parts{read_qwen2_5_vl_tower, nn::ProjectorOp::Kind::rms_norm, "out_hidden_size"};
  ModelSpec spec = describe_qwen_vl(config, parts, origin);
  spec.family = "qwen2_5_vl";
  const Json none = Json::object();
  spec.video.tokens_per_second =
      read_extent(object_or(config, "vision_config", none), "tokens_per_second", 4, 1000, origin);
  return spec;
}

}  // namespace

Family qwen2_5_vl_family() {
  return {"qwen2_5_vl", {"Qwen2_5_VLForConditionalGeneration"}, "Qwen2.5-VL", describe};
}

}  // namespace visq

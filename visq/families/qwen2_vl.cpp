#include "visq/families/qwen_vl.h"

// Source: spec/models-llava-vila-qwen.md §7.

namespace visq {
namespace {

ModelSpec describe(const Json& config, const std::string& origin) {
  const QwenVl parts{read_qwen2_vl_tower, nn::ProjectorOp::Kind::layer_norm, "hidden_size"};
  ModelSpec spec = describe_qwen_vl(config, parts, origin);
  spec.family = "qwen2_vl";
  return spec;
}

}  // namespace

Family qwen2_vl_family() { return {"qwen2_vl", {"Qwen2VLForConditionalGeneration"}, "Qwen2-VL", describe}; }

}  // namespace visq

// What Qwen2-VL and Qwen2.5-VL share: the text model, the merger, names, ids. Qwen3-VL shares rope and
// videos.
#pragma once
#include <string>
#include <vector>

#include "visq/families/towers.h"

namespace visq {

struct QwenVl {
  Tower (*read_tower)(const Json& vision, const std::string& origin);
  nn::ProjectorOp::Kind merger_norm;
  const char* out_key;  ///< of vision_config: the width of the text model
};

/// Checks the sections of rope. @param otherwise  where config.json names none
/// @throws Error when they do not fill a head
void read_mrope(nn::DecoderSpec& decoder, const std::vector<int64_t>& otherwise, const std::string& origin);

/// @param processor  class of the video processor where no file names one
VideoLayout read_qwen_video(const Json& config, const char* processor, const std::string& origin);

/// Fills everything but family.
/// @throws Error for sections of rope that do not fill a head, or a merger of another width than the text
/// model
ModelSpec describe_qwen_vl(const Json& config, const QwenVl& parts, const std::string& origin);

}  // namespace visq

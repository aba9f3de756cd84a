// How the kinds of image processors are told apart, and what their reference classes assume where a file is
// silent.
#pragma once
#include <string>
#include <vector>

#include "visq/inputs/image_processor.h"

namespace visq {

/// @param type    value of image_processor_type, with or without "Fast"
/// @param origin  file name for errors
/// @throws Error for a type that is not supported
ImageProcessor::Kind image_processor_kind(std::string type, const std::string& origin);

/// The attributes of the reference class.
ImageProcessor image_processor_defaults(ImageProcessor::Kind kind);

/// Whether the reference class makes squares from an integer `size`, rather than scale the short side to it.
bool integer_size_is_square(ImageProcessor::Kind kind);

/// The profile in which the reference has this kind, given that `wanted` was asked for.
ImageProfile available_profile(ImageProcessor::Kind kind, ImageProfile wanted);

/// model_type of VILA's InternViT, for which its code makes the image processor.
inline constexpr const char* kVilaInternTower = "intern_vit_6b";

/// Pixels a side of each scale of VILA's dynamic_s2 and s2, ascending.
/// @param config  config.json of the checkpoint
std::vector<int64_t> read_vila_scales(const Json& config, const std::string& origin);

/// Pixels a side of the tiles that the images of VILA's s2 are cut into.
/// @throws Error when a scale is no multiple of it, or all together are more than kMaxTiles tiles
int64_t read_vila_tile(const Json& config, const std::string& origin);

}  // namespace visq

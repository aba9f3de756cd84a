// The steps of each kind of image processor; ImageProcessor::process chooses among them.
#pragma once
#include "visq/inputs/image_processor.h"

namespace visq {

/// Of one image, grid included: what the token budget of a sample can hold by far (spec/inputs.md §9).
inline constexpr int64_t kMaxTiles = 256;

/// @throws Error beyond kMaxTiles tiles or kMaxImagePixels pixels
void check_grid(const at::Tensor& image, TileGrid grid, ImageSize tile);

at::Tensor resized(const ImageProcessor& p, const at::Tensor& image, ImageSize size);
/// Resized, cropped and normalized to [3, h, w].
at::Tensor fixed_size(const ImageProcessor& p, const at::Tensor& image);
/// Tiles of bytes → ProcessedImage without the original's size.
ProcessedImage normalized_tiles(const ImageProcessor& p, const at::Tensor& tiles, TileGrid grid);

// image_kinds.cpp
ProcessedImage process_qwen2_vl(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_pixtral(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_anyres(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_gemma3(const ImageProcessor& p, const at::Tensor& image);

// image_kinds_tiled.cpp
ProcessedImage process_internvl(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_idefics3(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_phi3_v(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_phi4(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_mllama(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_llama4(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_nemotron(const ImageProcessor& p, const at::Tensor& image);
ProcessedImage process_vila(const ImageProcessor& p, const at::Tensor& image, int64_t images_in_sample);

}  // namespace visq

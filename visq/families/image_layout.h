// Where the features of an image or a video go in the sequence: how many tokens it takes, the text that its
// placeholder becomes, and the order of its rows. Data: ImageLayout in family.h.
#pragma once
#include <span>
#include <string>

#include "visq/families/family.h"
#include "visq/inputs/image_processor.h"

namespace visq {

/// Vectors that are put between feature rows, in the compute dtype; undefined where the layout has none.
struct LearnedRows {
  at::Tensor row_end, separator, end;  ///< [channels]
};

/// Grids of the tiles (or of the whole image, or of each step of a video) that the tower sees, in patches.
std::vector<nn::Grid> image_grids(const nn::VisionSpec& vision, const ProcessedImage& image);

/// Feature rows of all tiles of an image behind ModelSpec::projector; of Kind::scales: before it. Missing
/// tiles of VisionSpec::joined_tiles have rows too.
int64_t feature_rows(const ModelSpec& spec, const ProcessedImage& image);

/// Image tokens of an image: those whose embedding is a feature row; none for Kind::cross. The image is one
/// that check_image() accepts.
int64_t image_tokens(const ModelSpec& spec, const ProcessedImage& image);

/// The text that replaces the placeholder of an image or a video: image_tokens() times the image or video
/// token, and what the layout puts around and between them; one image token for Kind::cross.
std::string image_text(const ModelSpec& spec, const ProcessedImage& image);

/// The placeholder of the n-th image of a conversation, counted from 1.
std::string image_placeholder(const ModelSpec& spec, int64_t n);

/// `prompt` with each placeholder replaced.
/// @param images  and videos, in the order of their placeholders
/// @throws Error when placeholders and images differ in number, or a text contains an image token literally
std::string expand_images(const ModelSpec& spec, const std::string& prompt,
                          std::span<const ProcessedImage> images);

/// Feature rows of one image → rows in the order of its tokens.
/// @param rows  [feature_rows(), channels]; of Kind::scales: what stack_scales() gives, behind the projector
/// @return [image_tokens(), channels]; for Kind::cross the rows as they are
at::Tensor pack_image(const ModelSpec& spec, const LearnedRows& learned, const at::Tensor& rows,
                      const ProcessedImage& image);

/// Only for ImageLayout::Kind::scales, before the projector: tower rows of one image, [tiles · side²,
/// channels] → [rows of stacked_grids(), channels · scales], the maps of all scales brought to one size.
at::Tensor stack_scales(const ModelSpec& spec, const at::Tensor& rows, const ProcessedImage& image);
/// Grids of the rows that stack_scales() gives: of each block of a tile's size, or of the whole map.
std::vector<nn::Grid> stacked_grids(const ModelSpec& spec, const ProcessedImage& image);

}  // namespace visq

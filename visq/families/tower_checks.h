// What tower and projectors must hold, and what they read.
#pragma once
#include "visq/families/expectations.h"
#include "visq/families/family.h"
#include "visq/inputs/image_processor.h"

namespace visq {

void expect_tower(const ModelSpec& spec, Expectations& expect);
/// Projectors and the learned rows of the layout.
/// @throws Error when a chain does not end in the width of the text model
void expect_projectors(const ModelSpec& spec, Expectations& expect);

/// @throws Error when the image processor makes something else than the tower and the layout read
void check_image(const ModelSpec& spec, const ProcessedImage& image);

}  // namespace visq

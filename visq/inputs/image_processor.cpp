#include "visq/inputs/image_processor.h"

#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/inputs/image_kinds.h"

namespace visq {
namespace {

using Kind = ImageProcessor::Kind;

/// One tile that shows the whole image padded to a square.
ProcessedImage padded_tile(const ImageProcessor& p, const at::Tensor& image) {
  return {fixed_size(p, pad_to_square(image, p.steps.mean)).unsqueeze(0)};
}

ProcessedImage process_kind(const ImageProcessor& p, const at::Tensor& image, int64_t images_in_sample) {
  switch (p.kind) {
    case Kind::clip:
    case Kind::siglip:
      return {fixed_size(p, image)};
    case Kind::llava:
      return {fixed_size(p, p.pad_square ? pad_to_square(image, p.steps.mean) : image)};
    case Kind::llava_next:
      return process_anyres(p, image);
    case Kind::llava_onevision:
      return images_in_sample == 1 ? process_anyres(p, image) : padded_tile(p, image);
    case Kind::qwen2_vl:
      return process_qwen2_vl(p, image);
    case Kind::gemma3:
      return process_gemma3(p, image);
    case Kind::internvl:
      return process_internvl(p, image);
    case Kind::idefics3:
      return process_idefics3(p, image);
    case Kind::pixtral:
      return process_pixtral(p, image);
    case Kind::phi3_v:
      return process_phi3_v(p, image);
    case Kind::phi4:
      return process_phi4(p, image);
    case Kind::mllama:
      return process_mllama(p, image);
    case Kind::llama4:
      return process_llama4(p, image);
    case Kind::nemotron:
      return process_nemotron(p, image);
    case Kind::vila:
      return process_vila(p, image, images_in_sample);
  }
  fail("unknown kind of image processor");
}

}  // namespace

ProcessedImage ImageProcessor::process(const at::Tensor& image, int64_t images_in_sample) const {
  TORCH_CHECK(image.dim() == 3 && image.size(0) == 3 && image.scalar_type() == at::kByte,
              "process() takes a uint8 [3, height, width] image");
  ProcessedImage out = process_kind(*this, image, images_in_sample);
  out.height = image.size(1);
  out.width = image.size(2);
  return out;
}

}  // namespace visq

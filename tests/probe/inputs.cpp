// What visq/inputs makes of a checkpoint's tokenizer and image processor, for tests/parity/test_inputs.py.
//   probe_inputs tokenize DIR STRINGS.json OUT.json        a list of texts → ids and decoded texts
//   probe_inputs pixels DIR tv|pil IMAGES_IN_SAMPLE OUT.safetensors IMAGE...
//     processed tensors "0", "1", …, "0.shape" = grid_h, grid_w, rows, columns, height, width, and "0.mask"
//     where there is one; nothing for an image that the processor refuses
//   probe_inputs decode OUT.safetensors IMAGE...           RGB tensors "0", "1", …
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>
#include <fstream>

#include "visq/core/error.h"
#include "visq/core/json.h"
#include "visq/inputs/image.h"
#include "visq/inputs/image_processor.h"
#include "visq/inputs/tokenizer.h"
#include "visq/io/safetensors.h"

namespace {

using Arguments = std::vector<std::string>;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

void tokenize(const Arguments& arguments) {
  const auto tokenizer = visq::Tokenizer::load(arguments.at(0));
  const visq::Json texts = visq::read_json(arguments.at(1), visq::kMaxTokenizerBytes);
  visq::Json out = {{"size", tokenizer.size()}, {"texts", visq::Json::array()}};
  for (const visq::Json& text : texts) {
    const auto ids = tokenizer.encode(text.get<std::string>(), /*add_special_tokens=*/false);
    out["texts"].push_back({{"ids", ids},
                            {"ids_with_special", tokenizer.encode(text.get<std::string>())},
                            {"decoded", tokenizer.decode(ids, /*skip_special=*/false)},
                            {"decoded_without_special", tokenizer.decode(ids)}});
  }
  std::ofstream(arguments.at(2)) << out;
}

void pixels(const Arguments& arguments) {
  const auto profile = arguments.at(1) == "pil" ? visq::ImageProfile::pil : visq::ImageProfile::tv;
  const auto processor = visq::ImageProcessor::load(arguments.at(0), profile);
  Tensors out;
  for (size_t i = 4; i < arguments.size(); ++i) try {
      const auto image = processor.process(visq::read_image(arguments[i]), std::stoll(arguments.at(2)));
      const std::string name = std::to_string(i - 4);
      out.emplace_back(name, image.pixels);
      out.emplace_back(name + ".shape", at::tensor({image.grid_h, image.grid_w, image.rows, image.columns,
                                                    image.height, image.width},
                                                   at::kLong));
      if (image.patch_mask.defined()) out.emplace_back(name + ".mask", image.patch_mask);
    } catch (const visq::Error& e) {
      std::fprintf(stderr, "%s: %s\n", arguments[i].c_str(), e.what());
    }
  visq::write_safetensors(arguments.at(3), out);
}

void decode(const Arguments& arguments) {
  Tensors out;
  for (size_t i = 1; i < arguments.size(); ++i)
    out.emplace_back(std::to_string(i - 1), visq::read_image(arguments[i]));
  visq::write_safetensors(arguments.at(0), out);
}

}  // namespace

int main(int argc, char** argv) try {
  const Arguments arguments(argv + std::min(argc, 2), argv + argc);
  const std::string command = argc > 1 ? argv[1] : "";
  if (command == "tokenize" && arguments.size() == 3) {
    tokenize(arguments);
  } else if (command == "pixels" && arguments.size() > 4) {
    pixels(arguments);
  } else if (command == "decode" && arguments.size() > 1) {
    decode(arguments);
  } else {
    std::fprintf(stderr, "usage: probe_inputs tokenize|pixels|decode ..., see tests/probe/inputs.cpp\n");
    return 2;
  }
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 2;
}

// What visq/inputs makes of a checkpoint's tokenizer and image processor, for tests/parity/test_inputs.py.
//   probe_inputs tokenize DIR STRINGS.json OUT.json        a list of texts → ids and decoded texts
//   probe_inputs pixels DIR OUT.safetensors IMAGE...       processed tensors "0", "1", … and "0.grid", …
//   probe_inputs decode OUT.safetensors IMAGE...           RGB tensors "0", "1", …
#include <ATen/ATen.h>

#include <cstdio>
#include <exception>
#include <fstream>

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
  const auto processor = visq::ImageProcessor::load(arguments.at(0));
  Tensors out;
  for (size_t i = 2; i < arguments.size(); ++i) {
    const auto processed = processor.process(visq::read_image(arguments[i]));
    const std::string name = std::to_string(i - 2);
    out.emplace_back(name, processed.pixels);
    out.emplace_back(name + ".grid", at::tensor({processed.grid_h, processed.grid_w}, at::kLong));
  }
  visq::write_safetensors(arguments.at(1), out);
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
  } else if (command == "pixels" && arguments.size() > 2) {
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

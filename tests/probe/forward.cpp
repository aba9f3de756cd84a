// probe_forward MODEL DATA.jsonl OUT.safetensors [fp32|bf16] [--generate N]
//
// Runs all samples as one flat batch (so that the sequence borders matter) and writes, for each sample i:
// ids.i, positions.i ([axes, tokens]), pixels.i.k of its k-th image or video, tower.i (before the projector),
// features.i, merged.i (what the first layer reads), layer.L.i (hidden states after each layer) and logits.i,
// all in fp32; of a quantized checkpoint, computed as an engine would, also weight.MODULE of its quantized
// linears. With --generate N, prints N greedy tokens a line for each sample.
#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <string>

#include "visq/core/format.h"
#include "visq/eval/runner.h"

namespace visq {
namespace {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

/// A copy that owns its memory: a slice of a batch is a view of all of it.
at::Tensor owned(const at::Tensor& tensor) { return tensor.to(at::kCPU, at::kFloat).contiguous().clone(); }

void add_slices(Named& out, const std::string& name, const at::Tensor& rows,
                const std::vector<int64_t>& offsets) {
  for (size_t i = 0; i + 1 < offsets.size(); ++i)
    out.emplace_back(visq::format("{}.{}", name, i),
                     owned(rows.narrow(0, offsets[i], offsets[i + 1] - offsets[i])));
}

/// Hidden states after the last layer; every layer's are added to `out`, when given.
at::Tensor run_layers(const Model& model, const std::vector<nn::DecoderLayer>& layers, Batch batch,
                      nn::KvCache* cache, Named* out) {
  for (size_t i = 0; i < layers.size(); ++i) {
    model.advance(batch, layers[i], nullptr, cache);
    if (out != nullptr) add_slices(*out, visq::format("layer.{}", i), batch.hidden, batch.offsets);
  }
  return batch.hidden;
}

void print_greedy(const Model& model, const std::vector<nn::DecoderLayer>& layers, const Batch& prompt,
                  const std::vector<bool>& pictured, int64_t count) {
  const auto sequences = static_cast<int64_t>(prompt.offsets.size()) - 1;
  nn::KvCache cache;
  std::vector<std::vector<int64_t>> answers(static_cast<size_t>(sequences));
  at::Tensor last = at::tensor(prompt.offsets, at::kLong).narrow(0, 1, sequences).sub(1).to(model.device());
  at::Tensor hidden = run_layers(model, layers, prompt, &cache, nullptr).index_select(0, last);
  for (int64_t step = 0; step < count; ++step) {
    const at::Tensor ids = model.logits(hidden).argmax(-1).to(at::kCPU);
    std::vector<int64_t> next, positions;
    for (int64_t i = 0; i < sequences; ++i) {
      next.push_back(ids[i].item<int64_t>());
      positions.push_back(prompt.next_position[static_cast<size_t>(i)] + step);
      answers[static_cast<size_t>(i)].push_back(next.back());
    }
    hidden = run_layers(model, layers, model.embed_next(next, positions, pictured), &cache, nullptr);
  }
  for (const auto& answer : answers) visq::print("{}\n", fmt::join(answer, " "));
}

void run(const std::vector<std::string>& arguments) {
  if (arguments.size() < 3)
    fail("usage: probe_forward MODEL DATA.jsonl OUT.safetensors [fp32|bf16] [--generate N]");
  at::ScalarType dtype = at::kFloat;
  int64_t generate = 0;
  for (size_t i = 3; i < arguments.size(); ++i) {
    if (arguments[i] == "bf16") dtype = at::kBFloat16;
    if (arguments[i] == "--generate" && i + 1 < arguments.size()) generate = std::stoll(arguments[i + 1]);
  }
  const Runner runner(arguments[0], at::kCPU, dtype);
  const Model& model = runner.model();
  std::vector<EncodedSample> samples;
  Named out;
  for (const Sample& sample : read_samples(arguments[1])) {
    samples.push_back(model.encode(sample, /*with_answer=*/false));
    const std::string index = std::to_string(samples.size() - 1);
    out.emplace_back("ids." + index, at::tensor(samples.back().ids, at::kLong));
    if (samples.back().images.empty()) continue;
    for (const ProcessedImage& image : samples.back().images)
      out.emplace_back(visq::format("pixels.{}.{}", index, &image - samples.back().images.data()),
                       image.pixels);
    out.emplace_back("tower." + index, owned(model.tower_features(samples.back().images)));
    out.emplace_back("features." + index, owned(model.image_features(samples.back().images).rows));
  }
  std::vector<nn::DecoderLayer> layers;
  for (int64_t i = 0; i < model.spec().decoder.layers; ++i) layers.push_back(model.load_layer(i));
  const Batch batch = model.embed(samples);
  add_slices(out, "merged", batch.hidden, batch.offsets);
  for (size_t i = 0; i < samples.size(); ++i)
    out.emplace_back(visq::format("positions.{}", i),
                     batch.positions.slice(1, batch.offsets[i], batch.offsets[i + 1]).clone());
  add_slices(out, "logits", model.logits(run_layers(model, layers, batch, nullptr, &out)), batch.offsets);
  if (const auto& quantized = runner.quantized())
    for (const std::string& module : quantized->modules())
      out.emplace_back("weight." + module, QuantizedCheckpoint::effective_weight(quantized->read(module)));
  write_safetensors(arguments[2], out);
  std::vector<bool> pictured;
  for (const EncodedSample& sample : samples) pictured.push_back(!sample.images.empty());
  if (generate > 0) print_greedy(model, layers, batch, pictured, generate);
}

}  // namespace
}  // namespace visq

int main(int argc, char** argv) {
  try {
    visq::run({argv + 1, argv + argc});
  } catch (const visq::Error& error) {
    visq::print(stderr, "error: {}\n", error.what());
    return 2;
  }
  return 0;
}

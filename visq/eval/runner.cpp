#include "visq/eval/runner.h"

#include <ATen/ATen.h>

#include "visq/core/process.h"

namespace visq {

at::ScalarType compute_dtype(std::optional<at::ScalarType> asked, at::Device device,
                             const Checkpoint& checkpoint) {
  if (asked) return *asked;
  if (device.is_cpu()) return at::kFloat;
  for (const std::string& name : checkpoint.names()) {
    const at::ScalarType stored = checkpoint.info(name).dtype;
    if (stored == at::kBFloat16 || stored == at::kHalf) return stored;
  }
  return at::kFloat;
}

namespace {

// Scales that are one number stay where they can be read without waiting for the device.
KvScale on_device(const KvScale& scale, at::Device device) {
  return {scale.scale.dim() > 0 ? scale.scale.to(device) : scale.scale,
          scale.bias.defined() ? scale.bias.to(device) : scale.bias};
}

}  // namespace

Runner::Runner(const std::filesystem::path& directory, at::Device device, std::optional<at::ScalarType> dtype,
               ImageProfile image_profile)
    : checkpoint_(std::make_unique<Checkpoint>(directory)),
      quantized_(QuantizedCheckpoint::open(*checkpoint_)) {
  Model::LinearLoader loader;
  if (quantized_) loader = [this](const std::string& module) { return load_linear(module); };
  model_ = std::make_unique<Model>(*checkpoint_, device, compute_dtype(dtype, device, *checkpoint_), loader,
                                   image_profile);
  for (int64_t index = 0; index < model_->spec().decoder.layers; ++index) {
    check_interrupt();
    layers_.push_back(model_->load_layer(index));
    if (!quantized_ || quantized_->kv_cache() == KvCacheFormat::none) continue;
    const nn::DecoderSpec& decoder = model_->spec().decoder;
    const KvScales scales = quantized_->kv_scales(model_->names().attention(model_->spec(), index),
                                                  decoder.kv_heads, decoder.head_dim);
    const KvFormat& format = kv_format(quantized_->kv_cache());
    layers_.back().key_cache = [&format, scale = on_device(scales.key, device)](const at::Tensor& keys) {
      return simulate_keys(format, keys, scale);
    };
    layers_.back().value_cache = [&format,
                                  scale = on_device(scales.value, device)](const at::Tensor& values) {
      return simulate_values(format, values, scale);
    };
  }
}

nn::Linear simulated_linear(const PackedLinear& packed, InputFormat input, at::Device device,
                            at::ScalarType dtype) {
  nn::Linear linear;
  linear.weight = QuantizedCheckpoint::effective_weight(packed).to(device, dtype);
  at::Tensor factors;
  if (packed.pre_quant_scale.defined()) {
    const at::Tensor stored = packed.pre_quant_scale.to(at::kFloat);
    if (!stored.eq(1).all().item<bool>()) factors = stored.to(device, dtype);
  }
  if (packed.low_rank.a.defined()) {
    const at::Tensor a = packed.low_rank.a.to(device, dtype);
    linear.low_rank = {factors.defined() ? a * factors : a, packed.low_rank.b.to(device, dtype)};
  }
  if (input != InputFormat::none || factors.defined())
    linear.input = [factors, input, scale = packed.input_scale.value_or(1.0f)](const at::Tensor& x) {
      return simulate_input(input, factors.defined() ? x * factors : x, scale);
    };
  return linear;
}

nn::Linear Runner::load_linear(const std::string& module) const {
  if (!quantized_->is_quantized(module)) return model_->load_linear(module);
  nn::Linear linear = simulated_linear(quantized_->read(module), quantized_->scheme(module).input,
                                       model_->device(), model_->dtype());
  if (checkpoint_->contains(module + ".bias"))
    linear.bias = checkpoint_->tensor(module + ".bias").to(model_->device(), model_->dtype());
  return linear;
}

at::Tensor Runner::forward(Batch batch, nn::KvCache* cache) const {
  for (const nn::DecoderLayer& layer : layers_) {
    check_interrupt();
    model_->advance(batch, layer, nullptr, cache);
  }
  return batch.hidden;
}

std::vector<std::string> Runner::generate(std::span<const EncodedSample> prompts,
                                          int64_t max_new_tokens) const {
  const ModelSpec& spec = model_->spec();
  const Batch prompt = model_->embed(prompts);
  nn::KvCache cache;
  std::vector<int64_t> last_rows;
  for (size_t i = 0; i < prompts.size(); ++i) last_rows.push_back(prompt.offsets[i + 1] - 1);
  at::Tensor hidden = forward(prompt, &cache).index_select(0, at::tensor(last_rows).to(model_->device()));

  std::vector<size_t> active(prompts.size());  // sequences still growing, as indices into prompts
  for (size_t i = 0; i < active.size(); ++i) active[i] = i;
  std::vector<std::vector<int64_t>> answers(prompts.size());
  std::vector<int64_t> next_position = prompt.next_position;
  for (int64_t step = 0; step < max_new_tokens && !active.empty(); ++step) {
    const at::Tensor best = model_->logits(hidden).argmax(1).to(at::kCPU);
    std::vector<int64_t> ids, positions;
    std::vector<bool> pictured;
    std::vector<size_t> still;
    std::vector<int64_t> kept;  // rows of this step that go on
    for (size_t row = 0; row < active.size(); ++row) {
      const int64_t id = best[static_cast<int64_t>(row)].item<int64_t>();
      if (std::find(spec.eos_ids.begin(), spec.eos_ids.end(), id) != spec.eos_ids.end()) continue;
      const size_t sequence = active[row];
      answers[sequence].push_back(id);
      kept.push_back(static_cast<int64_t>(row));
      still.push_back(sequence);
      ids.push_back(id);
      pictured.push_back(!prompts[sequence].images.empty());
      positions.push_back(next_position[sequence]++);
    }
    if (kept.size() < active.size()) cache.keep(kept);
    active = std::move(still);
    if (active.empty() || step + 1 == max_new_tokens) break;
    hidden = forward(model_->embed_next(ids, positions, pictured), &cache);
  }
  std::vector<std::string> texts;
  for (const auto& answer : answers) texts.push_back(model_->tokenizer().decode(answer));
  return texts;
}

}  // namespace visq

#include "visq/families/model.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/format.h"
#include "visq/core/tiled.h"
#include "visq/families/config.h"
#include "visq/families/model_checks.h"
#include "visq/families/model_parts.h"

namespace visq {
namespace {

ModelSpec describe_checkpoint(const Checkpoint& checkpoint) {
  ModelSpec spec = describe_model(checkpoint.config(), (checkpoint.directory() / "config.json").string());
  const std::filesystem::path generation = checkpoint.text_model().directory / "generation_config.json";
  if (std::filesystem::exists(generation))
    if (auto ids = read_integers(read_json(generation), "eos_token_id", generation.string()); !ids.empty())
      spec.eos_ids = ids;
  return spec;
}

}  // namespace

Model::Model(const Checkpoint& checkpoint, at::Device device, at::ScalarType compute_dtype,
             LinearLoader loader, ImageProfile image_profile)
    : checkpoint_(checkpoint),
      spec_(describe_checkpoint(checkpoint)),
      names_(spec_, checkpoint),
      device_(device),
      dtype_(compute_dtype),
      loader_(std::move(loader)),
      image_profile_(image_profile),
      parts_(std::make_shared<Parts>()) {
  check_tensors(spec_, names_, checkpoint_, /*with_linears=*/!loader_);
  if (spec_.tokenizer_knows_image) {
    const std::optional<int64_t> id = tokenizer().id_of(spec_.image_token);
    if (!id)
      fail("{}: the tokenizer does not know '{}', the token that stands for an image",
           checkpoint_.text_model().directory.string(), spec_.image_token);
    spec_.image_token_id = *id;
  }
  ImageLayout& layout = spec_.layout;
  if (layout.end_text.empty()) return;
  const std::vector<int64_t> end = tokenizer().encode(layout.end_text);
  if (end.size() != 1)
    fail("{}: the text '{}' that ends an image is {} tokens; one is supported",
         checkpoint_.text_model().directory.string(), layout.end_text, end.size());
  layout.end_id = end.front();
}

const Tokenizer& Model::tokenizer() const {
  return parts_->tokenizer.get([this] { return Tokenizer::load(checkpoint_.text_model().directory); });
}

at::Tensor Model::stored(const std::string& canonical) const {
  const std::string source = names_.source(canonical);
  if (source.empty()) fail("{}: tensor '{}' is missing", checkpoint_.directory().string(), canonical);
  return checkpoint_.tensor(source);
}

at::Tensor Model::weight(const std::string& canonical) const { return stored(canonical).to(device_, dtype_); }

nn::Norm Model::load_norm(const std::string& canonical_module) const {
  nn::Norm norm{weight(canonical_module + ".weight"), {}};
  if (!names_.source(canonical_module + ".bias").empty()) norm.bias = weight(canonical_module + ".bias");
  return norm;
}

nn::Linear Model::load_linear(const std::string& module) const {
  const std::string name = module + ".weight";
  const TensorInfo& info = checkpoint_.info(name);
  if (!at::isFloatingType(info.dtype) || at::isFloat8Type(info.dtype))
    fail("{}: tensor '{}' is packed; it cannot be read as it is", checkpoint_.file_of(name).string(), name);
  nn::Linear linear;
  linear.weight = checkpoint_.tensor(name).to(device_, dtype_);
  if (checkpoint_.contains(module + ".bias"))
    linear.bias = checkpoint_.tensor(module + ".bias").to(device_, dtype_);
  return linear;
}

nn::Linear Model::load_canonical(const std::string& canonical_module) const {
  const std::string module = names_.source_module(canonical_module);
  if (module.empty())
    fail("{}: no tensor of '{}' is in the files", checkpoint_.directory().string(), canonical_module);
  return load_linear(module);
}

namespace {

const AdapterSpec* image_adapter(const ModelSpec& spec) {
  const auto found = std::ranges::find_if(spec.adapters, &AdapterSpec::for_images);
  return found == spec.adapters.end() ? nullptr : &*found;
}

}  // namespace

void Model::merge_image_adapter() {
  if (image_adapter(spec_) == nullptr)
    fail("--merge-vision-adapter: a model of the family '{}' has no adapter for images", spec_.family);
  merged_ = true;
}

const AdapterSpec* Model::merged_adapter() const { return merged_ ? image_adapter(spec_) : nullptr; }

std::string Model::adapter_tensor(int64_t layer, const nn::LinearId& id, const AdapterSpec& adapter,
                                  const std::string& matrix) const {
  return names_.source(visq::format("{}layers.{}.{}.{}.{}.weight", spec_.decoder_prefix, layer,
                                    nn::linear_path(spec_.decoder, layer, id), matrix, adapter.name));
}

std::string Model::merged_adapter_name() const {
  const AdapterSpec* const merged = merged_adapter();
  return merged == nullptr ? "" : merged->name;
}

at::Tensor Model::linear_weight(int64_t layer, const nn::LinearId& id) const {
  const at::Tensor stored = checkpoint_.tensor(names_.module(spec_, layer, id) + ".weight");
  const AdapterSpec* const adapter = merged_adapter();
  if (adapter == nullptr) return stored;
  return add_low_rank(stored, checkpoint_.tensor(adapter_tensor(layer, id, *adapter, "lora_A")),
                      checkpoint_.tensor(adapter_tensor(layer, id, *adapter, "lora_B")), adapter->scale);
}

nn::Adapter Model::load_adapter(int64_t layer, const nn::LinearId& id) const {
  const AdapterSpec* const adapter = image_adapter(spec_);
  if (merged_ || adapter == nullptr) return {};
  const auto matrix = [&](const char* name) {
    return checkpoint_.tensor(adapter_tensor(layer, id, *adapter, name)).to(device_, dtype_);
  };
  return {matrix("lora_A"), matrix("lora_B"), adapter->scale};
}

nn::DecoderLayer Model::load_layer(int64_t index) const {
  const nn::DecoderSpec& decoder = spec_.decoder;
  nn::DecoderLayer layer;
  layer.index = index;
  const std::string prefix = visq::format("{}layers.{}.", spec_.decoder_prefix, index);
  if (decoder.is_sparse(index)) {
    layer.router = load_canonical(prefix + nn::kRouterPath);
    layer.experts.resize(static_cast<size_t>(decoder.experts.count));
  }
  for (const nn::LinearId& id : nn::linears(decoder, index)) {
    const std::string module = names_.module(spec_, index, id);
    if (module.empty())
      fail("{}: no tensor of '{}{}' is in the files", checkpoint_.directory().string(), prefix,
           nn::linear_path(decoder, index, id));
    layer.linear(id) = loader_ ? loader_(module) : load_linear(module);
    if (merged_) layer.linear(id).weight = linear_weight(index, id).to(device_, dtype_);
    layer.linear(id).adapter = load_adapter(index, id);
  }
  layer.input_norm = load_norm(prefix + nn::norm_path(decoder, nn::InputGroup::attn_in));
  layer.mlp_norm = load_norm(prefix + nn::norm_path(decoder, nn::InputGroup::mlp_in));
  if (decoder.sandwich_norms) {
    layer.attn_out_norm = load_norm(prefix + "post_attention_layernorm");
    layer.mlp_out_norm = load_norm(prefix + "post_feedforward_layernorm");
  }
  const bool cross = decoder.is_cross(index);
  if (decoder.qk_norm || cross) {
    const std::string attention = prefix + (cross ? "cross_attn." : "self_attn.");
    layer.q_norm = load_norm(attention + "q_norm");
    layer.k_norm = load_norm(attention + "k_norm");
  }
  if (cross) {
    layer.attn_gate = weight(prefix + "cross_attn_attn_gate");
    layer.mlp_gate = weight(prefix + "cross_attn_mlp_gate");
  }
  return layer;
}

void Model::advance(Batch& batch, const nn::DecoderLayer& layer, const nn::LayerObserver* observer,
                    nn::KvCache* cache) const {
  batch.hidden = nn::decoder_layer(spec_.decoder, layer, batch.hidden, batch.rope, batch.offsets, observer,
                                   cache, batch.blocks,
                                   batch.vision.sequences.empty() ? nullptr : &batch.vision, batch.adapted);
  if (static_cast<size_t>(layer.index) >= batch.deepstack.size()) return;
  const at::Tensor rows = at::nonzero(batch.image_mask).squeeze(1);
  const at::Tensor& added = batch.deepstack[static_cast<size_t>(layer.index)];
  batch.hidden = batch.hidden.index_add(0, rows, added.to(batch.hidden.scalar_type()));
}

at::Tensor Model::logits(const at::Tensor& hidden) const {
  const nn::Norm& norm = parts_->final_norm.get([this] { return load_norm(spec_.decoder_prefix + "norm"); });
  const nn::Linear& head = parts_->head.get([this] {
    // A head tensor in the files wins over what config.json says of tying.
    const bool own = !names_.source("lm_head.weight").empty();
    return nn::Linear{weight(own ? "lm_head.weight" : spec_.decoder_prefix + "embed_tokens.weight"), {}, {}};
  });
  const at::Tensor last = nn::rms_norm(hidden, norm, spec_.decoder.norm_eps, spec_.decoder.norm_plus_one);
  const at::Tensor scores = nn::apply(head, last);
  const double cap = spec_.decoder.logit_softcap;
  return (cap > 0 ? (scores / cap).tanh_().mul(cap) : scores).to(at::kFloat);
}

}  // namespace visq

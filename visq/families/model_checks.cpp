#include "visq/families/model_checks.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/format.h"

namespace visq {
namespace {

class Expectations {
 public:
  void tensor(const std::string& name, std::vector<int64_t> shape) {
    tensors_.push_back({name, std::move(shape)});
  }
  void linear(const std::string& module, int64_t out, int64_t in, bool bias) {
    tensor(module + ".weight", {out, in});
    if (bias) tensor(module + ".bias", {out});
  }
  void norm(const std::string& module, int64_t channels, bool bias) {
    tensor(module + ".weight", {channels});
    if (bias) tensor(module + ".bias", {channels});
  }
  std::vector<ExpectedTensor> take() { return std::move(tensors_); }

 private:
  std::vector<ExpectedTensor> tensors_;
};

/// [out, in] of a decoder linear.
std::pair<int64_t, int64_t> linear_shape(const nn::DecoderSpec& spec, nn::Role role) {
  const int64_t queries = spec.heads * spec.head_dim, keys = spec.kv_heads * spec.head_dim;
  switch (role) {
    case nn::Role::q:
      return {queries, spec.hidden};
    case nn::Role::k:
    case nn::Role::v:
      return {keys, spec.hidden};
    case nn::Role::qkv:
      return {queries + 2 * keys, spec.hidden};
    case nn::Role::o:
      return {spec.hidden, queries};
    case nn::Role::gate:
    case nn::Role::up:
      return {spec.intermediate, spec.hidden};
    case nn::Role::gate_up:
      return {2 * spec.intermediate, spec.hidden};
    case nn::Role::down:
      return {spec.hidden, spec.intermediate};
  }
  fail("role {} does not exist", static_cast<int>(role));
}

bool has_bias(const nn::DecoderSpec& spec, nn::Role role) {
  switch (nn::group_of(role)) {
    case nn::InputGroup::attn_in:
      return spec.qkv_bias;
    case nn::InputGroup::attn_out:
      return spec.o_bias;
    case nn::InputGroup::mlp_in:
    case nn::InputGroup::mlp_out:
      return spec.mlp_bias;
  }
  return false;
}

void expect_decoder(const ModelSpec& spec, bool with_linears, Expectations& expect) {
  const nn::DecoderSpec& decoder = spec.decoder;
  expect.tensor(spec.decoder_prefix + "embed_tokens.weight", {decoder.vocab, decoder.hidden});
  for (int64_t i = 0; i < decoder.layers; ++i) {
    const std::string layer = visq::format("{}layers.{}.", spec.decoder_prefix, i);
    expect.norm(layer + "input_layernorm", decoder.hidden, false);
    expect.norm(layer + "post_attention_layernorm", decoder.hidden, false);
    if (decoder.sandwich_norms) {
      expect.norm(layer + "pre_feedforward_layernorm", decoder.hidden, false);
      expect.norm(layer + "post_feedforward_layernorm", decoder.hidden, false);
    }
    if (decoder.qk_norm) {
      expect.norm(layer + "self_attn.q_norm", decoder.head_dim, false);
      expect.norm(layer + "self_attn.k_norm", decoder.head_dim, false);
    }
    if (!with_linears) continue;
    for (const nn::Role role : nn::roles(decoder)) {
      const auto [out, in] = linear_shape(decoder, role);
      expect.linear(layer + nn::role_path(role), out, in, has_bias(decoder, role));
    }
  }
  expect.norm(spec.decoder_prefix + "norm", decoder.hidden, false);
}

void expect_tower(const ModelSpec& spec, Expectations& expect) {
  const nn::VisionSpec& vision = spec.vision;
  const TowerNames& names = spec.tower_names;
  const std::string& prefix = spec.tower_prefix;
  const bool norm_bias = !vision.rms_norm;
  std::vector<int64_t> kernel = {vision.width, 3, vision.patch, vision.patch};
  if (vision.temporal_patch > 1 || !vision.position_table)
    kernel.insert(kernel.begin() + 2, vision.temporal_patch);
  expect.tensor(prefix + names.patch + ".weight", kernel);
  if (vision.patch_bias) expect.tensor(prefix + names.patch + ".bias", {vision.width});
  if (vision.class_token) expect.tensor(prefix + names.class_embedding, {vision.width});
  if (vision.position_table) {
    const int64_t side = vision.image_size / vision.patch;
    expect.tensor(prefix + names.position_table, {side * side + (vision.class_token ? 1 : 0), vision.width});
  }
  if (vision.pre_norm) expect.norm(prefix + names.pre_norm, vision.width, true);
  for (int64_t i = 0; i < vision.layers; ++i) {
    const std::string block = visq::format("{}{}{}.", prefix, names.blocks, i);
    expect.norm(block + names.norm1, vision.width, norm_bias);
    expect.norm(block + names.norm2, vision.width, norm_bias);
    if (vision.fused_qkv) {
      expect.linear(block + names.qkv, 3 * vision.width, vision.width, true);
    } else {
      for (const std::string* const name : {&names.q, &names.k, &names.v})
        expect.linear(block + *name, vision.width, vision.width, true);
    }
    expect.linear(block + names.out, vision.width, vision.width, true);
    if (vision.gated_mlp) {
      expect.linear(block + names.gate, vision.mlp_width, vision.width, true);
      expect.linear(block + names.up, vision.mlp_width, vision.width, true);
      expect.linear(block + names.down, vision.width, vision.mlp_width, true);
    } else {
      expect.linear(block + names.fc1, vision.mlp_width, vision.width, true);
      expect.linear(block + names.fc2, vision.width, vision.mlp_width, true);
    }
  }
}

void expect_projector(const ModelSpec& spec, Expectations& expect) {
  const std::string& prefix = spec.projector_prefix;
  const int64_t layers = std::max<int64_t>(1, static_cast<int64_t>(spec.vision.feature_layers.size()));
  const int64_t in = spec.vision.width * layers * spec.projector.merge_rows;
  // The merger keeps its width in the first linear; LLaVA's projector changes to the text model's there.
  const int64_t middle = spec.projector.merge_rows > 1 ? in : spec.decoder.hidden;
  if (spec.projector.norm) expect.norm(prefix + spec.projector_names.norm, spec.vision.width, false);
  expect.linear(prefix + spec.projector_names.linear_1, middle, in, spec.projector.bias);
  expect.linear(prefix + spec.projector_names.linear_2, spec.decoder.hidden, middle, spec.projector.bias);
}

bool is_plain(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
}

void check_tensor(const ExpectedTensor& expected, const NameMap& names, const Checkpoint& checkpoint) {
  const std::string source = names.source(expected.name);
  if (source.empty())
    fail("{}: tensor '{}' is missing; config.json asks for one of shape [{}]",
         checkpoint.directory().string(), expected.name, fmt::join(expected.shape, ", "));
  const TensorInfo& info = checkpoint.info(source);
  if (info.shape != expected.shape)
    fail("{}: tensor '{}' has shape [{}], but config.json says [{}]", checkpoint.file_of(source).string(),
         source, fmt::join(info.shape, ", "), fmt::join(expected.shape, ", "));
  if (!is_plain(info.dtype))
    fail(
        "{}: tensor '{}' holds {} values, not float32, float16 or bfloat16: is the checkpoint already "
        "quantized?",
        checkpoint.file_of(source).string(), source, safetensors_dtype(info.dtype));
}

}  // namespace

std::vector<ExpectedTensor> expected_tensors(const ModelSpec& spec, bool with_linears) {
  Expectations expect;
  expect_decoder(spec, with_linears, expect);
  expect_tower(spec, expect);
  expect_projector(spec, expect);
  return expect.take();
}

void check_tensors(const ModelSpec& spec, const NameMap& names, const Checkpoint& checkpoint,
                   bool with_linears) {
  for (const ExpectedTensor& expected : expected_tensors(spec, with_linears))
    check_tensor(expected, names, checkpoint);
  const std::vector<int64_t> head = {spec.decoder.vocab, spec.decoder.hidden};
  if (!names.source("lm_head.weight").empty() || !spec.decoder.tied_head)
    check_tensor({"lm_head.weight", head}, names, checkpoint);
  if (!with_linears) return;
  for (int64_t i = 0; i < spec.decoder.layers; ++i) {
    for (const nn::Role role : nn::roles(spec.decoder)) {
      if (has_bias(spec.decoder, role)) continue;
      const std::string source =
          names.source(visq::format("{}layers.{}.{}.bias", spec.decoder_prefix, i, nn::role_path(role)));
      if (!source.empty())
        fail("{}: tensor '{}' exists, but config.json says that this linear has no bias",
             checkpoint.file_of(source).string(), source);
    }
  }
}

}  // namespace visq

#include "visq/families/model_checks.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "visq/core/format.h"
#include "visq/families/tower_checks.h"

namespace visq {
namespace {

bool has_bias(const nn::DecoderSpec& spec, nn::Role role) {
  switch (role) {
    case nn::Role::q:
    case nn::Role::k:
    case nn::Role::v:
    case nn::Role::qkv:
      return spec.qkv_bias;
    case nn::Role::o:
      return spec.o_bias;
    case nn::Role::gate:
    case nn::Role::up:
    case nn::Role::gate_up:
    case nn::Role::down:
      return spec.mlp_bias;
  }
  return false;
}

/// Of all adapters: those that no sample runs with are smoothed like the others.
void expect_adapters(const ModelSpec& spec, const std::string& module, int64_t out, int64_t in,
                     Expectations& expect) {
  for (const AdapterSpec& adapter : spec.adapters) {
    expect.tensor(visq::format("{}.lora_A.{}.weight", module, adapter.name), {adapter.rank, in});
    expect.tensor(visq::format("{}.lora_B.{}.weight", module, adapter.name), {out, adapter.rank});
  }
}

void expect_decoder(const ModelSpec& spec, bool with_linears, Expectations& expect) {
  const nn::DecoderSpec& decoder = spec.decoder;
  expect.tensor(spec.decoder_prefix + "embed_tokens.weight",
                {decoder.vocab + decoder.extra_embeddings, decoder.hidden});
  for (int64_t i = 0; i < decoder.layers; ++i) {
    const std::string layer = visq::format("{}layers.{}.", spec.decoder_prefix, i);
    expect.norm(layer + "input_layernorm", decoder.hidden, false);
    expect.norm(layer + "post_attention_layernorm", decoder.hidden, false);
    if (decoder.sandwich_norms) {
      expect.norm(layer + "pre_feedforward_layernorm", decoder.hidden, false);
      expect.norm(layer + "post_feedforward_layernorm", decoder.hidden, false);
    }
    const bool cross = decoder.is_cross(i);
    if (decoder.qk_norm || cross)
      for (const char* const norm : {"q_norm", "k_norm"})
        expect.norm(layer + (cross ? "cross_attn." : "self_attn.") + norm, decoder.head_dim, false);
    if (cross)
      for (const char* const gate : {"cross_attn_attn_gate", "cross_attn_mlp_gate"})
        expect.tensor(layer + gate, {1});
    if (decoder.is_sparse(i))
      expect.linear(layer + nn::kRouterPath, decoder.experts.count, decoder.hidden, false);
    for (const nn::LinearId& id : nn::linears(decoder, i)) {
      const auto [out, in] = nn::extent_of(decoder, i, id);
      expect_adapters(spec, layer + nn::linear_path(decoder, i, id), out, in, expect);
      if (!with_linears) continue;
      expect.linear(layer + nn::linear_path(decoder, i, id), out, in, has_bias(decoder, id.role));
    }
  }
  expect.norm(spec.decoder_prefix + "norm", decoder.hidden, false);
}

/// Leading extents of one aside.
std::vector<int64_t> compact(const std::vector<int64_t>& shape) {
  const auto first = std::ranges::find_if(shape, [](int64_t extent) { return extent != 1; });
  return {first, shape.end()};
}

bool is_plain(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf || dtype == at::kDouble;
}

void check_tensor(const ExpectedTensor& expected, const ModelSpec& spec, const NameMap& names,
                  const Checkpoint& checkpoint) {
  const std::string source = names.source(expected.name);
  if (source.empty() && !spec.tower_elsewhere.empty() && expected.name.starts_with(spec.tower_prefix))
    fail(
        "{}: the vision tower is not in the files (tensor '{}' is missing): the authors' code loads it from "
        "'{}'. Give the checkpoint as converted to Hugging Face's format, which holds the tower.",
        checkpoint.directory().string(), expected.name, spec.tower_elsewhere);
  if (source.empty())
    fail("{}: tensor '{}' is missing; config.json asks for one of shape [{}]",
         checkpoint.directory().string(), expected.name, fmt::join(expected.shape, ", "));
  const TensorInfo& info = checkpoint.info(source);
  const bool same =
      expected.leading_ones ? compact(info.shape) == compact(expected.shape) : info.shape == expected.shape;
  if (!same)
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
  expect_projectors(spec, expect);
  return expect.take();
}

void check_tensors(const ModelSpec& spec, const NameMap& names, const Checkpoint& checkpoint,
                   bool with_linears) {
  for (const ExpectedTensor& expected : expected_tensors(spec, with_linears))
    check_tensor(expected, spec, names, checkpoint);
  const std::vector<int64_t> head = {spec.decoder.vocab, spec.decoder.hidden};
  if (!names.source("lm_head.weight").empty() || !spec.decoder.tied_head)
    check_tensor({"lm_head.weight", head}, spec, names, checkpoint);
  if (!with_linears) return;
  for (int64_t i = 0; i < spec.decoder.layers; ++i) {
    for (const nn::LinearId& id : nn::linears(spec.decoder, i)) {
      if (has_bias(spec.decoder, id.role)) continue;
      const std::string source = names.source(
          visq::format("{}layers.{}.{}.bias", spec.decoder_prefix, i, nn::linear_path(spec.decoder, i, id)));
      if (!source.empty())
        fail("{}: tensor '{}' exists, but config.json says that this linear has no bias",
             checkpoint.file_of(source).string(), source);
    }
  }
}

}  // namespace visq

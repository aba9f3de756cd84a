#include "visq/export/tensorrt_llm_form.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/export/layout_parts.h"

namespace visq::trt {
namespace {

// AWQ's kernels of the head want whole tiles of rows; ModelOpt pads for them whether it is quantized or not.
constexpr int64_t kAwqVocabularyTile = 64;

bool is_awq(const Scheme& scheme) { return scheme.weight == Codec::int4; }
// Scalars of NVFP4 are stored without an extent, all others with one.
std::vector<int64_t> scalar_shape(const Scheme& scheme) {
  return scheme.weight == Codec::nvfp4 ? std::vector<int64_t>{} : std::vector<int64_t>{1};
}

float positive(const at::Tensor& scale, const std::string& origin, const char* suffix) {
  const float value = scale.to(at::kFloat).item<float>();
  if (!std::isfinite(value) || value <= 0)
    fail("{}{}: the scale is {}, not a positive number", origin, suffix, value);
  return value;
}

constexpr const char *kWeight = ".weight", *kScale = ".weights_scaling_factor",
                     *kScale2 = ".weights_scaling_factor_2", *kInputScale = ".activation_scaling_factor",
                     *kFactors = ".prequant_scaling_factor", *kRowScale = ".per_channel_scale";

}  // namespace

const std::vector<Algorithm>& algorithms() {
  static const std::vector<Algorithm> all = {
      {"fp8", "FP8", false},
      {"int8_sq", "W8A8_SQ_PER_CHANNEL", true},
      {"int8_wo", "W8A16", false},
      {"int4_awq_lite", "W4A16_AWQ", true},
      {"w4a8_awq", "W4A8_AWQ", true},
      {"nvfp4_max", "NVFP4", false},
      {"fp8_pc_pt", "FP8_PER_CHANNEL_PER_TOKEN", false},
  };
  return all;
}

const Algorithm* find_algorithm(const Scheme& scheme) {
  for (const Algorithm& algorithm : algorithms())
    if (find_preset(algorithm.preset).scheme.stored_like(scheme)) return &algorithm;
  return nullptr;
}

int64_t padded_vocabulary(int64_t rows) {
  return (rows + kAwqVocabularyTile - 1) / kAwqVocabularyTile * kAwqVocabularyTile;
}

std::string rank_file(int64_t rank) { return visq::format("rank{}.safetensors", rank); }

Form make_form(const Model& model, const std::vector<Scheme>& schemes, KvCacheFormat kv_cache,
               const Sharding& sharding) {
  if (schemes.size() != 1)
    fail("--to tensorrt-llm: the linears have {} number formats, the format has one for all; use modelopt",
         schemes.size());
  Form form{.scheme = schemes.front(), .kv_cache = kv_cache, .sharding = sharding};
  if (find_algorithm(form.scheme) == nullptr) {
    std::string known;
    for (const Algorithm& algorithm : algorithms())
      known += (known.empty() ? "" : ", ") + std::string(algorithm.preset);
    fail("--to tensorrt-llm: this format does not hold {} with inputs {}; it holds what is stored like {}",
         describe_weight(form.scheme), describe_input(form.scheme), known);
  }
  if (kv_cache != KvCacheFormat::none && kv_cache != KvCacheFormat::fp8 &&
      kv_cache != KvCacheFormat::fp8_cast)
    fail(
        "--to tensorrt-llm: this format has no place for a KV cache of {}; quantize with --kv-cache fp8 or "
        "none",
        kv_cache_name(kv_cache));
  const TensorInfo& embedding = model.checkpoint().info(embedding_name(model));
  form.dtype = embedding.dtype;
  form.vocabulary = embedding.shape.at(0);
  if (is_awq(form.scheme)) form.vocabulary = padded_vocabulary(form.vocabulary);
  // A stage without the embedding cannot share it: the last of several has a head of its own.
  form.shared_embedding = head_name(model).empty() && sharding.pipeline_parallel == 1;
  if (const std::string head = head_name(model); !head.empty())
    if (model.checkpoint().info(head).shape != embedding.shape)
      fail("{}: tensor '{}' has other extents than the embedding, which the tensorrt-llm format cannot say",
           model.checkpoint().file_of(head).string(), head);
  return form;
}

void check_sharding(const Model& model, const Form& form) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  const auto [tp, pp] = form.sharding;
  const std::string where = model.checkpoint().directory().string();
  if (tp < 1 || pp < 1 || tp * pp > 4096) fail("--tp {} --pp {}: outside 1..4096 GPUs", tp, pp);
  if (spec.layers % pp != 0)
    fail("--pp {}: {} has {} decoder layers, which so many stages cannot share evenly; choose a divisor", pp,
         where, spec.layers);
  for (const Module& module : modules(spec, form.sharding)) {
    const std::string tensor =
        model.names().module(model.spec(), 0, {module.pieces.front().role}) + ".weight";
    for (const Piece& piece : module.pieces) {
      const std::string owner = model.names().module(model.spec(), 0, {piece.role}) + ".weight";
      const bool copies = piece.shards < tp && !module.by_columns;  // key/value heads, one to several ranks
      if (copies ? tp % piece.units != 0 : piece.units % tp != 0)
        fail("--tp {}: tensor '{}' of {} has {} {}, which so many GPUs cannot share evenly; choose a divisor",
             tp, owner, where, piece.units, piece.name);
    }
    const nn::Extent extent = extent_of(spec, module, form.sharding);
    const int64_t block = form.scheme.weight == Codec::nvfp4 || is_awq(form.scheme) ? form.scheme.block : 1;
    if (extent.columns % block != 0)
      fail(
          "--tp {}: tensor '{}' of {} leaves each GPU {} columns, no multiple of the {} that share a scale; "
          "choose fewer GPUs, or more stages with --pp",
          tp, tensor, where, extent.columns, block);
    for (const Piece& piece : module.pieces)
      if (is_awq(form.scheme) && piece.count / piece.shards % 2 != 0)
        fail("--tp {}: tensor '{}' of {} leaves each GPU an odd number of rows, which int4 packs in pairs",
             tp, tensor, where);
  }
}

std::vector<LinearTensor> linear_tensors(const Form& form, const nn::Extent& extent) {
  const Scheme& scheme = form.scheme;
  const auto [n, k] = extent;
  std::vector<LinearTensor> list;
  const auto codes = [](const PackedLinear& p) { return p.weight.codes; };
  const auto scale = [](const PackedLinear& p) { return p.weight.scale; };
  const std::vector<int64_t> scalar = scalar_shape(scheme);
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      list.push_back({kWeight, at::kFloat8_e4m3fn, {n, k}, codes});
      list.push_back({kScale, at::kFloat, scalar,
                      [scalar](const PackedLinear& p) { return p.weight.scale.reshape(scalar); }});
      break;
    case Codec::fp8_rows:
      list.push_back({kWeight, at::kFloat8_e4m3fn, {n, k}, codes});
      list.push_back({kRowScale, at::kFloat, {n}, scale});
      break;
    case Codec::int8:
      list.push_back({kWeight, at::kChar, {n, k}, codes});
      list.push_back({kScale, at::kFloat, {n}, scale});
      break;
    case Codec::int4:  // ModelOpt's bytes, called signed
      list.push_back({kWeight, at::kChar, {n / 2, k}, [](const PackedLinear& p) {
                        return int4_to_row_pairs(p.weight.codes.contiguous()).view(at::kChar);
                      }});
      list.push_back({kScale, at::kFloat, {n, k / scheme.block}, scale});
      break;
    case Codec::nvfp4:
      list.push_back({kWeight, at::kByte, {n, k / 2}, codes});
      list.push_back({kScale, at::kFloat8_e4m3fn, {n, k / scheme.block}, scale});
      list.push_back({kScale2, at::kFloat, scalar, [](const PackedLinear& p) { return p.weight.scale_2; }});
      break;
    default:
      fail("the tensorrt-llm format does not hold {}", codec_name(scheme.weight));
  }
  if (scheme.fp8_second_stage)
    list.push_back({kScale2, at::kFloat, scalar, [scalar](const PackedLinear& p) {
                      return scalar_tensor(p.second_scale.value(), at::kFloat, scalar);
                    }});
  if (scheme.has_input_scale())
    list.push_back({kInputScale, at::kFloat, scalar, [scalar](const PackedLinear& p) {
                      return scalar_tensor(p.input_scale.value(), at::kFloat, scalar);
                    }});
  if (find_algorithm(scheme)->has_factors)
    list.push_back({kFactors, form.dtype, {k}, [k = k, dtype = form.dtype](const PackedLinear& p) {
                      return p.pre_quant_scale.defined() ? p.pre_quant_scale.to(dtype) : at::ones({k}, dtype);
                    }});
  return list;
}

PackedLinear read_linear(const Form& form, const nn::Extent& extent, const std::string& origin,
                         const std::function<at::Tensor(const std::string& suffix)>& tensor) {
  const Scheme& scheme = form.scheme;
  PackedLinear linear = unfilled(scheme);
  PackedTensor& packed = linear.weight;
  packed.rows = extent.rows;
  packed.columns = extent.columns;
  packed.codes = tensor(kWeight);
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      packed.scale = scalar_tensor(positive(tensor(kScale), origin, kScale), at::kFloat, {});
      break;
    case Codec::fp8_rows:
      packed.scale = tensor(kRowScale);
      break;
    case Codec::int4:
      packed.codes = int4_from_row_pairs(packed.codes.view(at::kByte));
      packed.scale = tensor(kScale);
      break;
    case Codec::nvfp4:
      packed.scale_2 = scalar_tensor(positive(tensor(kScale2), origin, kScale2), at::kFloat, {});
      packed.scale = tensor(kScale);
      break;
    default:
      packed.scale = tensor(kScale);
  }
  if (scheme.fp8_second_stage) linear.second_scale = positive(tensor(kScale2), origin, kScale2);
  if (scheme.has_input_scale()) linear.input_scale = positive(tensor(kInputScale), origin, kInputScale);
  if (find_algorithm(scheme)->has_factors) linear.pre_quant_scale = tensor(kFactors);
  return linear;
}

bool has_bias(const Model& model, int64_t layer, const Module& module) {
  return model.checkpoint().contains(model.names().module(model.spec(), layer, {module.pieces.front().role}) +
                                     ".bias");
}

std::vector<PlannedTensor> rank_tensors(const Model& model, const Form& form, int64_t rank) {
  const nn::DecoderSpec& spec = model.spec().decoder;
  const int64_t stage = rank / form.sharding.tensor_parallel;
  const int64_t layers = spec.layers / form.sharding.pipeline_parallel;
  std::vector<PlannedTensor> all;
  const std::vector<int64_t> table = {form.vocabulary_rows(), spec.hidden};
  if (stage == 0) all.push_back({kEmbedding, form.dtype, table});
  const std::vector<Module> of_layer = modules(spec, form.sharding);
  for (int64_t local = 0; local < layers; ++local) {
    const int64_t layer = stage * layers + local;
    const std::string prefix = layer_prefix(local);
    for (const PlainTensor& norm : layer_norms(model, layer))
      all.push_back({prefix + norm.name,
                     form.dtype,
                     {norm.name.starts_with("attention.") ? spec.head_dim : spec.hidden}});
    for (const Module& module : of_layer) {
      const nn::Extent extent = extent_of(spec, module, form.sharding);
      for (const LinearTensor& tensor : linear_tensors(form, extent))
        all.push_back({prefix + module.name + tensor.suffix, tensor.dtype, tensor.shape});
      if (has_bias(model, layer, module))
        all.push_back({prefix + module.name + ".bias", form.dtype, {extent.rows}});
    }
    if (form.kv_cache == KvCacheFormat::none) continue;
    for (const char* scale : {kKeyScale, kValueScale, kCacheScale})
      all.push_back({prefix + scale, at::kFloat, {1}});
  }
  if (stage == form.sharding.pipeline_parallel - 1) {
    all.push_back({kFinalNorm, form.dtype, {spec.hidden}});
    if (!form.shared_embedding) all.push_back({kHead, form.dtype, table});
  }
  return all;
}

}  // namespace visq::trt

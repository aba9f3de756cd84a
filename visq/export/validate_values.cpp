// Rules D (scales) and E (values against the source).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"
#include "visq/export/validation_context.h"
#include "visq/quant/rotation.h"

namespace visq {
namespace {

constexpr double kMinScalar = 1e-8, kMaxScalar = 1e3;  // of input and cache scales (spec/export.md §8 D1)

double number(const at::Tensor& tensor) { return tensor.to(at::kDouble).item<double>(); }

// Relative Frobenius error of a correct export, with room for outlier channels; a wrong axis, nibble order or
// scale lies far beyond (spec/export.md §8 E). GPTQ rounds further where that serves the outputs.
double nearest_error_bound(const Scheme& scheme) {
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
    case Codec::fp8_blocks:
    case Codec::mxfp8:
      return 0.05;
    case Codec::int8:
    case Codec::mxint8:
      return 0.06;
    case Codec::mxfp6:
      return 0.1;
    case Codec::mxfp4:
      return 0.25;
    case Codec::int4:
    case Codec::int4_asym:
      return 0.35;
    case Codec::nf4:
    case Codec::nvfp4:
      return 0.2;
  }
  return 0;
}

double error_bound(const Scheme& scheme) {
  return nearest_error_bound(scheme) * (scheme.rounding == Rounding::gptq ? 1.5 : 1);
}

// uint8 [rows, columns] → of each block of 128 × 128.
at::Tensor largest_in_blocks(const at::Tensor& codes) {
  const int64_t down = blocks_of(codes.size(0)), across = blocks_of(codes.size(1));
  const at::Tensor padded = at::constant_pad_nd(
      codes, {0, across * kFp8Block - codes.size(1), 0, down * kFp8Block - codes.size(0)});
  return padded.view({down, kFp8Block, across, kFp8Block}).amax({1, 3});
}

// The value that the largest element of an MX block rounds to at least: its scale is the smallest power of
// two that holds it, so it lies in the upper half of the range.
float smallest_amax(Codec codec) { return codec == Codec::mxint8 ? 64 : mx_max(codec) / 2; }

void check_codes(const std::string& module, const PackedTensor& weight, Findings& findings) {
  switch (weight.codec) {
    case Codec::fp8_e4m3:
      break;
    case Codec::fp8_rows:
    case Codec::fp8_blocks: {
      const at::Tensor codes = weight.codes.view(at::kByte).bitwise_and(0x7F);  // ordered as their values
      const at::Tensor largest = weight.codec == Codec::fp8_rows ? codes.amax(1) : largest_in_blocks(codes);
      findings.expect(((largest == 0x7E) | (largest == 0)).all().item<bool>(),
                      "'{}': the largest code of some {} is neither 0 nor 448", module,
                      weight.codec == Codec::fp8_rows ? "row" : "block");
      break;
    }
    case Codec::int8: {
      const at::Tensor largest = weight.codes.to(at::kShort).abs().amax(1);
      findings.expect(((largest == 127) | (largest == 0)).all().item<bool>(),
                      "'{}': a row's largest code is not 127", module);
      break;
    }
    case Codec::int4: {
      const at::Tensor largest = weight.codes.abs().view({weight.rows, -1, weight.block}).amax(2);
      findings.expect(((largest == 7) | (largest == 0)).all().item<bool>(),
                      "'{}': a block's largest code is not 7", module);
      break;
    }
    case Codec::int4_asym: {
      const at::Tensor zero = weight.zero_point.unsqueeze(-1);
      const at::Tensor blocks = weight.codes.view({weight.rows, -1, weight.block});
      const at::Tensor reach =
          at::maximum(blocks.amax(2, true), zero) - at::minimum(blocks.amin(2, true), zero);
      // 15 levels apart, where roundings of scale and zero point did not take one.
      findings.expect(((reach >= 14) | (reach == 0)).all().item<bool>(),
                      "'{}': codes of a block are less than 14 apart", module);
      break;
    }
    case Codec::nf4: {
      const at::Tensor blocks = weight.codes.view({weight.rows, -1, weight.block / 2});
      const at::Tensor high = blocks.bitwise_right_shift(4), low = blocks.bitwise_and(15);
      const at::Tensor largest = ((high == 0) | (high == 15) | (low == 0) | (low == 15)).any(2);
      const at::Tensor zeros = (blocks == 0x77).all(2);  // level 7 is 0
      findings.expect((largest | zeros).all().item<bool>(),
                      "'{}': a block's largest code is neither −1 nor 1", module);
      break;
    }
    case Codec::nvfp4: {
      const at::Tensor scale = weight.scale.to(at::kFloat);
      findings.expect(scale.min().item<float>() >= std::ldexp(1.0f, -9), "'{}': a block scale is 0", module);
      break;
    }
    case Codec::mxfp4:
    case Codec::mxfp6:
    case Codec::mxfp8:
    case Codec::mxint8: {
      PackedTensor elements = weight;
      elements.scale = at::full_like(weight.scale, 127);  // 1
      const at::Tensor largest = dequantize(elements).abs().view({weight.rows, -1, weight.block}).amax(2);
      findings.expect(((largest >= smallest_amax(weight.codec)) | (weight.scale == 0)).all().item<bool>(),
                      "'{}': the scale of a block is larger than its values need", module);
      break;
    }
  }
}

// D1–D4: finite, positive, within bounds.
void check_each(const ValidationContext& context, Validation& validation) {
  Findings finite(validation, "C4", "no NaN byte, no infinite scale");
  Findings positive(validation, "D1", "scales are positive and plausible");
  Findings codes(validation, "D3", "codes use their range");
  bool searched = false;
  for (const std::string& module : context.modules) {
    const Scheme& scheme = context.quantized.scheme(module);
    const bool largest_codes = scheme.scales == ScaleSearch::max && scheme.rounding == Rounding::nearest;
    searched |= !largest_codes;
    const PackedLinear linear = context.quantized.read(module);
    for (const at::Tensor* tensor : {&linear.weight.codes, &linear.weight.scale, &linear.weight.scale_2,
                                     &linear.low_rank.a, &linear.low_rank.b}) {
      if (!tensor->defined()) continue;
      if (tensor->scalar_type() == at::kFloat8_e4m3fn)
        finite.expect(!tensor->view(at::kByte).bitwise_and(0x7F).eq(0x7F).any().item<bool>(),
                      "'{}' holds a NaN", module);
      else if (is_mx(linear.weight.codec) && tensor == &linear.weight.scale)
        finite.expect(tensor->ne(255).all().item<bool>(), "'{}' holds a NaN", module);
      else if (at::isFloatingType(tensor->scalar_type()))
        finite.expect(at::isfinite(*tensor).all().item<bool>(), "'{}' holds a number that is not finite",
                      module);
    }
    if (linear.weight.codec == Codec::nf4)  // scales are codes; under their mean is where zeros lie
      positive.expect(
          linear.weight.scale_2.ge(0).all().item<bool>() && linear.weight.zero_point.item<float>() >= 0,
          "'{}': a scale of scales is negative", module);
    else if (!is_mx(linear.weight.codec))  // whose scales are powers of two
      positive.expect(linear.weight.scale.to(at::kFloat).gt(0).all().item<bool>(),
                      "'{}': a weight scale is not positive", module);
    if (linear.input_scale)
      positive.expect(*linear.input_scale >= kMinScalar && *linear.input_scale <= kMaxScalar,
                      "'{}': input scale {} is not plausible", module, *linear.input_scale);
    if (largest_codes) check_codes(module, linear.weight, codes);
  }
  if (searched) codes.skip("the solver may leave the largest codes unused");
}

void check_kv_scales(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "D1", "scales of the KV cache are plausible");
  if (context.quantized.kv_cache() == KvCacheFormat::none)
    return findings.skip("the KV cache is not quantized");
  const KvFormat& format = kv_format(context.quantized.kv_cache());
  if (!format.calibrated) return findings.skip("the scales of this format are 1");
  for (const std::string& module : context.linears) {
    if (!module.ends_with(".self_attn.k_proj") && !module.ends_with(".cross_attn.k_proj")) continue;
    const std::string attention = module.substr(0, module.rfind('.'));
    const auto tensors = context.quantized.layout().kv_tensors({attention, format.format});
    const bool stored = std::ranges::any_of(
        tensors, [&](const KvLayoutTensor& tensor) { return context.output.contains(tensor.planned.name); });
    if (!context.modules.contains(module) && !stored) continue;  // a tower's attention
    const KvScales scales = context.quantized.kv_scales(attention);
    for (const at::Tensor& scale : {scales.key.scale, scales.value.scale})
      findings.expect(((scale >= kMinScalar) & (scale <= kMaxScalar)).all().item<bool>(),
                      "'{}': a KV scale between {} and {} is not plausible", module, number(scale.min()),
                      number(scale.max()));
  }
}

void check_fused(const ValidationContext& context, Validation& validation) {
  Findings fused(validation, "D9", "fused linears share their scalar scales");
  Findings range(validation, "D5", "scalar scales cover the largest weight of the fused group");
  if (std::ranges::none_of(context.quantized.schemes(), [](const Scheme& scheme) {
        return scheme.weight == Codec::nvfp4 || scheme.fp8_second_stage;
      }))
    range.skip("the format has no second scale");
  auto groups = context.fused_groups();
  for (const std::string& module : context.modules)
    if (reads_alone(module)) groups.push_back({module});
  for (const auto& group : groups) {
    const Scheme& scheme = context.quantized.scheme(group.front());
    std::vector<PackedLinear> linears;
    double largest = 0;
    for (const std::string& module : group) {
      linears.push_back(context.quantized.read(module));
      largest = std::max(largest, number(linears.back().weight.scale.to(at::kFloat).max()));
      const PackedLinear &first = linears.front(), &here = linears.back();
      fused.expect(here.input_scale == first.input_scale, "'{}' and '{}' have unlike input scales",
                   group.front(), module);
      fused.expect(here.second_scale == first.second_scale, "'{}' and '{}' have unlike second scales",
                   group.front(), module);
      if (scheme.weight == Codec::fp8_e4m3)
        fused.expect(at::equal(here.weight.scale, first.weight.scale),
                     "'{}' and '{}' have unlike weight scales", group.front(), module);
      if (scheme.weight == Codec::nvfp4)
        fused.expect(at::equal(here.weight.scale_2, first.weight.scale_2),
                     "'{}' and '{}' have unlike scale_2", group.front(), module);
    }
    if (scheme.weight == Codec::nvfp4) {
      // 448, or 72, the E4M3 nearest to 448/6. A search may choose another, but not one of another magnitude.
      const double full = scheme.nvfp4_range() == kFp8Max ? 72 : kFp8Max;
      const double least = scheme.scales == ScaleSearch::max ? full : full / 2;
      range.expect(largest >= least && largest <= full,
                   "'{}': the largest block scale of the group is {}, not {}", group.front(), largest, full);
    }
    if (scheme.fp8_second_stage)
      range.expect(std::abs(*linears.front().second_scale * 64 / largest - 1) < 1e-5,
                   "'{}': weight_scale_2 · 64 is {}, the largest weight scale {}", group.front(),
                   *linears.front().second_scale * 64, largest);
  }
}

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const double power = number(b.square().sum());
  return power > 0 ? std::sqrt(number((a - b).square().sum()) / power) : number(a.abs().max());
}

// Gemma's norms are stored less one (spec/models-phi-gemma.md §0.5).
bool multiplies_by_one_plus_weight(const std::string& model_type) {
  return model_type.starts_with("gemma") || model_type.starts_with("paligemma");
}

// The scale that smoothing moved from a norm into the weights, norm_source / norm_output; undefined: none.
at::Tensor folded_into_norm(const ValidationContext& context, const std::string& quantized) {
  const std::string module = linear_name(quantized);
  const bool reads_images = module.ends_with("cross_attn.k_proj") || module.ends_with("cross_attn.v_proj");
  const bool attention = !reads_images && (module.ends_with("q_proj") || module.ends_with("k_proj") ||
                                           module.ends_with("v_proj"));
  const bool mlp = module.ends_with("gate_proj") || module.ends_with("up_proj");
  if (!attention && !mlp) return {};
  size_t block = std::string::npos;
  for (const char* part : {".self_attn.", ".cross_attn.", ".mlp.", ".feed_forward."})
    if (block == std::string::npos) block = module.rfind(part);
  if (block == std::string::npos) return {};
  const std::string layer = module.substr(0, block + 1);
  std::string norm = layer + (attention ? "input_layernorm.weight" : "post_attention_layernorm.weight");
  // Where norms follow attention and MLP too (Gemma), another one stands before the MLP.
  const std::string before_mlp = layer + "pre_feedforward_layernorm.weight";
  if (mlp && context.source->contains(before_mlp)) norm = before_mlp;
  if (!context.source->contains(norm)) return {};
  const double offset = multiplies_by_one_plus_weight(context.model_type) ? 1 : 0;
  const at::Tensor before = context.source->tensor(norm).to(at::kFloat) + offset,
                   after = context.output.tensor(norm).to(at::kFloat) + offset;
  return at::where(before == 0, at::ones_like(before), before / after);
}

// The source's values or output projection with their heads rotated; undefined: not of these.
at::Tensor rotated_reference(const ValidationContext& context, const std::string& name,
                             const at::Tensor& reference) {
  const Json& config = context.output.text_model().config;
  const Json text = config.value("text_config", config);
  const auto hidden = get_or<int64_t>(text, "hidden_size", 0, "config.json"),
             heads = get_or<int64_t>(text, "num_attention_heads", 0, "config.json"),
             kv_heads = get_or<int64_t>(text, "num_key_value_heads", heads, "config.json"),
             dim = get_or<int64_t>(text, "head_dim", heads > 0 ? hidden / heads : 0, "config.json");
  if (dim <= 0) return {};
  if (name.ends_with("o_proj") && reference.size(1) % dim == 0) return rotate_columns(reference, dim);
  if (name.ends_with("v_proj") && reference.size(0) % dim == 0) return rotate_rows(reference, dim);
  if (!name.ends_with("qkv_proj") || reference.size(0) < kv_heads * dim) return {};
  at::Tensor turned = reference.clone();
  const at::Tensor values = turned.narrow(0, turned.size(0) - kv_heads * dim, kv_heads * dim);
  values.copy_(rotate_rows(values, dim));
  return turned;
}

// Least-squares factor per row (dim 1) or column (dim 0) from `reference` to `value`.
at::Tensor fitted_factor(const at::Tensor& value, const at::Tensor& reference, int64_t dim) {
  const at::Tensor power = reference.square().sum(dim, true);
  return at::where(power > 0, (value * reference).sum(dim, true) / power, at::ones_like(power));
}

}  // namespace

void check_scales(const ValidationContext& context, Validation& validation) {
  check_each(context, validation);
  check_kv_scales(context, validation);
  check_fused(context, validation);
}

void check_values(const ValidationContext& context, Validation& validation) {
  Findings errors(validation, "E1",
                  "dequantized weights are the source's, up to rounding and folded smoothing");
  Findings pairs(validation, "E3", "what smoothing took from v and up is what o and down got");
  if (context.source == nullptr) {
    errors.skip("needs --source");
    pairs.skip("needs --source");
    return;
  }
  const bool smoothed = context.quantized.is_smoothed();
  if (!smoothed) pairs.skip("the format does not smooth");
  std::map<std::string, at::Tensor> taken;  // of v and up rows, per block
  for (const char* pass : {"writers", "readers"})
    for (const std::string& module : context.modules) {
      const std::string name = linear_name(module);
      const bool writer = name.ends_with("v_proj") || name.ends_with("up_proj");
      const bool reader = name.ends_with("o_proj") || name.ends_with("down_proj");
      if (reader != (pass == std::string("readers"))) continue;
      const PackedLinear linear = context.quantized.read(module);
      at::Tensor value = QuantizedCheckpoint::effective_weight(linear);
      if (linear.low_rank.a.defined()) value = value + linear.low_rank.product();
      at::Tensor reference = source_weight(context, module).to(at::kFloat);
      if (value.sizes() != reference.sizes()) continue;  // C1 names it
      const std::string block = name.substr(0, name.rfind('.'));
      if (context.quantized.scheme(module).rotated && reference.dim() == 2) {
        // Whether a linear was rotated depends on its neighbours, so either will do.
        const at::Tensor turned = rotated_reference(context, name, reference);
        if (turned.defined() && relative_error(value, turned) < relative_error(value, reference))
          reference = turned;
      }
      if (smoothed) {
        if (const at::Tensor scale = folded_into_norm(context, module); scale.defined())
          reference = reference * scale;
        if (writer || reader) {
          const at::Tensor factor = fitted_factor(value, reference, writer ? 1 : 0);
          reference = reference * factor;
          if (writer) {
            taken[block] = factor.flatten().reciprocal();
          } else if (taken.contains(block) && factor.numel() >= taken[block].numel()) {
            at::Tensor expected = taken[block];
            if (factor.numel() != expected.numel()) {  // heads that share a value row
              const Json& config = context.output.text_model().config;
              const Json text = config.value("text_config", config);
              const auto head_dim = get_or<int64_t>(text, "head_dim", 0, "config.json");
              const auto heads = get_or<int64_t>(text, "num_attention_heads", 0, "config.json");
              const int64_t dim = head_dim > 0 ? head_dim : heads > 0 ? factor.numel() / heads : 0;
              if (dim == 0 || expected.numel() % dim != 0 || factor.numel() % expected.numel() != 0) continue;
              expected = expected.view({-1, 1, dim})
                             .expand({-1, factor.numel() / expected.numel(), dim})
                             .reshape(-1);
            }
            const double off = number((factor.flatten() / expected - 1).abs().median());
            pairs.expect(
                off < 0.1,
                "'{}': its columns were scaled otherwise than the rows before them (median {:.3f} off)",
                module, off);
          }
        }
      }
      const double error = relative_error(value, reference);
      const double bound = error_bound(context.quantized.scheme(module));
      errors.expect(error <= bound, "'{}': relative error {:.3f}, more than {:.3f}", module, error, bound);
    }
}

}  // namespace visq

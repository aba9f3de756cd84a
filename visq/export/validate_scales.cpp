// Rules D: scales and codes.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/layout_parts.h"
#include "visq/export/validation_context.h"
#include "visq/quant/grid.h"

namespace visq {
namespace {

constexpr double kMinScalar = 1e-8, kMaxScalar = 1e3;  // of input and cache scales (spec/export.md §8 D1)

constexpr const char* kCopy = "quantize again, or copy the tensor from a sound export";
constexpr const char* kTighten = "quantize again: the scale is larger than the values need";
constexpr const char* kShare = "quantize again: fused linears share scalar scales";

double number(const at::Tensor& tensor) { return tensor.to(at::kDouble).item<double>(); }

// uint8 [rows, columns] → of each block of 128 × 128.
at::Tensor largest_in_blocks(const at::Tensor& codes) {
  const int64_t down = blocks_of(codes.size(0)), across = blocks_of(codes.size(1));
  const at::Tensor padded = at::constant_pad_nd(
      codes, {0, across * kFp8Block - codes.size(1), 0, down * kFp8Block - codes.size(0)});
  return padded.view({down, kFp8Block, across, kFp8Block}).amax({1, 3});
}

// Of integer codes that share a scale. [rows, blocks]
at::Tensor largest_in_groups(const PackedTensor& weight) {
  return weight.codes.to(at::kShort).abs().view({weight.rows, -1, step_columns(weight)}).amax(2);
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
      findings.expect(((largest == 0x7E) | (largest == 0)).all().item<bool>(), kTighten,
                      "'{}': the largest code of some {} is neither 0 nor 448", module,
                      weight.codec == Codec::fp8_rows ? "row" : "block");
      break;
    }
    case Codec::int8: {
      const at::Tensor largest = largest_in_groups(weight);
      // −128: some tools' scales are half a step smaller.
      findings.expect(((largest >= 127) | (largest == 0)).all().item<bool>(), kTighten,
                      "'{}': a {}'s largest code is not 127", module, weight.block > 0 ? "block" : "row");
      break;
    }
    case Codec::int4: {
      const at::Tensor largest = largest_in_groups(weight);
      findings.expect(((largest >= 7) | (largest == 0)).all().item<bool>(), kTighten,
                      "'{}': a block's largest code is not 7", module);
      break;
    }
    case Codec::int4_asym: {
      const at::Tensor zero = weight.zero_point.unsqueeze(-1);
      const at::Tensor blocks = weight.codes.view({weight.rows, -1, step_columns(weight)});
      const at::Tensor reach =
          at::maximum(blocks.amax(2, true), zero) - at::minimum(blocks.amin(2, true), zero);
      // 15 levels apart, where roundings of scale and zero point did not take one.
      findings.expect(((reach >= 14) | (reach == 0)).all().item<bool>(), kTighten,
                      "'{}': codes of a block are less than 14 apart", module);
      break;
    }
    case Codec::nf4: {
      const at::Tensor blocks = weight.codes.view({weight.rows, -1, weight.block / 2});
      const at::Tensor high = blocks.bitwise_right_shift(4), low = blocks.bitwise_and(15);
      const at::Tensor largest = ((high == 0) | (high == 15) | (low == 0) | (low == 15)).any(2);
      const at::Tensor zeros = (blocks == 0x77).all(2);  // level 7 is 0
      findings.expect((largest | zeros).all().item<bool>(), kTighten,
                      "'{}': a block's largest code is neither −1 nor 1", module);
      break;
    }
    case Codec::nvfp4: {
      const at::Tensor scale = weight.scale.to(at::kFloat);
      findings.expect(scale.min().item<float>() >= std::ldexp(1.0f, -9),
                      "store the smallest scale instead, 2^-9", "'{}': a block scale is 0", module);
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
                      kTighten, "'{}': the scale of a block is larger than its values need", module);
      break;
    }
  }
}

// Other tools choose scales otherwise, and what visq's own would be is no rule for them.
bool is_ours(const ValidationContext& context) {
  return context.quantization.contains("producer") &&
         json_text(context.quantization.at("producer")).find("visq") != std::string::npos;
}

// D1–D4: finite, positive, within bounds.
void check_each(const ValidationContext& context, Validation& validation) {
  Findings finite(validation, "C4", "no NaN byte, no infinite scale");
  Findings positive(validation, "D1", "scales are positive and plausible");
  Findings codes(validation, "D3", "codes use their range");
  bool searched = false;
  for (const std::string& module : context.modules) {
    const Scheme& scheme = context.quantized->scheme(module);
    const bool largest_codes = scheme.scales == ScaleSearch::max && scheme.rounding == Rounding::nearest;
    searched |= !largest_codes;
    const std::optional<PackedLinear> stored = context.read(module);
    if (!stored) continue;  // C1 says why
    const PackedLinear& linear = *stored;
    for (const at::Tensor* tensor : {&linear.weight.codes, &linear.weight.scale, &linear.weight.scale_2,
                                     &linear.low_rank.a, &linear.low_rank.b}) {
      if (!tensor->defined()) continue;
      if (tensor->scalar_type() == at::kFloat8_e4m3fn)
        finite.expect(!tensor->view(at::kByte).bitwise_and(0x7F).eq(0x7F).any().item<bool>(), kCopy,
                      "'{}' holds a NaN", module);
      else if (is_mx(linear.weight.codec) && tensor == &linear.weight.scale)
        finite.expect(tensor->ne(255).all().item<bool>(), kCopy, "'{}' holds a NaN", module);
      else if (at::isFloatingType(tensor->scalar_type()))
        finite.expect(at::isfinite(*tensor).all().item<bool>(), kCopy,
                      "'{}' holds a number that is not finite", module);
    }
    if (linear.weight.codec == Codec::nf4)  // scales are codes; under their mean is where zeros lie
      positive.expect(
          linear.weight.scale_2.ge(0).all().item<bool>() && linear.weight.zero_point.item<float>() >= 0,
          kCopy, "'{}': a scale of scales is negative", module);
    else if (!is_mx(linear.weight.codec))  // whose scales are powers of two
      positive.expect(linear.weight.scale.to(at::kFloat).gt(0).all().item<bool>(), kCopy,
                      "'{}': a weight scale is not positive", module);
    if (linear.input_scale)
      positive.expect(*linear.input_scale >= kMinScalar && *linear.input_scale <= kMaxScalar,
                      "calibrate again", "'{}': input scale {} is not plausible", module,
                      *linear.input_scale);
    if (largest_codes) check_codes(module, linear.weight, codes);
  }
  if (!is_ours(context)) codes.soften();
  if (searched) codes.skip("the solver may leave the largest codes unused");
}

void check_kv_scales(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "D1", "scales of the KV cache are plausible");
  if (context.quantized->kv_cache() == KvCacheFormat::none)
    return findings.skip("the KV cache is not quantized");
  const KvFormat& format = kv_format(context.quantized->kv_cache());
  if (!format.calibrated) return findings.skip("the scales of this format are 1");
  for (const std::string& module : context.linears) {
    if (!module.ends_with(".self_attn.k_proj") && !module.ends_with(".cross_attn.k_proj")) continue;
    const std::string attention = parent_of(module);
    const auto tensors = context.quantized->layout().kv_tensors({attention, format.format});
    const bool stored = std::ranges::any_of(
        tensors, [&](const KvLayoutTensor& tensor) { return context.output.contains(tensor.planned.name); });
    if (!stored) continue;  // a tower's attention, or B12 says so
    if (!std::ranges::all_of(tensors, [&](const KvLayoutTensor& tensor) {
          return context.output.contains(tensor.planned.name);
        }))
      continue;  // B12
    const KvScales scales = context.quantized->kv_scales(attention);
    for (const at::Tensor& scale : {scales.key.scale, scales.value.scale})
      findings.expect(((scale >= kMinScalar) & (scale <= kMaxScalar)).all().item<bool>(), "calibrate again",
                      "'{}': a KV scale between {} and {} is not plausible", module, number(scale.min()),
                      number(scale.max()));
  }
}

bool same_order(const PackedLinear& a, const PackedLinear& b) {
  if (!a.column_order.defined() || !b.column_order.defined())
    return a.column_order.defined() == b.column_order.defined();
  return a.column_order.equal(b.column_order);
}

void check_fused(const ValidationContext& context, Validation& validation) {
  Findings fused(validation, "D9", "fused linears share their scalar scales");
  Findings range(validation, "D5", "scalar scales cover the largest weight of the fused group");
  if (!is_ours(context)) range.soften();
  if (std::ranges::none_of(context.quantized->schemes(), [](const Scheme& scheme) {
        return scheme.weight == Codec::nvfp4 || scheme.fp8_second_stage;
      }))
    range.skip("the format has no second scale");
  auto groups = context.fused_groups();
  for (const std::string& module : context.modules)
    if (reads_alone(module)) groups.push_back({module});
  for (const auto& group : groups) {
    const Scheme& scheme = context.quantized->scheme(group.front());
    std::vector<PackedLinear> linears;
    double largest = 0;
    for (const std::string& module : group) {
      std::optional<PackedLinear> stored = context.read(module);
      if (!stored) continue;  // C1 says why
      linears.push_back(std::move(*stored));
      largest = std::max(largest, number(linears.back().weight.scale.to(at::kFloat).max()));
      const PackedLinear &first = linears.front(), &here = linears.back();
      const auto compare = [&](const char* what, double mine, double others) {
        fused.count();
        if (mine == others) return;
        fused.add("",
                  visq::format(
                      "'{}' and '{}' have unlike {} ({:.4g} and {:.4g}): vLLM dequantizes both with one of "
                      "them, TensorRT-LLM asserts that they are equal",
                      group.front(), module, what, others, mine),
                  kShare);
      };
      fused.expect(same_order(first, here), kShare,
                   "'{}' and '{}' put their columns into unlike groups: engines keep one order for both",
                   group.front(), module);
      compare("input scales", here.input_scale.value_or(0), first.input_scale.value_or(0));
      compare("second scales", here.second_scale.value_or(0), first.second_scale.value_or(0));
      if (scheme.weight == Codec::fp8_e4m3 &&
          is_ours(context))  // ModelOpt leaves them as they are, which loads
        compare("weight scales", number(here.weight.scale.to(at::kFloat).max()),
                number(first.weight.scale.to(at::kFloat).max()));
      if (scheme.weight == Codec::nvfp4)
        compare("global weight scales", number(here.weight.scale_2), number(first.weight.scale_2));
    }
    if (linears.size() < group.size()) continue;
    if (scheme.weight == Codec::nvfp4) {
      // 448, or 72, the E4M3 nearest to 448/6. A search may choose another, but not one of another magnitude.
      const double full = scheme.nvfp4_range() == kFp8Max ? 72 : kFp8Max;
      const double least = scheme.scales == ScaleSearch::max ? full : full / 2;
      range.expect(largest >= least && largest <= full, kTighten,
                   "'{}': the largest block scale of the group is {}, not {}", group.front(), largest, full);
    }
    if (scheme.fp8_second_stage)
      range.expect(std::abs(*linears.front().second_scale * 64 / largest - 1) < 1e-5, kShare,
                   "'{}': weight_scale_2 · 64 is {}, the largest weight scale {}", group.front(),
                   *linears.front().second_scale * 64, largest);
  }
}

}  // namespace

void check_scales(const ValidationContext& context, Validation& validation) {
  check_each(context, validation);
  check_kv_scales(context, validation);
  check_fused(context, validation);
}

}  // namespace visq

#include "visq/pipeline/packed_difference.h"

#include <ATen/ATen.h>

#include <cmath>

namespace visq {
namespace {

bool same(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (a.sizes() != b.sizes()) return false;
  if (a.scalar_type() != b.scalar_type()) return a.to(at::kFloat).equal(b.to(at::kFloat));
  return a.element_size() == 1 ? a.contiguous().view(at::kByte).equal(b.contiguous().view(at::kByte))
                               : a.equal(b);
}

// Within a rounding of their reciprocals, which is what some layouts store.
bool nearly(double a, double b) { return std::abs(a - b) <= std::abs(b) * 0x1p-22; }
bool nearly(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  if (a.dim() > 0) return same(a, b);
  return nearly(a.item<double>(), b.item<double>());
}
bool nearly(const std::optional<float>& a, const std::optional<float>& b) {
  return a.has_value() == b.has_value() && (!a || nearly(*a, *b));
}

}  // namespace

bool is_one(const at::Tensor& factors) { return !factors.defined() || factors.eq(1).all().item<bool>(); }

const char* difference(const PackedLinear& before, const PackedLinear& after) {
  if (!same(before.weight.codes, after.weight.codes)) return "codes";
  if (!same(before.column_order, after.column_order)) return "order of columns";
  // The same scale may stand once for a row or for each of its blocks.
  if (!same(before.weight.scale, after.weight.scale) &&
      !same(dequantize(before.weight), dequantize(after.weight)))
    return "scales";
  if (!nearly(before.weight.scale_2, after.weight.scale_2)) return "scale of scales";
  if (!same(before.weight.zero_point, after.weight.zero_point)) return "zero points";
  if (!nearly(before.input_scale, after.input_scale)) return "input scale";
  if (!nearly(before.second_scale, after.second_scale)) return "second scale";
  if (!is_one(before.pre_quant_scale) || !is_one(after.pre_quant_scale))
    if (!same(before.pre_quant_scale, after.pre_quant_scale)) return "factors of the input (pre_quant_scale)";
  if (!same(before.low_rank.a, after.low_rank.a) || !same(before.low_rank.b, after.low_rank.b))
    return "low-rank factors";
  return "";
}

const char* difference(const KvScales& before, const KvScales& after) {
  for (const auto member : {&KvScales::key, &KvScales::value}) {
    if (!same((before.*member).scale, (after.*member).scale)) return "scales of the KV cache";
    if (!same((before.*member).bias, (after.*member).bias)) return "means of the KV cache";
  }
  return "";
}

}  // namespace visq

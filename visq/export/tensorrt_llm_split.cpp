#include "visq/export/tensorrt_llm_split.h"

#include <ATen/ATen.h>

namespace visq::trt {
namespace {

// Columns that lie in one byte of the codes.
int64_t packed_columns(const PackedTensor& weight) { return weight.codec == Codec::nvfp4 ? 2 : 1; }

// at::cat() has no kernels for FP8 on all versions.
at::Tensor cat(const std::vector<at::Tensor>& parts, int64_t dim) {
  if (parts.size() == 1) return parts.front();
  const at::ScalarType dtype = parts.front().scalar_type();
  if (!at::isFloat8Type(dtype)) return at::cat(parts, dim);
  std::vector<at::Tensor> bytes;
  for (const at::Tensor& part : parts) bytes.push_back(part.view(at::kByte));
  return at::cat(bytes, dim).view(dtype);
}

bool same(const at::Tensor& a, const at::Tensor& b) {
  if (!a.defined() || !b.defined()) return a.defined() == b.defined();
  return a.sizes() == b.sizes() && a.to(at::kFloat).equal(b.to(at::kFloat));
}

template <typename Member>
std::vector<at::Tensor> collect(const std::vector<PackedLinear>& parts, Member member) {
  std::vector<at::Tensor> tensors;
  for (const PackedLinear& part : parts) tensors.push_back(member(part));
  return tensors;
}

at::Tensor codes(const PackedLinear& linear) { return linear.weight.codes; }
at::Tensor scale(const PackedLinear& linear) { return linear.weight.scale; }
at::Tensor factors(const PackedLinear& linear) { return linear.pre_quant_scale; }

const char* unshared_scalars(const PackedLinear& a, const PackedLinear& b) {
  if (a.weight.scale.dim() == 0 && !same(a.weight.scale, b.weight.scale)) return "weight scale";
  if (!same(a.weight.scale_2, b.weight.scale_2)) return "scale of scales";
  if (a.input_scale != b.input_scale) return "input scale";
  if (a.second_scale != b.second_scale) return "second scale";
  return "";
}

}  // namespace

PackedLinear rows_of(const PackedLinear& linear, int64_t begin, int64_t count) {
  PackedLinear part = linear;
  part.weight.rows = count;
  part.weight.codes = linear.weight.codes.narrow(0, begin, count);
  if (linear.weight.scale.dim() > 0) part.weight.scale = linear.weight.scale.narrow(0, begin, count);
  return part;
}

PackedLinear columns_of(const PackedLinear& linear, int64_t begin, int64_t count) {
  PackedLinear part = linear;
  const int64_t packed = packed_columns(linear.weight);
  part.weight.columns = count;
  part.weight.codes = linear.weight.codes.narrow(1, begin / packed, count / packed);
  if (const int64_t block = linear.weight.block; linear.weight.scale.dim() == 2)
    part.weight.scale = linear.weight.scale.narrow(1, begin / block, count / block);
  if (linear.pre_quant_scale.defined()) part.pre_quant_scale = linear.pre_quant_scale.narrow(0, begin, count);
  return part;
}

const char* unshared(const PackedLinear& a, const PackedLinear& b) {
  if (!same(a.pre_quant_scale, b.pre_quant_scale)) return "factors of the input (pre_quant_scale)";
  return unshared_scalars(a, b);
}

const char* unshared_columns(const PackedLinear& a, const PackedLinear& b) {
  if (a.weight.scale.dim() == 1 && !same(a.weight.scale, b.weight.scale)) return "weight scales";
  return unshared_scalars(a, b);
}

PackedLinear join_rows(const std::vector<PackedLinear>& parts) {
  PackedLinear joined = parts.front();
  if (parts.size() == 1) return joined;
  joined.weight.codes = cat(collect(parts, codes), 0);
  joined.weight.rows = joined.weight.codes.size(0);
  if (joined.weight.scale.dim() > 0) joined.weight.scale = cat(collect(parts, scale), 0);
  return joined;
}

PackedLinear join_columns(const std::vector<PackedLinear>& parts) {
  PackedLinear joined = parts.front();
  if (parts.size() == 1) return joined;
  joined.weight.codes = cat(collect(parts, codes), 1);
  joined.weight.columns = joined.weight.codes.size(1) * packed_columns(joined.weight);
  if (joined.weight.scale.dim() == 2) joined.weight.scale = cat(collect(parts, scale), 1);
  if (joined.pre_quant_scale.defined()) joined.pre_quant_scale = cat(collect(parts, factors), 0);
  return joined;
}

}  // namespace visq::trt

// Rules D1 and D11: scales as they stand in the files, whatever the layout.
#include <ATen/ATen.h>

#include <algorithm>

#include "visq/core/dotted_name.h"
#include "visq/export/validation_context.h"

namespace visq {
namespace {

bool is_scale(const std::string& name) {
  const std::string leaf = leaf_of(name);
  for (const char* end :
       {"weight_scale", "weight_scale_2", "weight_scale_inv", "weight_global_scale", "input_scale",
        "input_global_scale", "activation_scale", "k_scale", "v_scale", "scales"})
    if (leaf == end) return true;
  return false;
}

double number(const at::Tensor& tensor) { return tensor.to(at::kDouble).item<double>(); }

}  // namespace

void check_stored_scales(const ValidationContext& context, Validation& validation) {
  Findings findings(validation, "D1", "stored scales are finite and positive, whatever the layout");
  Findings conventions(validation, "D11", "global scales are factors or divisors, as the layout has them");
  for (const std::string& name : context.output.names()) {
    const TensorInfo& info = context.output.info(name);
    if (!is_scale(name) || !at::isFloatingType(info.dtype) || info.bytes() == 0) continue;
    const at::Tensor scale = context.output.tensor(name).to(at::kFloat);
    findings.count();
    const bool one = scale.numel() == 1;
    const bool finite = at::isfinite(scale).all().item<bool>(), positive = scale.gt(0).all().item<bool>();
    if (!finite || (!positive && (one || scale.lt(0).any().item<bool>())))
      findings.add(
          "",
          visq::format(
              "scale '{}' {}: engines divide by it or multiply with it, and every answer is NaN or noise",
              name,
              !finite ? "holds a NaN or an infinity"
              : one   ? visq::format("is {}", number(scale.max()))
                      : "holds a negative number"),
          "calibrate again; for an expert that saw no data, copy the largest of its layer");
    if (!one || !finite || !positive) continue;
    const double value = number(scale.max());
    conventions.count();
    // 448 · 6 / amax where it divides, amax / (448 · 6) where it is a factor, of weights far below 2688.
    if (name.ends_with(".weight_global_scale") && value < 1)
      conventions.add("",
                      visq::format("'{}' is {:.3g}, which looks like ModelOpt's convention; "
                                   "compressed-tensors stores the reciprocal",
                                   name, value),
                      "store its reciprocal");
    const bool nvfp4 = context.quantized != nullptr &&
                       std::ranges::any_of(context.quantized->schemes(), [](const Scheme& scheme) {
                         return scheme.weight == Codec::nvfp4;
                       });
    if (nvfp4 && name.ends_with(".weight_scale_2") && value > 1)
      conventions.add(
          "",
          visq::format(
              "'{}' is {:.3g}, which looks like compressed-tensors' convention; ModelOpt stores the factor",
              name, value),
          "store its reciprocal");
  }
}

}  // namespace visq

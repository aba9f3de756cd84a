// Rules E: values against the source.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>
#include <string>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/export/validation_context.h"
#include "visq/quant/rotation.h"

namespace visq {
namespace {

constexpr const char* kCopy = "quantize again, or copy the tensor from a sound export";

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

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  const double power = b.square().sum().item<double>();
  return power > 0 ? std::sqrt((a - b).square().sum().item<double>() / power) : a.abs().max().item<double>();
}

// Gemma's norms are stored less one (spec/models-phi-gemma.md §0.5).
bool multiplies_by_one_plus_weight(const std::string& model_type) {
  return model_type.starts_with("gemma") || model_type.starts_with("paligemma");
}

// The norm before a linear of the source, by its weight's name; "": none.
std::string norm_before(const ValidationContext& context, const std::string& module) {
  const bool reads_images = module.ends_with("cross_attn.k_proj") || module.ends_with("cross_attn.v_proj");
  const bool attention = !reads_images && (module.ends_with("q_proj") || module.ends_with("k_proj") ||
                                           module.ends_with("v_proj"));
  const bool mlp = module.ends_with("gate_proj") || module.ends_with("up_proj");
  if (!attention && !mlp) return "";
  size_t block = std::string::npos;
  for (const char* part : {".self_attn.", ".cross_attn.", ".mlp.", ".feed_forward."})
    if (block == std::string::npos) block = module.rfind(part);
  if (block == std::string::npos) return "";
  const std::string layer = module.substr(0, block + 1);
  std::string norm = layer + (attention ? "input_layernorm.weight" : "post_attention_layernorm.weight");
  // Where norms follow attention and MLP too (Gemma), another one stands before the MLP.
  const std::string before_mlp = layer + "pre_feedforward_layernorm.weight";
  if (mlp && context.source->contains(before_mlp)) norm = before_mlp;
  return context.source->contains(norm) ? norm : "";
}

// The scale that smoothing moved from a norm into the weights, norm_source / norm_output.
at::Tensor folded_into(const ValidationContext& context, const std::string& norm) {
  const double offset = multiplies_by_one_plus_weight(context.model_type) ? 1 : 0;
  const at::Tensor before = context.source->tensor(norm).to(at::kFloat) + offset,
                   after = context.output.tensor(norm).to(at::kFloat) + offset;
  return at::where(before == 0, at::ones_like(before), before / after);
}

struct Heads {
  int64_t kv_count, dim;  ///< 0: config.json does not say
};

Heads heads_of(const ValidationContext& context) {
  const Json& config = context.output.text_model().config;
  const Json& text = config.contains("text_config") ? config.at("text_config") : config;
  const auto hidden = get_or<int64_t>(text, "hidden_size", 0, "config.json"),
             heads = get_or<int64_t>(text, "num_attention_heads", 0, "config.json");
  return {get_or<int64_t>(text, "num_key_value_heads", heads, "config.json"),
          get_or<int64_t>(text, "head_dim", heads > 0 ? hidden / heads : 0, "config.json")};
}

// The source's values or output projection with their heads rotated; undefined: not of these.
at::Tensor rotated_reference(const ValidationContext& context, const std::string& name,
                             const at::Tensor& reference) {
  const auto [kv_heads, dim] = heads_of(context);
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
  return at::where(power > 0, (value * reference).sum(dim, true) / power, at::ones_like(power)).flatten();
}

// Of factors of rows of v, those of `columns` that read them: heads share a row. Undefined: they cannot.
at::Tensor as_columns(const at::Tensor& rows, int64_t columns, int64_t head_dim) {
  if (head_dim <= 0 || rows.numel() % head_dim != 0 || columns % rows.numel() != 0) return {};
  return rows.view({-1, 1, head_dim}).expand({-1, columns / rows.numel(), head_dim}).reshape(-1);
}

bool is_writer(const std::string& name) { return name.ends_with("v_proj") || name.ends_with("up_proj"); }
bool is_reader(const std::string& name) { return name.ends_with("o_proj") || name.ends_with("down_proj"); }

// By what the configuration says, or by the norms before linears: not all files tell how they were made.
bool is_smoothed(const ValidationContext& context) {
  if (context.quantized->is_smoothed()) return true;
  return std::ranges::any_of(context.source->names(), [&](const std::string& name) {
    return name.ends_with("layernorm.weight") && !context.in_tower(name) && context.output.contains(name) &&
           !context.output.tensor(name).equal(context.source->tensor(name));
  });
}

class ValueCheck {
 public:
  ValueCheck(const ValidationContext& context, bool smoothed, Findings& errors, Findings& pairs)
      : context_(context), smoothed_(smoothed), errors_(errors), pairs_(pairs) {}

  /// Readers after their writers.
  void check(const std::string& module) {
    const std::optional<PackedLinear> linear = context_.read(module);
    if (!linear) return;  // C1 says why
    at::Tensor value = QuantizedCheckpoint::effective_weight(*linear);
    if (linear->low_rank.a.defined()) value = value + linear->low_rank.product();
    at::Tensor reference = source_weight(context_, module).to(at::kFloat);
    if (value.sizes() != reference.sizes()) return;  // C1 names it
    const Scheme& scheme = context_.quantized->scheme(module);
    const std::string name = linear_name(module), norm = smoothed_ ? norm_before(context_, name) : "";
    if (!norm.empty() && !context_.output.contains(norm)) return;  // A7 or B7 says so
    if (scheme.rotated && reference.dim() == 2) {
      // Whether a linear was rotated depends on its neighbours, so either will do.
      const at::Tensor turned = rotated_reference(context_, name, reference);
      if (turned.defined() && relative_error(value, turned) < relative_error(value, reference))
        reference = turned;
    }
    if (!norm.empty()) reference = reference * folded_into(context_, norm);
    if (smoothed_) reference = smoothed(module, name, value, reference);
    const double error = relative_error(value, reference), bound = error_bound(scheme);
    errors_.expect(error <= bound, kCopy, "'{}': relative error {:.3f}, more than {:.3f}", module, error,
                   bound);
  }

 private:
  /// The reference as smoothing between linears left it.
  at::Tensor smoothed(const std::string& module, const std::string& name, const at::Tensor& value,
                      const at::Tensor& reference) {
    if (is_writer(name)) {
      const at::Tensor factor = fitted_factor(value, reference, 1);
      taken_[parent_of(name)] = factor.reciprocal();
      return reference * factor.unsqueeze(1);
    }
    if (!is_reader(name)) return reference;
    const at::Tensor factor = fitted_factor(value, reference, 0);
    if (const auto found = taken_.find(parent_of(name)); found != taken_.end()) {
      at::Tensor expected = found->second;
      if (expected.numel() != factor.numel())
        expected = as_columns(expected, factor.numel(), heads_of(context_).dim);
      if (expected.defined()) {
        const double off = (factor / expected - 1).abs().median().item<double>();
        pairs_.expect(off < 0.1, kCopy,
                      "'{}': its columns were scaled otherwise than the rows before them (median {:.3f} off)",
                      module, off);
      }
    }
    return reference * factor;
  }

  const ValidationContext& context_;
  const bool smoothed_;
  Findings &errors_, &pairs_;
  std::map<std::string, at::Tensor> taken_;  // by smoothing, from the rows of v and up
};

}  // namespace

void check_values(const ValidationContext& context, Validation& validation) {
  Findings errors(validation, "E1",
                  "dequantized weights are the source's, up to rounding and folded smoothing");
  Findings pairs(validation, "E3", "what smoothing took from v and up is what o and down got");
  if (context.source == nullptr) {
    errors.skip("needs --source");
    pairs.skip("needs --source");
    return;
  }
  const bool smoothed = is_smoothed(context);
  if (!smoothed) pairs.skip("nothing was smoothed");
  ValueCheck values(context, smoothed, errors, pairs);
  for (const bool readers : {false, true})
    for (const std::string& module : context.modules)
      if (is_reader(linear_name(module)) == readers) values.check(module);
}

}  // namespace visq

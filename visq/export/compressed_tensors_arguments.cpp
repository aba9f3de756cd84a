#include "visq/export/compressed_tensors_arguments.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/export/layout_parts.h"

namespace visq::compressed_tensors {
namespace {

bool is_fp8(Codec codec) {
  return codec == Codec::fp8_e4m3 || codec == Codec::fp8_rows || codec == Codec::fp8_blocks;
}
bool is_int4(Codec codec) { return codec == Codec::int4 || codec == Codec::int4_asym; }

Json arguments(int64_t bits, const char* type, const char* strategy, const Json& dynamic) {
  return {
      {"num_bits", bits}, {"type", type}, {"symmetric", true}, {"strategy", strategy}, {"dynamic", dynamic}};
}

// vLLM knows MX formats by the type of their scales.
Json mx_arguments(Codec codec, bool dynamic) {
  Json all = arguments(mx_bits(codec), "float", "group", dynamic);
  all["group_size"] = kMxBlock;
  all["scale_dtype"] = "torch.uint8";
  return all;
}

/// QuantizationArgs of the package, with its defaults.
struct Arguments {
  int64_t bits = 8, group = 0;
  std::string type, strategy, dynamic;  ///< dynamic: "no", "yes", "local"
  std::vector<int64_t> block;
  bool symmetric = true, ordered = false;

  std::string text() const {
    return visq::format("num_bits {}, type {}, {}symmetric, strategy {}{}, dynamic {}", bits, type,
                        symmetric ? "" : "a", strategy, group > 0 ? visq::format(" of {}", group) : "",
                        dynamic);
  }
};

std::string strategy_of(const Json& json, int64_t group, const std::string& origin) {
  const auto strategy = get_or<std::string>(json, "strategy", "", origin);
  if (!strategy.empty()) return strategy;
  return group > 0 ? "group" : group == -1 ? "channel" : "tensor";
}

Arguments read_arguments(const Json& json, const std::string& origin) {
  if (!json.is_object()) fail("{}: not an object", origin);
  Arguments result;
  result.bits = get_or<int64_t>(json, "num_bits", 8, origin);
  result.type = get_or<std::string>(json, "type", "int", origin);
  result.symmetric = get_or<bool>(json, "symmetric", true, origin);
  result.group = get_or<int64_t>(json, "group_size", 0, origin);
  result.strategy = strategy_of(json, result.group, origin);
  result.block = get_or<std::vector<int64_t>>(json, "block_structure", {}, origin);
  const auto dynamic = get_or<Json>(json, "dynamic", false, origin);
  if (!dynamic.is_boolean() && dynamic != "local")
    fail("{}: dynamic is {}, none of false, true and \"local\"", origin, json_excerpt(dynamic));
  result.dynamic = dynamic == "local" ? "local" : dynamic.get<bool>() ? "yes" : "no";
  if (result.type != "int" && result.type != "float")
    fail("{}: type '{}' is none of int and float", origin, result.type);
  static const std::vector<std::string> strategies = {"tensor", "channel",      "group",    "block",
                                                      "token",  "tensor_group", "attn_head"};
  if (std::ranges::find(strategies, result.strategy) == strategies.end())
    fail("{}: strategy '{}' is none of {}", origin, result.strategy, fmt::join(strategies, ", "));
  const bool grouped = result.strategy == "group" || result.strategy == "tensor_group";
  if (grouped && result.group < 1)
    fail("{}: strategy {} needs a group_size, which is {}", origin, result.strategy, result.group);
  if (!grouped && result.group > 0)
    fail("{}: group_size {} contradicts strategy {}", origin, result.group, result.strategy);
  const auto order = get_or<Json>(json, "actorder", nullptr, origin);
  result.ordered = order == "group" || order == "dynamic" || order == true;
  return result;
}

[[noreturn]] void fail_unknown(const char* what, const Arguments& found, const std::string& origin) {
  fail("{}: {} of {} are not among those that visq reads", origin, what, found.text());
}

/// Codec and block of the weights.
void read_weights(const Arguments& found, const std::string& origin, Scheme& scheme) {
  const auto is = [&](const char* type, int64_t bits, const char* strategy) {
    return found.type == type && found.bits == bits && found.strategy == strategy;
  };
  const bool integer =
      found.type == "int" && (found.bits == 4 || found.bits == 8) &&
      (found.strategy == "tensor" || found.strategy == "channel" || found.strategy == "group");
  if (found.dynamic != "no" || (!found.symmetric && !(integer && found.bits == 4)))
    fail_unknown("weights", found, origin);
  if (integer) {
    scheme.weight = found.bits == 8 ? Codec::int8 : found.symmetric ? Codec::int4 : Codec::int4_asym;
    scheme.block = found.strategy == "group" ? found.group : 0;
    scheme.ordered_columns = found.ordered && scheme.block > 0;
  } else if (is("float", 8, "tensor")) {
    scheme.weight = Codec::fp8_e4m3;
  } else if (is("float", 8, "channel")) {
    scheme.weight = Codec::fp8_rows;
  } else if (is("float", 8, "block") && found.block == std::vector<int64_t>{kFp8Block, kFp8Block}) {
    scheme.weight = Codec::fp8_blocks;
    scheme.block = kFp8Block;
  } else if (is("float", 8, "group") && found.group == kMxBlock) {
    scheme.weight = Codec::mxfp8;
    scheme.block = kMxBlock;
  } else if (is("float", 4, "group") && found.group == kMxBlock) {
    scheme.weight = Codec::mxfp4;
    scheme.block = kMxBlock;
  } else if (is("float", 4, "tensor_group") && found.group == kNvfp4Block) {
    scheme.weight = Codec::nvfp4;
    scheme.block = kNvfp4Block;
  } else {
    fail_unknown("weights", found, origin);
  }
}

InputFormat read_inputs(const Arguments& found, const std::string& origin, Codec weight) {
  const auto is = [&](const char* type, int64_t bits, const char* strategy, const char* dynamic) {
    return found.type == type && found.bits == bits && found.strategy == strategy && found.dynamic == dynamic;
  };
  if (found.symmetric) {
    if (is("float", 8, "tensor", "no")) return InputFormat::fp8;
    if (is("int", 8, "tensor", "no")) return InputFormat::int8;
    // A scale of all tokens of a batch: each gets its own, as everywhere (simulate_input).
    if (is("float", 8, "token", "yes") || is("float", 8, "tensor", "yes")) return InputFormat::fp8_tokens;
    if (is("int", 8, "token", "yes") || is("int", 8, "tensor", "yes")) return InputFormat::int8_tokens;
    if (is("float", 4, "tensor_group", "local") && found.group == kNvfp4Block) return InputFormat::nvfp4;
    if (is("float", 4, "group", "yes") && found.group == kMxBlock) return InputFormat::mxfp4;
    if (is("float", 8, "group", "yes") && found.group == kMxBlock) return InputFormat::mxfp8;
    if (is("float", 8, "group", "yes") && found.group == kFp8Block && weight == Codec::fp8_blocks)
      return InputFormat::none;
  }
  fail_unknown("inputs", found, origin);
}

}  // namespace

Json kv_arguments(bool per_head) { return arguments(8, "float", per_head ? "attn_head" : "tensor", false); }

KvArguments read_kv_arguments(const Json& json, const std::string& origin) {
  const Arguments found = read_arguments(json, origin);
  const bool fp8 = found.type == "float" && found.bits == 8 && found.symmetric && found.dynamic == "no";
  if (!fp8 || (found.strategy != "tensor" && found.strategy != "attn_head"))
    fail_unknown("KV caches", found, origin);
  return {found.strategy == "attn_head"};
}

Scheme read_scheme(const Json& weights, const Json& inputs, const std::string& origin) {
  Scheme scheme;
  read_weights(read_arguments(weights, origin + ".weights"), origin, scheme);
  if (!inputs.is_null())
    scheme.input = read_inputs(read_arguments(inputs, origin + ".input_activations"), origin, scheme.weight);
  return scheme;
}

std::string implied_format(const Scheme& scheme) {
  if (is_fp8(scheme.weight)) return "float-quantized";
  if (scheme.weight == Codec::nvfp4) return "nvfp4-pack-quantized";
  if (scheme.weight == Codec::mxfp4) return "mxfp4-pack-quantized";
  if (scheme.weight == Codec::mxfp8) return "mxfp8-quantized";
  return scheme.input == InputFormat::none ? "pack-quantized" : "int-quantized";
}

Json weight_arguments(const Scheme& scheme) {
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
      return arguments(8, "float", "tensor", false);
    case Codec::fp8_rows:
      return arguments(8, "float", "channel", false);
    case Codec::fp8_blocks: {
      Json all = arguments(8, "float", "block", false);
      all["block_structure"] = {kFp8Block, kFp8Block};
      return all;
    }
    case Codec::nvfp4: {
      Json all = arguments(4, "float", "tensor_group", false);
      all["group_size"] = scheme.block;
      return all;
    }
    case Codec::mxfp4:
    case Codec::mxfp8:
      return mx_arguments(scheme.weight, false);
    case Codec::int8:
    case Codec::int4:
    case Codec::int4_asym: {
      Json all =
          arguments(is_int4(scheme.weight) ? 4 : 8, "int", scheme.block > 0 ? "group" : "channel", false);
      if (scheme.block > 0) all["group_size"] = scheme.block;
      all["symmetric"] = scheme.weight != Codec::int4_asym;
      if (scheme.ordered_columns) all["actorder"] = "group";
      return all;
    }
    case Codec::nf4:
    case Codec::mxfp6:
    case Codec::mxint8:
      break;
  }
  fail("the compressed-tensors layout does not hold {}", codec_name(scheme.weight));
}

Json input_arguments(const Scheme& scheme) {
  switch (scheme.input) {
    case InputFormat::fp8:
      return arguments(8, "float", "tensor", false);
    case InputFormat::fp8_tokens:
      return arguments(8, "float", "token", true);
    case InputFormat::int8:
      return arguments(8, "int", "tensor", false);
    case InputFormat::int8_tokens:
      return arguments(8, "int", "token", true);
    case InputFormat::nvfp4: {
      Json all = arguments(4, "float", "tensor_group", "local");
      all["group_size"] = kNvfp4Block;
      return all;
    }
    case InputFormat::mxfp4:
      return mx_arguments(Codec::mxfp4, true);
    case InputFormat::mxfp8:
      return mx_arguments(Codec::mxfp8, true);
    case InputFormat::mxfp6:
    case InputFormat::mxint8:
    case InputFormat::none:
      break;
  }
  if (scheme.weight != Codec::fp8_blocks) return nullptr;
  // Engines multiply such weights with inputs in blocks of one row.
  Json all = arguments(8, "float", "group", true);
  all["group_size"] = kFp8Block;
  return all;
}

void check_format(const std::string& format, const Scheme& scheme, const std::string& origin) {
  if (format == "dense" || format == "fakequant")
    fail("{}: format '{}' leaves weights as they were; save the checkpoint compressed", origin, format);
  std::vector<std::string> possible = {implied_format(scheme), "naive-quantized"};
  if (scheme.weight == Codec::int8 || is_int4(scheme.weight))
    possible = {"pack-quantized", "int-quantized", "naive-quantized"};
  if (std::ranges::find(possible, format) == possible.end())
    fail("{}: format '{}' is not one of weights {}: that would be {}", origin, format,
         describe_weight(scheme), fmt::join(possible, " or "));
}

const char* format_of(const Scheme& scheme) {
  using enum InputFormat;
  if (scheme.low_rank > 0 || scheme.fp8_second_stage) return nullptr;
  const auto input_is = [&](std::initializer_list<InputFormat> inputs) {
    return std::ranges::find(inputs, scheme.input) != inputs.end();
  };
  switch (scheme.weight) {
    case Codec::fp8_e4m3:
    case Codec::fp8_rows:
      return input_is({none, fp8, fp8_tokens}) ? "float-quantized" : nullptr;
    case Codec::fp8_blocks:
      return input_is({none}) ? "float-quantized" : nullptr;
    case Codec::nvfp4:
      return scheme.block == kNvfp4Block && input_is({none, nvfp4}) ? "nvfp4-pack-quantized" : nullptr;
    case Codec::mxfp4:
      return input_is({none, mxfp4}) ? "mxfp4-pack-quantized" : nullptr;
    case Codec::mxfp8:
      return input_is({none, mxfp8}) ? "mxfp8-quantized" : nullptr;
    case Codec::int8:
      return input_is({none}) ? "pack-quantized" : input_is({int8, int8_tokens}) ? "int-quantized" : nullptr;
    case Codec::int4:
      // vLLM wants the weights of W4AFP8 packed, those of W4A8 not (on the CPU, which alone needs no more).
      return input_is({none, fp8_tokens}) ? "pack-quantized"
             : input_is({int8_tokens})    ? "int-quantized"
                                          : nullptr;
    case Codec::int4_asym:
      return input_is({none}) ? "pack-quantized" : nullptr;
    case Codec::nf4:
    case Codec::mxfp6:
    case Codec::mxint8:
      break;
  }
  return nullptr;
}

}  // namespace visq::compressed_tensors

// The compressed-tensors layout (spec/export.md §5): what vLLM and SGLang read for INT8 and INT4, and all
// engines for FP8 per row.
#include <ATen/ATen.h>

#include "visq/core/error.h"
#include "visq/export/column_order.h"
#include "visq/export/compressed_tensors_arguments.h"
#include "visq/export/compressed_tensors_config.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

using compressed_tensors::format_of;

bool is_integer(Codec codec) {
  return codec == Codec::int8 || codec == Codec::int4 || codec == Codec::int4_asym;
}
bool is_packed(const Scheme& scheme) { return format_of(scheme) == std::string("pack-quantized"); }
int64_t bits_of(const Scheme& scheme) { return scheme.weight == Codec::int8 ? 8 : 4; }

/// How many of something stand in so many words.
int64_t words_of(int64_t count, int64_t bits) { return (count * bits + 31) / 32; }

at::Tensor to_words(const at::Tensor& codes, int64_t bits) {
  return bits == 8 ? int8_to_words(codes) : int4_to_words(codes);
}
at::Tensor from_words(const at::Tensor& words, int64_t bits, int64_t columns) {
  const at::Tensor codes = bits == 8 ? int8_from_words(words) : int4_from_words(words);
  return codes.narrow(1, 0, columns).contiguous();
}

// Zero points are packed along the rows, where codes are along the columns; the last word is filled up.
at::Tensor zeros_to_words(const at::Tensor& zero_point) {
  const int64_t missing = (8 - zero_point.size(0) % 8) % 8;
  return int4_to_words(at::constant_pad_nd(zero_point.t(), {0, missing}, -8)).t().contiguous();
}

// ---- Reading.

/// What the names of one linear's tensors begin with, and where they are.
struct Source {
  const Checkpoint& checkpoint;
  const std::string& module;

  std::string name(const char* suffix) const { return module + suffix; }
  bool has(const char* suffix) const { return checkpoint.contains(name(suffix)); }
  at::Tensor read(const char* suffix, at::ScalarType dtype, const std::vector<int64_t>& shape) const {
    return read_checked(checkpoint, name(suffix), dtype, shape);
  }
  template <typename... Args>
  [[noreturn]] void refuse(const char* suffix, fmt::format_string<Args...> text, Args&&... args) const {
    fail("{}: tensor '{}' {}", checkpoint.file_of(name(suffix)).string(), name(suffix),
         visq::format(text, std::forward<Args>(args)...));
  }
};

// Rows and columns of a packed matrix, which fills its last words.
std::pair<int64_t, int64_t> stored_shape(const Source& source, int64_t bits) {
  constexpr const char* kShape = ".weight_shape";
  const std::vector<int64_t>& words = source.checkpoint.info(source.name(".weight_packed")).shape;
  if (!source.has(kShape))
    source.refuse(".weight_packed", "stands without '{}', which says how many columns there are",
                  source.name(kShape));
  const TensorInfo& info = source.checkpoint.info(source.name(kShape));
  if ((info.dtype != at::kLong && info.dtype != at::kInt) || info.shape != std::vector<int64_t>{2})
    source.refuse(kShape, "is not two integers");
  const at::Tensor shape = source.checkpoint.tensor(source.name(kShape)).to(at::kLong);
  const int64_t rows = shape[0].item<int64_t>(), columns = shape[1].item<int64_t>();
  constexpr int64_t kMost = int64_t{1} << 40;
  if (words.size() != 2 || rows != words[0] || columns < 1 || columns > kMost ||
      words_of(columns, bits) != words[1])
    source.refuse(kShape, "is [{}, {}], which does not fit '{}' [{}]", rows, columns,
                  source.name(".weight_packed"), fmt::join(words, ", "));
  return {rows, columns};
}

at::Tensor read_integers(const Source& source, int64_t bits) {
  if (source.has(".weight_packed")) {
    const auto [rows, columns] = stored_shape(source, bits);
    return from_words(source.read(".weight_packed", at::kInt, {rows, -1}), bits, columns);
  }
  const at::Tensor codes = source.read(".weight", at::kChar, {-1, -1});
  if (bits == 4 && codes.numel() > 0 && (codes.min().item<int>() < -8 || codes.max().item<int>() > 7))
    source.refuse(".weight", "holds numbers beyond −8…7, which the configuration says they are in");
  return codes;
}

// Zeros of symmetric integers, as older versions store them.
void check_no_zero_point(const Source& source, const char* suffix) {
  if (!source.has(suffix)) return;
  const at::Tensor zeros = source.checkpoint.tensor(source.name(suffix));
  const at::Tensor values = zeros.scalar_type() == at::kInt ? zeros : zeros.to(at::kFloat);
  const bool none = values.eq(0).all().item<bool>();
  const bool none_packed =
      zeros.scalar_type() == at::kInt && (zeros.eq(static_cast<int32_t>(0x88888888)).all().item<bool>() ||
                                          zeros.eq(static_cast<int32_t>(0x80808080)).all().item<bool>());
  if (!none && !none_packed) source.refuse(suffix, "is not zero, but the configuration says symmetric");
}

/// Scales of any floating type and of one of the shapes that versions have given them, as f32 [rows, blocks].
at::Tensor read_scales(const Source& source, int64_t rows, int64_t blocks) {
  constexpr const char* kScale = ".weight_scale";
  const TensorInfo& info = source.checkpoint.info(source.name(kScale));
  if (info.dtype != at::kFloat && info.dtype != at::kBFloat16 && info.dtype != at::kHalf)
    source.refuse(kScale, "is {}, not F32, BF16 or F16", safetensors_dtype(info.dtype));
  const at::Tensor scales = source.checkpoint.tensor(source.name(kScale)).to(at::kFloat);
  if (info.shape == std::vector<int64_t>{rows, blocks}) return scales;
  if (blocks == 1 && info.shape == std::vector<int64_t>{rows}) return scales.view({rows, 1});
  if (blocks == 1 && scales.numel() == 1) return scales.view({1, 1}).expand({rows, 1}).contiguous();
  source.refuse(kScale, "is [{}], expected [{}, {}]", fmt::join(info.shape, ", "), rows, blocks);
}

int64_t blocks_in_row(const Source& source, const PackedTensor& packed) {
  if (packed.block == 0) return 1;
  if (packed.columns % packed.block != 0)
    source.refuse(".weight_scale", "cannot be of {} columns in groups of {}", packed.columns, packed.block);
  return packed.columns / packed.block;
}

void read_integer_weight(const Source& source, PackedTensor& packed, int64_t bits) {
  packed.codes = read_integers(source, bits);
  packed.rows = packed.codes.size(0);
  packed.columns = packed.codes.size(1);
  const int64_t blocks = blocks_in_row(source, packed);
  packed.scale = read_scales(source, packed.rows, blocks);
  if (packed.codec == Codec::int8 && packed.block == 0) packed.scale = packed.scale.squeeze(1);
  constexpr const char* kZero = ".weight_zero_point";
  if (packed.codec != Codec::int4_asym) return check_no_zero_point(source, kZero);
  if (source.checkpoint.info(source.name(kZero)).dtype == at::kChar) {
    packed.zero_point = source.read(kZero, at::kChar, {packed.rows, blocks});
    return;
  }
  const at::Tensor words = source.read(kZero, at::kInt, {words_of(packed.rows, 4), blocks});
  packed.zero_point = from_words(words.t().contiguous(), 4, packed.rows).t().contiguous();
}

void read_fp8_weight(const Source& source, PackedTensor& packed) {
  packed.codes = source.read(".weight", at::kFloat8_e4m3fn, {-1, -1});
  packed.rows = packed.codes.size(0);
  packed.columns = packed.codes.size(1);
  if (packed.codec == Codec::fp8_blocks)
    packed.scale = read_scales(source, blocks_of(packed.rows), blocks_of(packed.columns));
  else if (packed.codec == Codec::fp8_rows)
    packed.scale = read_scales(source, packed.rows, 1).squeeze(1);
  else
    packed.scale = read_scales(source, 1, 1).squeeze();
}

// Codes of 4 bits, two to a byte, or of 8; with a scale for each block.
void read_small_floats(const Source& source, PackedTensor& packed) {
  const bool bytes = packed.codec == Codec::mxfp8;
  packed.codes = bytes ? source.read(".weight", at::kFloat8_e4m3fn, {-1, -1})
                       : source.read(".weight_packed", at::kByte, {-1, -1});
  packed.rows = packed.codes.size(0);
  packed.columns = packed.codes.size(1) * (bytes ? 1 : 2);
  packed.scale = source.read(".weight_scale", is_mx(packed.codec) ? at::kByte : at::kFloat8_e4m3fn,
                             {packed.rows, blocks_in_row(source, packed)});
  if (packed.codec == Codec::nvfp4)
    packed.scale_2 =
        scalar_tensor(1 / read_scale(source.checkpoint, source.name(".weight_global_scale")), at::kFloat, {});
}

class CompressedTensorsLayout final : public Layout {
 public:
  const char* name() const override { return "compressed-tensors"; }
  using Layout::holds;
  bool holds(const Scheme& scheme) const override { return format_of(scheme) != nullptr; }
  bool holds_mixes() const override { return true; }
  at::ScalarType scale_dtype(at::ScalarType source_dtype) const override { return source_dtype; }
  at::ScalarType input_scale_dtype(const Scheme& scheme, at::ScalarType source_dtype) const override {
    return scheme.input == InputFormat::nvfp4 ? at::kFloat : source_dtype;
  }

  std::string misfit(const QuantizedLinear& linear) const override {
    const Scheme& scheme = linear.scheme;
    const int64_t per_word = scheme.weight == Codec::int8 ? 4 : 8;
    if (is_packed(scheme) && linear.columns % per_word != 0)
      return visq::format("{} columns, and compressed-tensors packs {} of them into a word", linear.columns,
                          per_word);
    if (scheme.weight == Codec::int4_asym && linear.rows % 8 != 0)
      return visq::format("{} rows, and compressed-tensors packs zero points of eight of them into a word",
                          linear.rows);
    return "";
  }

  std::vector<LayoutTensor> tensors(const QuantizedLinear& linear) const override {
    const std::string& m = linear.module;
    const int64_t n = linear.rows, k = linear.columns;
    const Scheme& scheme = linear.scheme;
    const bool packed = is_packed(scheme);
    const at::ScalarType dtype = linear.wide_scales ? at::kFloat : linear.source_dtype;
    const int64_t blocks = scheme.block > 0 ? k / scheme.block : 1;
    std::vector<LayoutTensor> list;
    const auto add = [&](const char* suffix, at::ScalarType type, std::vector<int64_t> shape,
                         std::function<at::Tensor(const PackedLinear&)> value) {
      list.push_back({{m + suffix, type, std::move(shape)}, std::move(value)});
    };
    const auto add_codes = [&](const char* suffix, at::ScalarType type, int64_t columns) {
      add(suffix, type, {n, columns}, [](const PackedLinear& p) { return in_order(p, p.weight.codes); });
    };
    const auto add_scale = [&](at::ScalarType type, std::vector<int64_t> shape) {
      add(".weight_scale", type, shape, [=](const PackedLinear& p) {
        return at::isFloatingType(type) && !at::isFloat8Type(type) ? p.weight.scale.view(shape).to(type)
                                                                   : p.weight.scale;
      });
    };
    switch (scheme.weight) {
      case Codec::fp8_e4m3:
        add_codes(".weight", at::kFloat8_e4m3fn, k);
        add_scale(dtype, {1});
        break;
      case Codec::fp8_rows:
        add_codes(".weight", at::kFloat8_e4m3fn, k);
        add_scale(dtype, {n, 1});
        break;
      case Codec::fp8_blocks:
        add_codes(".weight", at::kFloat8_e4m3fn, k);
        add_scale(dtype, {blocks_of(n), blocks_of(k)});
        break;
      case Codec::nvfp4:
        add_codes(".weight_packed", at::kByte, k / 2);
        add_scale(at::kFloat8_e4m3fn, {n, blocks});
        add(".weight_global_scale", at::kFloat, {1},
            [](const PackedLinear& p) { return p.weight.scale_2.reciprocal().view({1}); });
        break;
      case Codec::mxfp4:
        add_codes(".weight_packed", at::kByte, k / 2);
        add_scale(at::kByte, {n, blocks});
        break;
      case Codec::mxfp8:
        add_codes(".weight", at::kFloat8_e4m3fn, k);
        add_scale(at::kByte, {n, blocks});
        break;
      case Codec::int8:
      case Codec::int4:
      case Codec::int4_asym: {
        const int64_t bits = bits_of(scheme);
        if (packed)
          add(".weight_packed", at::kInt, {n, words_of(k, bits)},
              [bits](const PackedLinear& p) { return to_words(in_order(p, p.weight.codes), bits); });
        else
          add_codes(".weight", at::kChar, k);
        add_scale(dtype, {n, blocks});
        if (scheme.weight == Codec::int4_asym)
          add(".weight_zero_point", at::kInt, {words_of(n, 4), blocks},
              [](const PackedLinear& p) { return zeros_to_words(p.weight.zero_point); });
        if (packed)
          add(".weight_shape", at::kLong, {2}, [=](const PackedLinear&) {
            return at::tensor({n, k}, at::kLong);
          });
        if (scheme.ordered_columns)
          add(kColumnGroups, at::kInt, {k},
              [=](const PackedLinear& p) { return groups_of_columns(p, k / blocks); });
        break;
      }
      case Codec::nf4:
      case Codec::mxfp6:
      case Codec::mxint8:
        fail("the compressed-tensors layout does not hold {}", codec_name(scheme.weight));
    }
    if (scheme.input == InputFormat::nvfp4)
      add(".input_global_scale", at::kFloat, {1},
          [](const PackedLinear& p) { return scalar_tensor(1 / p.input_scale.value(), at::kFloat, {1}); });
    else if (scheme.has_input_scale())
      add(".input_scale", dtype, {1},
          [=](const PackedLinear& p) { return scalar_tensor(p.input_scale.value(), dtype, {1}); });
    return list;
  }

  bool holds(KvCacheFormat format) const override {
    return format == KvCacheFormat::fp8 || format == KvCacheFormat::fp8_cast ||
           format == KvCacheFormat::fp8_attn_head;
  }
  // Readers make room for the scales that kv_cache_scheme announces, whatever they are.
  KvStorage kv_storage(at::ScalarType source_dtype) const override {
    return {".k_", ".v_", source_dtype, {1}, /*unit_scales=*/true};
  }

  Json quantization_config(const ExportSummary& summary) const override {
    return compressed_tensors::write_config(summary);
  }
  std::optional<StoredQuantization> recognise(const Json& config, const std::string& origin) const override {
    return compressed_tensors::read_config(config, origin);
  }
  void resolve(StoredQuantization& stored, const Json& config, const std::vector<std::string>& modules,
               const std::string& origin) const override {
    compressed_tensors::resolve(stored, config, modules, origin);
  }

  const std::vector<std::string>& suffixes() const override {
    static const std::vector<std::string> all = {
        ".weight",       ".weight_packed", ".weight_scale", ".weight_global_scale", ".weight_zero_point",
        ".weight_shape", kColumnGroups,    ".input_scale",  ".input_global_scale",  ".input_zero_point"};
    return all;
  }
  bool is_quantized(const Checkpoint& checkpoint, const std::string& module) const override {
    return checkpoint.contains(module + ".weight_scale");
  }

  PackedLinear read(const Checkpoint& checkpoint, const std::string& module,
                    const Scheme& scheme) const override {
    const Source source{checkpoint, module};
    PackedLinear linear = unfilled(scheme);
    PackedTensor& packed = linear.weight;
    if (is_integer(scheme.weight))
      read_integer_weight(source, packed, bits_of(scheme));
    else if (scheme.weight == Codec::nvfp4 || scheme.weight == Codec::mxfp4 || scheme.weight == Codec::mxfp8)
      read_small_floats(source, packed);
    else
      read_fp8_weight(source, packed);
    if (scheme.input == InputFormat::nvfp4)
      linear.input_scale = 1 / read_scale(checkpoint, source.name(".input_global_scale"));
    else if (scheme.has_input_scale())
      linear.input_scale = read_scale(checkpoint, source.name(".input_scale"));
    check_no_zero_point(source, ".input_zero_point");
    read_column_groups(checkpoint, source.name(kColumnGroups), scheme, linear);
    return linear;
  }
};

}  // namespace

const Layout& compressed_tensors_layout() {
  static const CompressedTensorsLayout layout;
  return layout;
}

}  // namespace visq

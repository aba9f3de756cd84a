#include "visq/export/gguf.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>
#include <map>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/export/gguf_blocks.h"
#include "visq/export/gguf_layout.h"
#include "visq/export/gguf_mmproj.h"
#include "visq/export/gguf_stored.h"
#include "visq/export/gguf_text.h"
#include "visq/export/gguf_tokenizer.h"
#include "visq/export/gguf_writer.h"
#include "visq/export/layout_parts.h"

namespace visq {
namespace {

constexpr uint64_t kQuantizationVersion = 2;  // of ggml

/// general.file_type: what most of the weights are.
uint64_t file_type(const std::vector<GgufPlannedTensor>& tensors) {
  static const std::map<GgmlType, uint64_t> numbers = {
      {GgmlType::f32, 0},  {GgmlType::f16, 1},   {GgmlType::q4_0, 2},   {GgmlType::q4_1, 3},
      {GgmlType::q8_0, 7}, {GgmlType::bf16, 32}, {GgmlType::mxfp4, 38}, {GgmlType::nvfp4, 39}};
  std::map<GgmlType, uint64_t> elements;
  for (const GgufPlannedTensor& tensor : tensors) {
    if (tensor.shape.size() < 2 || !tensor.name.starts_with("blk.")) continue;
    elements[tensor.type] += static_cast<uint64_t>(tensor.shape[0] * tensor.shape[1]);
  }
  if (elements.empty()) return 0;
  return numbers.at(
      std::ranges::max_element(elements, {}, [](const auto& entry) { return entry.second; })->first);
}

GgufMetadata general_metadata(const Model& model, const GgufTextModel& text, uint64_t type) {
  GgufMetadata metadata = {{"general.architecture", GgufValue::text(text.architecture())},
                           {"general.type", GgufValue::text("model")},
                           {"general.name", GgufValue::text(model.spec().family)},
                           {"general.quantized_by", GgufValue::text("visq")},
                           {"general.file_type", GgufValue::u32(type)},
                           {"general.quantization_version", GgufValue::u32(kQuantizationVersion)}};
  metadata.insert(metadata.end(), text.metadata().begin(), text.metadata().end());
  GgufMetadata tokenizer =
      tokenizer_metadata(model.checkpoint().text_model().directory, model.spec(), model.spec().decoder.vocab);
  std::ranges::move(tokenizer, std::back_inserter(metadata));
  return metadata;
}

std::string module_of(const GgufTextTensor& tensor) {
  return tensor.source.substr(0, tensor.source.size() - std::string(".weight").size());
}

PackedTensor interleaved(PackedTensor packed, int64_t heads) {
  for (at::Tensor* part : {&packed.codes, &packed.scale, &packed.zero_point})
    if (part->defined()) *part = interleave_halves(*part, heads);
  return packed;
}

/// @param warn  of what llama.cpp does otherwise
void check_scheme(const Scheme& scheme, bool warn) {
  const auto refuse = [&](const std::string& why) {
    fail("--to gguf: {}: {}", describe_schemes({scheme}), why);
  };
  if (!ggml_type_of(scheme))
    refuse(visq::format(
        "GGUF has no type for their codes and scales ({}; its K-quants have scales of 6 bits and "
        "hold none of visq's formats)",
        ggml_types_text()));
  if (scheme.ordered_columns) refuse("GGUF has no place for the order of columns");
  if (scheme.fp8_second_stage) refuse("GGUF has no second stage of FP8");
  if (scheme.low_rank > 0) refuse("GGUF has no place for the low-rank part");
  if (scheme.has_input_scale() && scheme.weight != Codec::nvfp4)
    refuse("GGUF has no place for the calibrated scale of inputs");
  if (warn && scheme.input != InputFormat::none)
    log_warning(visq::format("--to gguf: inputs are not kept as {}: llama.cpp rounds them in its own way",
                             describe_input(scheme)));
}

[[noreturn]] void refuse_sharding() {
  fail("--to gguf: one file serves any number of GPUs: leave --tp and --pp out");
}

void check_model(const Model& model, bool warn) {
  const GgufTextModel text(model);
  if (warn && !text.caveat().empty()) log_warning(text.caveat());
  tokenizer_metadata(model.checkpoint().text_model().directory, model.spec(), model.spec().decoder.vocab,
                     warn);
}

class GgufFormat final : public ModelFormat {
 public:
  const char* name() const override { return "gguf"; }
  bool recognise(const std::filesystem::path& path) const override {
    return find_gguf_text(path).has_value();
  }
  const Layout* stage() const override { return &gguf_layout(); }
  bool holds_tower(const std::filesystem::path& path) const override { return has_gguf_vision(path); }
  void check_plan(const Model& model, const std::vector<Scheme>& schemes, KvCacheFormat,
                  const std::vector<std::string>& /*left_out*/, const Sharding& sharding) const override {
    if (sharding.tensor_parallel != 1 || sharding.pipeline_parallel != 1) refuse_sharding();
    constexpr bool kWarn = false;  // what is written is checked aloud
    for (const Scheme& scheme : schemes) check_scheme(scheme, kWarn);
    check_model(model, kWarn);
  }

  void check(const Model& model, const QuantizedCheckpoint& quantized,
             const Sharding& sharding) const override {
    if (sharding.tensor_parallel != 1 || sharding.pipeline_parallel != 1) refuse_sharding();
    for (const Scheme& scheme : quantized.schemes()) check_scheme(scheme, /*warn=*/true);
    if (quantized.kv_cache() != KvCacheFormat::none)
      fail(
          "--to gguf: GGUF has no place for a KV cache of {}: llama.cpp quantizes its own (--cache-type-k); "
          "leave it out with --drop-kv-cache",
          kv_cache_name(quantized.kv_cache()));
    check_model(model, /*warn=*/true);
  }

  void write(const Model& model, const QuantizedCheckpoint& quantized, const Sharding& sharding,
             const std::filesystem::path& directory) const override {
    if (sharding.tensor_parallel != 1 || sharding.pipeline_parallel != 1) refuse_sharding();
    const GgufTextModel text(model);
    std::vector<GgufPlannedTensor> planned;
    std::vector<std::function<at::Tensor()>> values;
    for (const GgufTextTensor& tensor : text.tensors()) {
      const GgmlType type = type_of(model, quantized, tensor);
      planned.push_back({tensor.name, type, tensor.shape});
      values.emplace_back([&, type] { return value_of(model, quantized, tensor, type); });
      if (type == GgmlType::nvfp4) add_scales(quantized, tensor, planned, values);
    }
    GgufWriter writer(directory / kGgufTextFile, general_metadata(model, text, file_type(planned)), planned);
    parallel_jobs(static_cast<int64_t>(planned.size()), [&](int64_t i) {
      check_interrupt();
      writer.write(planned[static_cast<size_t>(i)].name, values[static_cast<size_t>(i)]());
    });
    writer.close();
    if (const std::string refusal = mmproj_refusal(model); !refusal.empty())
      log_warning(visq::format(
          "--to gguf: writes the language model alone, without {}: visq does not know how llama.cpp has {}",
          kGgufVisionFile, refusal));
    else
      write_mmproj(model, directory / kGgufVisionFile);
  }

  std::unique_ptr<StoredModel> open(const std::filesystem::path& path, const Model& source) const override {
    const auto text = find_gguf_text(path);
    if (!text) fail("{}: no GGUF file, nor a directory with one", path.string());
    return open_gguf(*text, source);
  }

 private:
  static bool is_packed(const QuantizedCheckpoint& quantized, const GgufTextTensor& tensor) {
    return tensor.linear && quantized.is_quantized(module_of(tensor));
  }

  static GgmlType type_of(const Model& model, const QuantizedCheckpoint& quantized,
                          const GgufTextTensor& tensor) {
    if (is_packed(quantized, tensor)) return ggml_type_of(quantized.scheme(module_of(tensor))).value();
    if (tensor.shape.size() == 1) return GgmlType::f32;
    const TensorInfo& info = model.checkpoint().info(tensor.source);
    const auto type = ggml_type_of(info.dtype);
    if (!type)
      fail("{}: tensor '{}' is {}; F32, F16 and BF16 can be stored",
           model.checkpoint().file_of(tensor.source).string(), tensor.source, safetensors_dtype(info.dtype));
    return *type;
  }

  static void add_scales(const QuantizedCheckpoint& quantized, const GgufTextTensor& tensor,
                         std::vector<GgufPlannedTensor>& planned,
                         std::vector<std::function<at::Tensor()>>& values) {
    const std::string module = module_of(tensor);
    planned.push_back({tensor.scale_name(), GgmlType::f32, {1}});
    values.emplace_back([&quantized, module] { return quantized.read(module).weight.scale_2.view({1}); });
    if (!quantized.scheme(module).has_input_scale()) return;
    planned.push_back({tensor.input_scale_name(), GgmlType::f32, {1}});
    values.emplace_back([&quantized, module] {
      return scalar_tensor(quantized.read(module).input_scale.value(), at::kFloat, {1});
    });
  }

  static at::Tensor value_of(const Model& model, const QuantizedCheckpoint& quantized,
                             const GgufTextTensor& tensor, GgmlType type) {
    if (tensor.made_up.defined()) return tensor.made_up;
    if (is_packed(quantized, tensor)) {
      const PackedLinear linear = quantized.read(module_of(tensor));
      if (linear.pre_quant_scale.defined() && !linear.pre_quant_scale.eq(1).all().item<bool>())
        fail("--to gguf: '{}' has factors of its input (pre_quant_scale), which GGUF has no place for",
             module_of(tensor));
      return to_ggml_blocks(interleaved(linear.weight, tensor.permuted_heads), module_of(tensor));
    }
    at::Tensor value = model.checkpoint().tensor(tensor.source);
    if (value.sizes() != at::IntArrayRef(tensor.shape))
      fail("{}: tensor '{}' is [{}], expected [{}]", model.checkpoint().file_of(tensor.source).string(),
           tensor.source, fmt::join(value.sizes(), ", "), fmt::join(tensor.shape, ", "));
    if (type == GgmlType::f32) value = value.to(at::kFloat);
    if (tensor.plus_one) value = value + 1;
    return interleave_halves(value, tensor.permuted_heads).contiguous();
  }
};

}  // namespace

const ModelFormat& gguf_format() {
  static const GgufFormat format;
  return format;
}

}  // namespace visq

// TensorRT-LLM's own checkpoint, which trtllm-build reads: config.json and a file for each rank
// (spec/export.md §4).
#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/core/log.h"
#include "visq/export/model_format.h"
#include "visq/export/tensorrt_llm_reader.h"
#include "visq/export/tensorrt_llm_writer.h"

namespace visq {
namespace {

class TensorRtLlmFormat final : public ModelFormat {
 public:
  const char* name() const override { return "tensorrt-llm"; }

  bool recognise(const std::filesystem::path& path) const override {
    if (!std::filesystem::is_directory(path) || !std::filesystem::exists(path / "config.json")) return false;
    try {
      const Json config = read_json(path / "config.json");
      return config.is_object() && config.contains("architecture") && config.contains("mapping");
    } catch (const Error&) {
      return false;
    }
  }

  bool holds(const Scheme& scheme) const override { return trt::find_algorithm(scheme) != nullptr; }

  void check_plan(const Model& model, const std::vector<Scheme>& schemes, KvCacheFormat kv_cache,
                  const std::vector<std::string>& left_out, const Sharding& sharding) const override {
    trt::decoder_kind(model);
    if (!left_out.empty()) trt::fail_unquantized(model, left_out.front());
    trt::check_sharding(model, trt::make_form(model, schemes, kv_cache, sharding));
  }

  void check(const Model& model, const QuantizedCheckpoint& quantized,
             const Sharding& sharding) const override {
    check_plan(model, quantized.schemes(), quantized.kv_cache(), {}, sharding);
    trt::check_tensors(model, quantized);
  }

  void write(const Model& model, const QuantizedCheckpoint& quantized, const Sharding& sharding,
             const std::filesystem::path& directory) const override {
    trt::Form form = trt::make_form(model, quantized.schemes(), quantized.kv_cache(), sharding);
    form.recipe = quantized.format_name();
    if (form.dtype == at::kFloat)
      log_warning(visq::format("{}: is float32; most kernels of TensorRT-LLM want float16 or bfloat16",
                               model.checkpoint().directory().string()));
    trt::write_ranks(model, quantized, form, directory);
  }

  std::unique_ptr<StoredModel> open(const std::filesystem::path& path, const Model& source) const override {
    return trt::open_ranks(path, source);
  }

  std::vector<std::pair<std::string, std::string>> describe(
      const std::filesystem::path& path) const override {
    const trt::Form form = trt::read_config_alone(path);
    const Json config = read_json(path / "config.json");
    const auto [tp, pp] = form.sharding;
    return {
        {"architecture", get_or<std::string>(config, "architecture", "", (path / "config.json").string())},
        {"format", form.recipe.empty() ? trt::find_algorithm(form.scheme)->name : form.recipe},
        {"weights", describe_weight(form.scheme)},
        {"inputs", describe_input(form.scheme)},
        {"KV cache", form.kv_cache == KvCacheFormat::none ? "as is" : kv_cache_name(form.kv_cache)},
        {"GPUs", visq::format("{} (tensor parallel {}, pipeline stages {})", form.ranks(), tp, pp)}};
  }
};

}  // namespace

const ModelFormat& tensorrt_llm_format() {
  static const TensorRtLlmFormat format;
  return format;
}

}  // namespace visq

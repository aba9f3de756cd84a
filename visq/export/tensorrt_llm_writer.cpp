#include "visq/export/tensorrt_llm_writer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/export/tensorrt_llm_split.h"
#include "visq/io/output_file.h"
#include "visq/io/safetensors_header.h"

namespace visq::trt {
namespace {

/// The files of all ranks, of their final size.
class RankFiles {
 public:
  RankFiles(const Model& model, const Form& form, const std::filesystem::path& directory) {
    std::vector<std::vector<TensorInfo>> plans;
    std::vector<std::string> heads;
    uint64_t bytes = 0;
    for (int64_t rank = 0; rank < form.ranks(); ++rank) {
      std::vector<TensorInfo>& plan = plans.emplace_back();
      for (const PlannedTensor& tensor : rank_tensors(model, form, rank))
        plan.push_back({tensor.name, tensor.dtype, tensor.shape});
      std::ranges::sort(plan, {}, &TensorInfo::name);
      bytes += heads.emplace_back(lay_out(plan)).size() + (plan.back().end - plan.front().begin);
    }
    require_free_space(directory, bytes);
    for (size_t rank = 0; rank < plans.size(); ++rank) {
      OutputFile& file = files_.emplace_back(directory / rank_file(static_cast<int64_t>(rank)));
      file.reserve(plans[rank].back().end);
      file.write_at(0, heads[rank]);
      auto& places = places_.emplace_back();
      for (TensorInfo& tensor : plans[rank]) places.emplace(tensor.name, std::move(tensor));
    }
  }

  void write(int64_t rank, const std::string& name, const at::Tensor& tensor) {
    const TensorInfo& place = places_.at(static_cast<size_t>(rank)).at(name);
    if (tensor.scalar_type() != place.dtype || tensor.sizes() != place.shape)
      fail("{}: tensor '{}' is {} [{}], planned as {} [{}]", rank_file(rank), name,
           safetensors_dtype(tensor.scalar_type()), fmt::join(tensor.sizes(), ", "),
           safetensors_dtype(place.dtype), fmt::join(place.shape, ", "));
    const at::Tensor flat = tensor.contiguous();
    files_[static_cast<size_t>(rank)].write_at(
        place.begin, std::span(static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()));
  }

  void close() {
    for (OutputFile& file : files_) file.close();
  }

 private:
  std::vector<OutputFile> files_;
  std::vector<std::map<std::string, TensorInfo>> places_;
};

class Writer {
 public:
  Writer(const Model& model, const QuantizedCheckpoint& quantized, const Form& form,
         const std::filesystem::path& directory)
      : model_(model),
        spec_(model.spec().decoder),
        quantized_(quantized),
        form_(form),
        modules_(modules(spec_, form.sharding)),
        files_(model, form, directory) {}

  void run() {
    const auto per_layer = static_cast<int64_t>(modules_.size()) + 1;
    parallel_jobs(spec_.layers * per_layer + 1, [&](int64_t job) {
      check_interrupt();
      const int64_t layer = job / per_layer, part = job % per_layer;
      if (layer == spec_.layers)
        write_ends();
      else if (part == per_layer - 1)
        write_rest(layer);
      else
        write_module(layer, modules_[static_cast<size_t>(part)]);
    });
    files_.close();
  }

 private:
  std::string module_name(int64_t layer, nn::Role role) const {
    return model_.names().module(model_.spec(), layer, {role});
  }
  int64_t layers_per_stage() const { return spec_.layers / form_.sharding.pipeline_parallel; }
  std::string prefix(int64_t layer) const { return layer_prefix(layer % layers_per_stage()); }

  template <typename Value>  // (tensor-parallel rank) → tensor
  void write_to_stage(int64_t layer, const std::string& name, Value value) {
    const int64_t tp = form_.sharding.tensor_parallel, stage = layer / layers_per_stage();
    for (int64_t rank = 0; rank < tp; ++rank)
      files_.write(stage * tp + rank, prefix(layer) + name, value(rank));
  }

  /// First row of what a rank has of a piece.
  int64_t first_row(const Piece& piece, int64_t rank) const {
    return piece.begin + rank * piece.shards / form_.sharding.tensor_parallel * (piece.count / piece.shards);
  }

  PackedLinear read(int64_t layer, nn::Role role) const {
    const std::string module = module_name(layer, role);
    PackedLinear linear = quantized_.read(module);
    const nn::Extent expected = nn::extent_of(spec_, layer, {role});
    if (linear.weight.rows != expected.rows || linear.weight.columns != expected.columns)
      fail("{}: the weight of '{}' is {} × {}, by config.json it would be {} × {}",
           model_.checkpoint().directory().string(), module, linear.weight.rows, linear.weight.columns,
           expected.rows, expected.columns);
    if (at::Tensor& factors = linear.pre_quant_scale; factors.defined()) {
      const bool ones = factors.to(at::kFloat).eq(1).all().item<bool>();
      if (!ones && !find_algorithm(form_.scheme)->has_factors)
        fail("--to tensorrt-llm: this format has no place for the pre_quant_scale of '{}'; use modelopt",
             module);
      if (ones) factors = at::Tensor();
    }
    return linear;
  }

  void write_module(int64_t layer, const Module& module) {
    std::map<nn::Role, PackedLinear> linears;
    for (const Piece& piece : module.pieces)
      if (!linears.contains(piece.role)) linears.emplace(piece.role, read(layer, piece.role));
    const auto& [first_role, first] = *linears.begin();
    for (const auto& [role, linear] : linears)
      if (const char* what = unshared(first, linear); *what != '\0')
        fail(
            "--to tensorrt-llm: '{}' and '{}' have a different {} each, and this format one for both; "
            "quantize the original with visq, which gives them one",
            module_name(layer, first_role), module_name(layer, role), what);
    const nn::Extent extent = extent_of(spec_, module, form_.sharding);
    const std::vector<LinearTensor> tensors = linear_tensors(form_, extent);
    const int64_t tp = form_.sharding.tensor_parallel, stage = layer / layers_per_stage();
    for (int64_t rank = 0; rank < tp; ++rank) {
      std::vector<PackedLinear> parts;
      for (const Piece& piece : module.pieces)
        parts.push_back(rows_of(linears.at(piece.role), first_row(piece, rank), piece.count / piece.shards));
      PackedLinear local = join_rows(parts);
      if (module.by_columns) local = columns_of(local, rank * extent.columns, extent.columns);
      for (const LinearTensor& tensor : tensors)
        files_.write(stage * tp + rank, prefix(layer) + module.name + tensor.suffix, tensor.value(local));
    }
    if (has_bias(model_, layer, module)) write_bias(layer, module);
  }

  void write_bias(int64_t layer, const Module& module) {
    const Checkpoint& checkpoint = model_.checkpoint();
    write_to_stage(layer, std::string(module.name) + ".bias", [&](int64_t rank) {
      std::vector<at::Tensor> parts;
      for (const Piece& piece : module.pieces) {
        const std::string name = module_name(layer, piece.role) + ".bias";
        const at::Tensor bias = checkpoint.tensor(name);
        if (bias.dim() != 1 || bias.size(0) != nn::extent_of(spec_, layer, {piece.role}).rows)
          fail("{}: tensor '{}' has not one element a row", checkpoint.file_of(name).string(), name);
        parts.push_back(bias.narrow(0, first_row(piece, rank), piece.count / piece.shards).to(form_.dtype));
      }
      return at::cat(parts);
    });
  }

  // TensorRT-LLM multiplies by Gemma's norms as they stand, where Gemma adds 1 (spec/export.md §4.1).
  at::Tensor norm(const std::string& name) const {
    at::Tensor weight = model_.checkpoint().tensor(name).to(at::kFloat);
    if (spec_.norm_plus_one) weight = weight + 1;
    return weight.to(form_.dtype);
  }

  void write_rest(int64_t layer) {
    for (const PlainTensor& tensor : layer_norms(model_, layer))
      write_to_stage(layer, tensor.name, [&](int64_t) { return norm(tensor.source); });
    if (form_.kv_cache == KvCacheFormat::none) return;
    const KvScales scales =
        quantized_.kv_scales(model_.names().attention(model_.spec(), layer), spec_.kv_heads, spec_.head_dim);
    const at::Tensor key = scales.key.scale.reshape({1}), value = scales.value.scale.reshape({1});
    write_to_stage(layer, kKeyScale, [&](int64_t) { return key; });
    write_to_stage(layer, kValueScale, [&](int64_t) { return value; });
    write_to_stage(layer, kCacheScale, [&](int64_t) { return at::maximum(key, value); });
  }

  /// Rows of an embedding or head, with zeros behind the last.
  void write_table(int64_t stage, const char* name, const std::string& source) {
    const at::Tensor table = model_.checkpoint().tensor(source);
    const int64_t tp = form_.sharding.tensor_parallel, rows = form_.vocabulary_rows();
    for (int64_t rank = 0; rank < tp; ++rank) {
      check_interrupt();
      const int64_t begin = std::min(rank * rows, table.size(0));
      const int64_t count = std::min(rows, table.size(0) - begin);
      at::Tensor part = table.narrow(0, begin, count).to(form_.dtype);
      if (count < rows) part = at::constant_pad_nd(part, {0, 0, 0, rows - count});
      files_.write(stage * tp + rank, name, part);
    }
  }

  void write_ends() {
    const int64_t tp = form_.sharding.tensor_parallel, last = form_.sharding.pipeline_parallel - 1;
    const std::string embedding = embedding_name(model_), head = head_name(model_);
    write_table(0, kEmbedding, embedding);
    if (!form_.shared_embedding) write_table(last, kHead, head.empty() ? embedding : head);
    for (int64_t rank = 0; rank < tp; ++rank)
      files_.write(last * tp + rank, kFinalNorm, norm(final_norm_name(model_)));
  }

  const Model& model_;
  const nn::DecoderSpec& spec_;
  const QuantizedCheckpoint& quantized_;
  const Form& form_;
  std::vector<Module> modules_;
  RankFiles files_;
};

}  // namespace

void write_ranks(const Model& model, const QuantizedCheckpoint& quantized, const Form& form,
                 const std::filesystem::path& directory) {
  Writer(model, quantized, form, directory).run();
  OutputFile config(directory / "config.json");
  config.write_at(0, json_text(make_config(model, form), 2) + "\n");
  config.close();
}

}  // namespace visq::trt

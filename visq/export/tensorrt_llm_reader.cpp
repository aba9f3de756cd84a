#include "visq/export/tensorrt_llm_reader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "visq/core/error.h"
#include "visq/core/format.h"
#include "visq/export/layout_parts.h"
#include "visq/export/tensorrt_llm_split.h"

namespace visq::trt {
namespace {

class TensorRtLlmModel final : public StoredModel {
 public:
  TensorRtLlmModel(const std::filesystem::path& directory, const Model& source)
      : source_(source), spec_(source.spec().decoder), form_(read_config(directory, source)) {
    check_sharding(source, form_);
    modules_ = modules(spec_, form_.sharding);
    for (int64_t rank = 0; rank < form_.ranks(); ++rank) open_rank(directory / rank_file(rank), rank);
    place_others();
  }

  std::optional<Scheme> scheme(int64_t, const nn::LinearId&) const override { return form_.scheme; }
  KvCacheFormat kv_cache() const override { return form_.kv_cache; }
  std::string format_name() const override { return form_.recipe; }

  PackedLinear read(int64_t layer, const nn::LinearId& id) const override {
    const Module& module = module_of(id.role);
    const nn::Extent extent = extent_of(spec_, module, form_.sharding);
    std::vector<PackedLinear> of_ranks;
    for (int64_t rank = 0; rank < tp(); ++rank) {
      of_ranks.push_back(
          read_linear(form_, extent, origin(layer, rank, module),
                      [&](const std::string& suffix) { return tensor(layer, rank, module.name + suffix); }));
      const char* const what = module.by_columns ? unshared_columns(of_ranks.front(), of_ranks.back())
                                                 : unshared(of_ranks.front(), of_ranks.back());
      if (*what != '\0') fail_disagreement(layer, rank, visq::format("the {} of '{}'", what, module.name));
    }
    if (module.by_columns) return join_columns(of_ranks);
    std::vector<PackedLinear> parts;
    for (const Range& range : ranges_of(module, id.role))
      parts.push_back(rows_of(of_ranks[static_cast<size_t>(range.rank)], range.begin, range.count));
    return join_rows(parts);
  }

  KvScales kv_scales(int64_t layer) const override {
    const auto read = [&](const char* name) {
      const at::Tensor scale = shared(layer, name);
      const float value = scale.item<float>();
      if (!std::isfinite(value) || value <= 0)
        fail("{}: scale '{}{}' is {}, not a positive number", file(layer, 0).path().string(), prefix(layer),
             name, value);
      return KvScale{scalar_tensor(value, at::kFloat, {}), {}};
    };
    return {read(kKeyScale), read(kValueScale)};
  }

  std::optional<at::Tensor> other(const std::string& name) const override {
    const auto found = others_.find(name);
    if (found == others_.end()) return std::nullopt;
    const Other& place = found->second;
    if (place.table) return table(place);
    if (place.module != nullptr) return bias(place);
    const at::Tensor norm = shared(place.layer, place.name);
    if (!spec_.norm_plus_one) return norm;
    return without_added_one(norm, source_.checkpoint(), name).to(norm.scalar_type());
  }

 private:
  struct Range {  // rows in a module of one rank
    int64_t rank, begin, count;
  };
  struct Other {
    int64_t layer = 0;  // behind the last: the head's stage; −1: the embedding's
    std::string name = {};
    bool table = false;
    const Module* module = nullptr;  // its bias
    nn::Role role = nn::Role::q;
  };

  int64_t tp() const { return form_.sharding.tensor_parallel; }
  int64_t layers_per_stage() const { return spec_.layers / form_.sharding.pipeline_parallel; }
  int64_t stage_of(int64_t layer) const {
    return std::clamp<int64_t>(layer, 0, spec_.layers - 1) / layers_per_stage();
  }
  std::string prefix(int64_t layer) const {
    return layer < 0 || layer >= spec_.layers ? "" : layer_prefix(layer % layers_per_stage());
  }
  const SafetensorsFile& file(int64_t layer, int64_t rank) const {
    return *files_[static_cast<size_t>(stage_of(layer) * tp() + rank)];
  }
  at::Tensor tensor(int64_t layer, int64_t rank, const std::string& name) const {
    const SafetensorsFile& from = file(layer, rank);
    return from.tensor(*from.find(prefix(layer) + name));  // open_rank() found it
  }
  std::string origin(int64_t layer, int64_t rank, const Module& module) const {
    return visq::format("{}: {}{}", file(layer, rank).path().string(), prefix(layer), module.name);
  }

  [[noreturn]] void fail_disagreement(int64_t layer, int64_t rank, const std::string& what) const {
    fail("{}: {} in layer {} is not that of {}: the files are of different exports",
         file(layer, rank).path().string(), what, layer, file(layer, 0).path().filename().string());
  }

  /// A tensor that all ranks of a stage have. @throws Error when they differ
  at::Tensor shared(int64_t layer, const std::string& name) const {
    const at::Tensor first = tensor(layer, 0, name);
    for (int64_t rank = 1; rank < tp(); ++rank)
      if (!first.equal(tensor(layer, rank, name)))
        fail_disagreement(layer, rank, visq::format("tensor '{}{}'", prefix(layer), name));
    return first;
  }

  void open_rank(const std::filesystem::path& path, int64_t rank) {
    if (!std::filesystem::exists(path))
      fail("{}: is missing; config.json says that there are {} ranks", path.string(), form_.ranks());
    const SafetensorsFile& ranks = *files_.emplace_back(std::make_unique<SafetensorsFile>(path));
    const std::vector<PlannedTensor> planned = rank_tensors(source_, form_, rank);
    for (const PlannedTensor& tensor : planned) {
      const TensorInfo* const found = ranks.find(tensor.name);
      if (found == nullptr) fail("{}: tensor '{}' is missing", path.string(), tensor.name);
      if (found->dtype != tensor.dtype || found->shape != tensor.shape)
        fail("{}: tensor '{}' is {} [{}], expected {} [{}]", path.string(), tensor.name,
             safetensors_dtype(found->dtype), fmt::join(found->shape, ", "), safetensors_dtype(tensor.dtype),
             fmt::join(tensor.shape, ", "));
    }
    if (planned.size() == ranks.tensors().size()) return;
    for (const TensorInfo& tensor : ranks.tensors())
      if (std::ranges::find(planned, tensor.name, &PlannedTensor::name) == planned.end())
        fail("{}: tensor '{}' is of a model other than {}, or of a kind that visq does not read",
             path.string(), tensor.name, source_.checkpoint().directory().string());
  }

  void place_others() {
    others_[embedding_name(source_)] = {.layer = -1, .name = kEmbedding, .table = true};
    others_[final_norm_name(source_)] = {.layer = spec_.layers, .name = kFinalNorm};
    if (const std::string head = head_name(source_); !head.empty())
      others_[head] = {.layer = spec_.layers, .name = kHead, .table = true};
    if (!head_name(source_).empty() && form_.shared_embedding) others_.erase(head_name(source_));
    for (int64_t layer = 0; layer < spec_.layers; ++layer) {
      for (const PlainTensor& norm : layer_norms(source_, layer))
        others_[norm.source] = {.layer = layer, .name = norm.name};
      for (const Module& module : modules_) {
        if (!has_bias(source_, layer, module)) continue;
        for (const Piece& piece : module.pieces)
          others_[source_.names().module(source_.spec(), layer, {piece.role}) + ".bias"] = {
              .layer = layer,
              .name = std::string(module.name) + ".bias",
              .module = &module,
              .role = piece.role};
      }
    }
  }

  const Module& module_of(nn::Role role) const {
    return *std::ranges::find_if(modules_, [&](const Module& module) {
      return std::ranges::any_of(module.pieces, [&](const Piece& piece) { return piece.role == role; });
    });
  }

  /// Where the rows of a linear are, in their order. Of ranks that have the same the first is taken.
  std::vector<Range> ranges_of(const Module& module, nn::Role role) const {
    std::vector<std::pair<int64_t, Range>> ranges;  // by the first row in the linear
    int64_t begin = 0;                              // in the module of a rank
    for (const Piece& piece : module.pieces) {
      const int64_t count = piece.count / piece.shards;
      for (int64_t shard = 0; shard < piece.shards && piece.role == role; ++shard)
        ranges.push_back({piece.begin + shard * count, {shard * (tp() / piece.shards), begin, count}});
      begin += count;
    }
    std::ranges::sort(ranges, {}, [](const auto& entry) { return entry.first; });
    std::vector<Range> sorted;
    for (const auto& entry : ranges) sorted.push_back(entry.second);
    return sorted;
  }

  at::Tensor bias(const Other& place) const {
    if (place.module->by_columns) return shared(place.layer, place.name);
    std::vector<at::Tensor> parts;
    for (const Range& range : ranges_of(*place.module, place.role))
      parts.push_back(tensor(place.layer, range.rank, place.name).narrow(0, range.begin, range.count));
    return at::cat(parts);
  }

  at::Tensor table(const Other& place) const {
    std::vector<at::Tensor> parts;
    for (int64_t rank = 0; rank < tp(); ++rank) parts.push_back(tensor(place.layer, rank, place.name));
    return at::cat(parts).narrow(0, 0, source_.checkpoint().info(embedding_name(source_)).shape.at(0));
  }

  const Model& source_;
  const nn::DecoderSpec& spec_;
  Form form_;
  std::vector<Module> modules_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Other> others_;
};

}  // namespace

std::unique_ptr<StoredModel> open_ranks(const std::filesystem::path& directory, const Model& source) {
  return std::make_unique<TensorRtLlmModel>(directory, source);
}

}  // namespace visq::trt

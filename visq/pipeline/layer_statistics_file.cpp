#include "visq/pipeline/layer_statistics_file.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "visq/core/error.h"

namespace visq {
namespace {

constexpr int64_t kMaxChannels = int64_t{1} << 24, kMaxExperts = 1 << 16;
constexpr int64_t kMaxTokens = int64_t{1} << 40;  // sums of thousands of files stay far from overflow

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

std::string expert_name(size_t expert, const char* whose) {
  return visq::format("experts.{}.{}", expert, whose);
}

void put(NamedTensors& file, const std::string& name, const TokenSample& sample) {
  if (sample.size() == 0) return;
  file.emplace_back(name + ".rows", sample.rows);
  file.emplace_back(name + ".tickets", sample.tickets);
}

void put(NamedTensors& file, const std::string& name, const TokenStatistics& statistics) {
  file.emplace_back(name + ".tokens", at::full({}, statistics.tokens, at::kLong));
  if (statistics.tokens == 0) return;
  file.emplace_back(name + ".held_out.tokens", at::full({}, statistics.held_out_tokens, at::kLong));
  put(file, name + ".sample", statistics.sample);
  put(file, name + ".held_out", statistics.held_out);
  file.emplace_back(name + ".abs_max", statistics.abs_max);
  file.emplace_back(name + ".abs_sum", statistics.abs_sum);
  if (statistics.gram.defined()) file.emplace_back(name + ".gram", statistics.gram);
}

void put(NamedTensors& file, const std::string& name, const Statistics& statistics) {
  put(file, name + ".text", statistics.text());
  put(file, name + ".image", statistics.image());
}

void put(NamedTensors& file, const std::string& name, const KvStatistics& statistics) {
  file.emplace_back(name + ".tokens", at::full({}, statistics.tokens, at::kLong));
  if (statistics.tokens == 0) return;
  file.emplace_back(name + ".min", statistics.min);
  file.emplace_back(name + ".max", statistics.max);
  file.emplace_back(name + ".sum", statistics.sum);
}

/// Smallest and largest element, without a copy of the tensor; NaN where there is one.
std::pair<double, double> range_of(const at::Tensor& tensor) {
  const auto [low, high] = at::aminmax(tensor);
  return {low.item<double>(), high.item<double>()};
}

// Takes from a file what must be in it.
class Reader {
 public:
  Reader(const std::filesystem::path& path, const ReadOptions& options)
      : file_(path), origin_(path.string()), options_(options) {}

  Statistics statistics(const std::string& name, int64_t channels) {
    TokenStatistics text = token_statistics(name + ".text", channels);
    return {std::move(text), token_statistics(name + ".image", channels), options_.detail};
  }

  KvStatistics kv_statistics(const std::string& name, const LayerShape& shape) {
    KvStatistics statistics;
    statistics.tokens = tokens(name);
    if (statistics.tokens == 0) return statistics;
    const std::vector<int64_t> heads = {shape.kv_heads, shape.head_dim};
    statistics.min = take(name + ".min", at::kFloat, heads);
    statistics.max = take(name + ".max", at::kFloat, heads);
    statistics.sum = take(name + ".sum", at::kDouble, heads);
    return statistics;
  }

  /// Refuses what was not taken.
  void finish() const {
    for (const TensorInfo& tensor : file_.tensors())
      if (!taken_.contains(tensor.name))
        fail("{}: tensor '{}' does not belong to these statistics", origin_, tensor.name);
  }

 private:
  TokenStatistics token_statistics(const std::string& name, int64_t channels) {
    TokenStatistics statistics;
    statistics.tokens = tokens(name);
    if (statistics.tokens == 0) return statistics;
    statistics.abs_max = take(name + ".abs_max", at::kFloat, {channels}, /*magnitude=*/true);
    statistics.abs_sum = take(name + ".abs_sum", at::kDouble, {channels}, /*magnitude=*/true);
    statistics.held_out_tokens = tokens(name + ".held_out");
    if (statistics.held_out_tokens > statistics.tokens)
      fail("{}: '{}' holds out {} of {} tokens", origin_, name, statistics.held_out_tokens,
           statistics.tokens);
    statistics.sample = sample(name + ".sample", statistics.fitted_tokens(), channels);
    statistics.held_out = sample(name + ".held_out", statistics.held_out_tokens, channels);
    if (!options_.has_gram || statistics.fitted_tokens() == 0) return statistics;
    if (options_.detail == Detail::gram)
      statistics.gram = take(name + ".gram", at::kFloat, {channels, channels});
    else
      stored(name + ".gram", at::kFloat, {channels, channels});
    return statistics;
  }

  /// @param tokens  that it was drawn from
  TokenSample sample(const std::string& name, int64_t tokens, int64_t channels) {
    TokenSample result;
    const int64_t count = std::min(tokens, kSampledTokens);
    if (count == 0) return result;
    const at::Tensor tickets = stored(name + ".tickets", at::kLong, {count});
    if (options_.detail == Detail::magnitudes) {
      stored(name + ".rows", at::kFloat, {count, channels});
      return result;
    }
    result.rows = take(name + ".rows", at::kFloat, {count, channels});
    if (options_.device) result.tickets = tickets.to(*options_.device).clone();
    return result;
  }

  int64_t tokens(const std::string& name) {
    const auto value = stored(name + ".tokens", at::kLong, {}).item<int64_t>();
    if (value < 0 || value > kMaxTokens) fail("{}: tensor '{}.tokens' is {}", origin_, name, value);
    return value;
  }

  at::Tensor take(const std::string& name, at::ScalarType dtype, const std::vector<int64_t>& shape,
                  bool magnitude = false) {
    const at::Tensor tensor = stored(name, dtype, shape);
    if (!options_.device) return tensor;
    const auto [low, high] = range_of(tensor);
    if (!std::isfinite(low) || !std::isfinite(high))
      fail("{}: tensor '{}' holds a NaN or an infinity", origin_, name);
    if (magnitude && low < 0) fail("{}: tensor '{}' holds a negative magnitude: {}", origin_, name, low);
    // A copy, because some products depend on how their operands are aligned.
    return tensor.to(*options_.device, tensor.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  }

  at::Tensor stored(const std::string& name, at::ScalarType dtype, const std::vector<int64_t>& shape) {
    const TensorInfo* const info = file_.find(name);
    if (info == nullptr) fail("{}: tensor '{}' is missing", origin_, name);
    if (info->dtype != dtype || info->shape != shape)
      fail("{}: tensor '{}' is {} [{}] and not {} [{}]", origin_, name, safetensors_dtype(info->dtype),
           fmt::join(info->shape, ", "), safetensors_dtype(dtype), fmt::join(shape, ", "));
    taken_.insert(name);
    return file_.tensor(*info);
  }

  SafetensorsFile file_;
  std::string origin_;
  ReadOptions options_;
  std::set<std::string> taken_;
};

ExpertStatistics read_expert(Reader& reader, size_t expert, const LayerShape& shape) {
  ExpertStatistics result(Detail::magnitudes);
  result.down = reader.statistics(expert_name(expert, "own"), shape.expert_width);
  result.text_tokens = result.down.text().tokens;
  result.image_tokens = result.down.image().tokens;
  if (result.down.fitted_tokens() >= kMinExpertTokens) return result;
  result.borrowed = true;
  result.few = std::exchange(result.down, reader.statistics(expert_name(expert, "lent"), shape.expert_width));
  return result;
}

/// Either all inputs of a layer were seen, or none.
void check_tokens(const LayerStatistics& statistics, const LayerShape& shape, const std::string& origin) {
  const bool ran = statistics.has_run();
  if (!ran && !shape.may_be_empty()) fail("{}: saw no tokens", origin);
  const auto check = [&](const std::string& name, int64_t tokens) {
    if (ran != (tokens > 0))
      fail("{}: '{}' saw {} tokens and '{}' {}", origin, name, tokens,
           nn::group_name(nn::InputGroup::attn_in),
           statistics.inputs[static_cast<size_t>(nn::InputGroup::attn_in)].tokens());
  };
  const auto check_seen = [&](const std::string& name, const Statistics& seen) {
    check(name, seen.tokens());
    if (seen.tokens() > 0 && seen.fitted_tokens() == 0)
      fail("{}: all tokens of '{}' are held out", origin, name);
  };
  for (const nn::InputGroup group : nn::kInputGroups)
    if (const auto i = static_cast<size_t>(group); shape.inputs[i] > 0)
      check_seen(nn::group_name(group), statistics.inputs[i]);
  if (shape.routed_inputs) check_seen("experts_in", statistics.experts_in);
  for (size_t i = 0; i < statistics.experts.size(); ++i)
    check_seen(expert_name(i, statistics.experts[i].borrowed ? "lent" : "own"), statistics.experts[i].down);
  check("keys", statistics.kv_cache.keys.tokens);
  check("rotated_keys", statistics.kv_cache.rotated_keys.tokens);
  check("values", statistics.kv_cache.values.tokens);
}

/// An extent, or 0 where the key is absent.
int64_t read_size(const Json& json, const std::string& key, int64_t largest, const std::string& origin) {
  const auto value = get_or<int64_t>(json, key, 0, origin);
  if (value < 0 || value > largest) fail("{}: '{}' is {}", origin, key, value);
  return value;
}

}  // namespace

LayerShape layer_shape(const nn::DecoderSpec& spec, int64_t layer) {
  LayerShape shape;
  const auto channels = [&shape](nn::InputGroup group) -> int64_t& {
    return shape.inputs[static_cast<size_t>(group)];
  };
  channels(nn::InputGroup::attn_in) = spec.hidden;
  if (spec.is_cross(layer)) channels(nn::InputGroup::cross_in) = spec.hidden;
  channels(nn::InputGroup::attn_out) = spec.heads * spec.head_dim;
  channels(nn::InputGroup::mlp_in) = spec.hidden;
  channels(nn::InputGroup::mlp_out) = nn::up_rows(spec, layer, nn::kNoExpert).count;
  if (spec.is_sparse(layer)) {
    shape.experts = spec.experts.count;
    shape.expert_width = spec.experts.intermediate;
    shape.routed_inputs = spec.experts.routing == nn::ExpertsSpec::Routing::sigmoid_input;
  }
  shape.kv_heads = spec.kv_heads;
  shape.head_dim = spec.head_dim;
  return shape;
}

Json layer_shape_json(const LayerShape& shape) {
  Json json;
  for (const nn::InputGroup group : nn::kInputGroups)
    if (const int64_t channels = shape.inputs[static_cast<size_t>(group)]; channels > 0)
      json[nn::group_name(group)] = channels;
  json["kv_heads"] = shape.kv_heads;
  json["head_dim"] = shape.head_dim;
  if (shape.experts > 0) {
    json["experts"] = shape.experts;
    json["expert_width"] = shape.expert_width;
    json["routed_inputs"] = shape.routed_inputs;
  }
  return json;
}

LayerShape parse_layer_shape(const Json& json, const std::string& origin) {
  LayerShape shape;
  for (const nn::InputGroup group : nn::kInputGroups)
    shape.inputs[static_cast<size_t>(group)] = read_size(json, nn::group_name(group), kMaxChannels, origin);
  shape.kv_heads = read_size(json, "kv_heads", kMaxChannels, origin);
  shape.head_dim = read_size(json, "head_dim", kMaxChannels, origin);
  shape.experts = read_size(json, "experts", kMaxExperts, origin);
  shape.expert_width = read_size(json, "expert_width", kMaxChannels, origin);
  shape.routed_inputs = get_or<bool>(json, "routed_inputs", false, origin);
  if (layer_shape_json(shape) != json)
    fail("{}: 'layers' has an entry that is no layer's: {}", origin, json_excerpt(json));
  return shape;
}

void write_layer_statistics(const std::filesystem::path& path, const LayerStatistics& statistics,
                            const LayerShape& shape) {
  NamedTensors file;
  for (const nn::InputGroup group : nn::kInputGroups)
    if (const auto i = static_cast<size_t>(group); shape.inputs[i] > 0)
      put(file, nn::group_name(group), statistics.inputs[i]);
  if (shape.routed_inputs) put(file, "experts_in", statistics.experts_in);
  for (size_t i = 0; i < statistics.experts.size(); ++i) {
    const ExpertStatistics& expert = statistics.experts[i];
    put(file, expert_name(i, "own"), expert.borrowed ? expert.few : expert.down);
    if (expert.borrowed) put(file, expert_name(i, "lent"), expert.down);
  }
  put(file, "keys", statistics.kv_cache.keys);
  put(file, "rotated_keys", statistics.kv_cache.rotated_keys);
  put(file, "values", statistics.kv_cache.values);
  for (const auto& [name, tensor] : file) {
    if (!at::isFloatingType(tensor.scalar_type())) continue;
    const auto [low, high] = range_of(tensor);
    if (!std::isfinite(low) || !std::isfinite(high))
      fail("{}: calibration gave a NaN or an infinity for '{}'; if --dtype float32 does too, the model does",
           path.filename().string(), name);
  }
  write_safetensors(path, file);
}

uint64_t least_bytes(const LayerShape& shape, bool with_gram, bool with_images) {
  if (shape.may_be_empty() && !with_images) return 0;
  const auto bytes_of = [with_gram](int64_t channels) {
    const auto count = static_cast<uint64_t>(channels);
    return count * (sizeof(float) + sizeof(double) + (with_gram ? count * sizeof(float) : 0));
  };
  // What a cross layer reads is either tokens, which are all text, or images.
  const uint64_t modalities = with_images && !shape.may_be_empty() ? 2 : 1;
  uint64_t bytes = static_cast<uint64_t>(shape.experts) * bytes_of(shape.expert_width);
  for (const int64_t channels : shape.inputs) bytes += modalities * bytes_of(channels);
  return bytes;
}

LayerStatistics read_layer_statistics(const std::filesystem::path& path, const LayerShape& shape,
                                      const ReadOptions& options) {
  Reader reader(path, options);
  LayerStatistics result(options.detail);
  for (const nn::InputGroup group : nn::kInputGroups)
    if (const auto i = static_cast<size_t>(group); shape.inputs[i] > 0)
      result.inputs[i] = reader.statistics(nn::group_name(group), shape.inputs[i]);
  if (shape.routed_inputs)
    result.experts_in =
        reader.statistics("experts_in", shape.inputs[static_cast<size_t>(nn::InputGroup::mlp_in)]);
  for (size_t i = 0; i < static_cast<size_t>(shape.experts); ++i)
    result.experts.push_back(read_expert(reader, i, shape));
  result.kv_cache.keys = reader.kv_statistics("keys", shape);
  result.kv_cache.rotated_keys = reader.kv_statistics("rotated_keys", shape);
  result.kv_cache.values = reader.kv_statistics("values", shape);
  reader.finish();
  check_tokens(result, shape, path.string());
  return result;
}

}  // namespace visq

#include "visq/pipeline/convert_model_format.h"

#include <ATen/ATen.h>
#include <stdlib.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <map>
#include <set>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/pipeline/convert_plan.h"
#include "visq/pipeline/packed_difference.h"
#include "visq/pipeline/plan.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

struct LinearPlace {
  int64_t layer;
  nn::LinearId id;
  std::string module;
};

std::vector<LinearPlace> quantized_linears(const Model& model,
                                           const std::function<bool(const LinearPlace&)>& wanted) {
  std::vector<LinearPlace> places;
  for (int64_t layer = 0; layer < model.spec().decoder.layers; ++layer)
    for (const nn::LinearId& id : nn::linears(model.spec().decoder, layer)) {
      LinearPlace place{layer, id, model.names().module(model.spec(), layer, id)};
      if (wanted(place)) places.push_back(std::move(place));
    }
  return places;
}

/// Compares all that is quantized in a checkpoint with what a model format has of it.
void compare(const Model& model, const QuantizedCheckpoint& checkpoint, const StoredModel& stored,
             const std::vector<LinearPlace>& linears, const std::string& to) {
  if (stored.kv_cache() != checkpoint.kv_cache())
    fail("--to {}: does not tell a KV cache of {} from one of {}", to, kv_cache_name(checkpoint.kv_cache()),
         kv_cache_name(stored.kv_cache()));
  parallel_jobs(static_cast<int64_t>(linears.size()), [&](int64_t i) {
    check_interrupt();
    const auto& [layer, id, module] = linears[static_cast<size_t>(i)];
    const char* const what = difference(checkpoint.read(module), stored.read(layer, id));
    if (*what != '\0') fail("--to {}: does not hold the {} of '{}' exactly", to, what, module);
  });
  if (checkpoint.kv_cache() == KvCacheFormat::none) return;
  const nn::DecoderSpec& decoder = model.spec().decoder;
  for (int64_t layer = 0; layer < decoder.layers; ++layer) {
    const std::string attention = model.names().attention(model.spec(), layer);
    const char* const what = difference(checkpoint.kv_scales(attention, decoder.kv_heads, decoder.head_dim),
                                        stored.kv_scales(layer));
    if (*what != '\0') fail("--to {}: does not hold the {} of '{}' exactly", to, what, attention);
  }
}

/// What the plan of a restored checkpoint says, but its tensors; without a layout where nothing is quantized.
Plan describe_restored(const Model& model, const ModelFormat& format, const StoredModel& stored,
                       const ConvertOptions& options) {
  Plan plan;
  plan.directory = options.out;
  plan.layers = model.spec().decoder.layers;
  plan.kv_cache = stored.kv_cache();
  for (int64_t layer = 0; layer < plan.layers; ++layer)
    for (const nn::GroupId& group : nn::groups(model.spec().decoder, layer)) {
      const std::vector<nn::LinearId> members = nn::members(model.spec().decoder, layer, group);
      for (const nn::LinearId& id : members) {
        const std::string module = model.names().module(model.spec(), layer, id);
        if (const auto scheme = stored.scheme(layer, id))
          plan.sites.push_back(
              {layer, id, describe_linear(model.checkpoint(), module, *scheme, members.size() == 1)});
        else
          plan.left_out.push_back(module);
      }
    }
  for (const Site& site : plan.sites) add_stored(plan.schemes, site.linear.scheme);
  plan.recipe.name = stored.format_name();
  if (plan.recipe.name.empty() && !plan.schemes.empty()) {
    const Preset* const preset = preset_of(plan.schemes.front());
    plan.recipe.name = preset != nullptr ? preset->name : describe_weight(plan.schemes.front());
  }
  const std::string to = options.to != "auto"                            ? options.to
                         : format.stage() != nullptr                     ? format.stage()->name()
                         : modelopt_layout().Layout::holds(plan.schemes) ? "modelopt"
                                                                         : "auto";
  if (plan.schemes.empty()) return plan;  // all linears are real numbers
  plan.layout = &find_layout(to, plan.schemes, plan.recipe.name, plan.kv_cache);
  if (follows_weights(*plan.layout))
    parallel_jobs(static_cast<int64_t>(plan.sites.size()), [&](int64_t i) {
      Site& site = plan.sites[static_cast<size_t>(i)];
      site.linear.wide_scales =
          first_unheld(stored.read(site.layer, site.id), site.linear.source_dtype).has_value();
    });
  return plan;
}

using Values = std::map<std::string, std::function<at::Tensor()>>;

/// The scales of the KV cache: their places behind the keys' weights, and their values.
AddedTensors plan_kv_cache(const Plan& plan, const Model& model, const StoredModel& stored, Values& values) {
  AddedTensors added;
  for (int64_t layer = 0; layer < plan.layers && plan.kv_cache != KvCacheFormat::none; ++layer) {
    const std::string keys =
        model.names().module(model.spec(), layer, nn::key_rows(model.spec().decoder).linear) + ".weight";
    const QuantizedKvCache cache =
        kv_cache_of(model, layer, plan.kv_cache, model.checkpoint().info(keys).dtype);
    for (KvLayoutTensor& tensor : plan.layout->kv_tensors(cache)) {
      values[tensor.planned.name] = [&stored, layer, value = std::move(tensor.value)] {
        return value(stored.kv_scales(layer));
      };
      added[keys].push_back(std::move(tensor.planned));
    }
  }
  return added;
}

/// @return bytes of the text model's tensors that are the source's
uint64_t write_tensors(CheckpointWriter& writer, const Plan& plan, const Checkpoint& source,
                       const StoredModel& stored, const Values& values) {
  std::set<std::string> of_sites;
  for (const Site& site : plan.sites)
    for (const LayoutTensor& tensor : plan.layout->tensors(site.linear)) of_sites.insert(tensor.planned.name);
  std::vector<const PlannedTensor*> others;
  for (const PlannedTensor& tensor : plan.tensors)
    if (!of_sites.contains(tensor.name)) others.push_back(&tensor);
  const auto sites = static_cast<int64_t>(plan.sites.size());
  std::atomic<uint64_t> from_source = 0;
  parallel_jobs(sites + static_cast<int64_t>(others.size()), [&](int64_t i) {
    check_interrupt();
    if (i < sites) {
      const Site& site = plan.sites[static_cast<size_t>(i)];
      const PackedLinear linear = stored.read(site.layer, site.id);
      for (const LayoutTensor& tensor : plan.layout->tensors(site.linear))
        writer.write(tensor.planned.name, tensor.value(linear));
      return;
    }
    const PlannedTensor& tensor = *others[static_cast<size_t>(i - sites)];
    if (const auto value = values.find(tensor.name); value != values.end())
      writer.write(tensor.name, value->second());
    else if (const auto other = stored.other(tensor.name))
      writer.write(tensor.name, other->to(tensor.dtype));
    else
      writer.copy(tensor.name, source), from_source += tensor.bytes();
  });
  return from_source;
}

void write_files(CheckpointWriter& writer, const Plan& plan, const Checkpoint& source) {
  const CheckpointPart& part = source.text_model();
  for (const auto& file : source.side_files()) writer.copy_file(file, source.directory() / file);
  if (plan.layout == nullptr)
    return writer.write_file(fs::path(part.folder) / "config.json", part.config_text);
  writer.write_file(fs::path(part.folder) / "config.json",
                    add_quantization_config(part.config_text, plan.layout->quantization_config(plan.summary),
                                            (part.directory / "config.json").string()));
  for (const auto& [name, content] : plan.layout->extra_files(plan.summary))
    writer.write_file(fs::path(part.folder) / name, json_text(content, 2) + "\n");
}

}  // namespace

OutputDirectory::Options model_format_output_options(bool force) {
  return {force, "a checkpoint", [](const fs::path& directory) {
            if (fs::exists(directory / "config.json")) return true;
            const fs::directory_iterator entries(directory);
            return std::any_of(begin(entries), end(entries), [](const auto& entry) {
              return entry.path().extension() == ".safetensors" || entry.path().extension() == ".gguf";
            });
          }};
}

uint64_t bytes_in(const fs::path& directory) {
  if (fs::is_regular_file(directory)) return fs::file_size(directory);
  uint64_t bytes = 0;
  for (const auto& entry : fs::recursive_directory_iterator(directory))
    if (entry.is_regular_file()) bytes += entry.file_size();
  return bytes;
}

ConvertResult convert_to_model_format(const Checkpoint& checkpoint, const QuantizedCheckpoint& quantized,
                                      const ModelFormat& format, const ConvertOptions& options) {
  const Model model(checkpoint, at::kCPU, at::kFloat, [](const std::string&) { return nn::Linear(); });
  format.check(model, quantized, options.sharding);
  OutputDirectory output(options.out, model_format_output_options(options.force));
  format.write(model, quantized, options.sharding, output.partial());
  const std::vector<LinearPlace> linears = quantized_linears(
      model, [&](const LinearPlace& place) { return quantized.is_quantized(place.module); });
  {
    const auto stored = format.open(output.partial(), model);
    compare(model, quantized, *stored, linears, format.name());
  }
  const uint64_t bytes = bytes_in(output.partial());
  if (const fs::path report = checkpoint.directory() / "visq_report.json"; fs::is_regular_file(report))
    fs::copy_file(report, output.partial() / "visq_report.json");
  output.commit();
  return {quantized.format_name(), quantized.layout().name(), format.name(),
          linears.size(),          checkpoint.total_bytes(),  bytes};
}

ConvertResult restore(const ModelFormat& format, const ConvertOptions& options) {
  if (options.source.empty())
    fail(
        "{}: is a checkpoint of {}, which has no vision tower, tokenizer or configuration; say with --source "
        "which model it was made of",
        options.checkpoint.string(), format.name());
  if (find_model_format(options.to) != nullptr)
    fail("--to {}: from a checkpoint of {} only layouts are written; convert to modelopt first", options.to,
         format.name());
  const Checkpoint source(options.source);
  if (QuantizedCheckpoint::open(source))
    fail("--source {}: is quantized itself; name the original that it was made of", options.source.string());
  const Model model(source, at::kCPU, at::kFloat);
  const auto stored = format.open(options.checkpoint, model);
  const std::set<std::string> unheld = stored->unheld();
  if (!unheld.empty() && !options.dequantize_unheld)
    fail(
        "{}: has '{}' in blocks that no layout holds ({}): eval, generate and inspect read this file; "
        "quantize "
        "the original for another layout",
        options.checkpoint.string(), *unheld.begin(), format.name());
  Plan plan = describe_restored(model, format, *stored, options);
  Values values;
  plan_tensors(plan, source, plan_kv_cache(plan, model, *stored, values));
  for (PlannedTensor& tensor : plan.tensors)
    if (unheld.contains(tensor.name)) tensor.dtype = at::kFloat;
  if (plan.layout != nullptr) plan.summary = summarize(plan, model);

  CheckpointWriter writer(
      options.out, plan.tensors,
      {options.max_shard_bytes, options.force, source.text_model().folder, plan.copied_bytes});
  const uint64_t from_source = write_tensors(writer, plan, source, *stored, values);
  write_files(writer, plan, source);
  if (plan.layout != nullptr) {
    const Checkpoint written(writer.partial_directory());
    const auto after = QuantizedCheckpoint::open(written);
    if (!after) fail("{}: was written without a quantization_config", options.out.string());
    const std::vector<LinearPlace> linears = quantized_linears(
        model, [&](const LinearPlace& place) { return stored->scheme(place.layer, place.id).has_value(); });
    compare(model, *after, *stored, linears, plan.layout->name());
  }
  writer.finish();
  return {plan.recipe.name,
          format.name(),
          plan.layout != nullptr ? plan.layout->name() : "",
          plan.sites.size(),
          bytes_in(options.checkpoint),
          plan.output_bytes,
          !unheld.empty(),
          format.holds_tower(options.checkpoint) ? 0 : plan.copied_bytes + from_source};
}

TemporaryDirectory::TemporaryDirectory(const fs::path& parent, const std::string& name) {
  make_directories(parent);
  std::string path = (parent / (name + "XXXXXX")).string();
  if (mkdtemp(path.data()) == nullptr)
    fail("{}: no temporary directory can be created there ({})", parent.string(), std::strerror(errno));
  path_ = path;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

RunnableCheckpoint::RunnableCheckpoint(const fs::path& checkpoint, const fs::path& source,
                                       const std::string& to)
    : directory_(checkpoint) {
  const ModelFormat* const format = model_format_at(checkpoint);
  if (format == nullptr) return;
  temporary_.emplace(fs::temp_directory_path(), "visq-");
  ConvertOptions options;
  options.checkpoint = checkpoint;
  options.to = to;
  options.out = directory_ = temporary_->path() / "restored";
  options.source = source;
  options.dequantize_unheld = true;
  restored_ = restore(*format, options);
}

}  // namespace visq

#include "visq/pipeline/quantize.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <iterator>
#include <set>

#include "visq/core/dotted_name.h"
#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/parallel.h"
#include "visq/core/process.h"
#include "visq/pipeline/modality.h"
#include "visq/pipeline/named_plan.h"
#include "visq/pipeline/statistics_directory.h"

namespace visq {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// An output on its way to disk.
struct Output {
  const Plan& plan;
  std::unique_ptr<CheckpointWriter> writer;
  FormatResult result;
  std::set<std::string> rewritten = {};  // what smoothing, or a merged adapter, has changed
};

// The folder of several outputs, removed again when the run fails before anything is in it.
class ParentFolder {
 public:
  explicit ParentFolder(std::filesystem::path path)
      : path_(std::move(path)), existed_(std::filesystem::exists(path_)) {}
  ~ParentFolder() {
    std::error_code ignored;
    if (!existed_) std::filesystem::remove(path_, ignored);  // only when it is empty
  }
  ParentFolder(const ParentFolder&) = delete;
  ParentFolder& operator=(const ParentFolder&) = delete;

 private:
  std::filesystem::path path_;
  bool existed_;
};

// Source tensors that go over byte for byte: planned under their own name, neither quantized nor rewritten.
// By the shard that they are written to: writes to one file wait for each other, so a thread that copies a
// shard by itself keeps no other from its work. The largest shard first.
std::vector<std::vector<std::string>> verbatim_tensors(const Output& output, const Checkpoint& checkpoint) {
  std::set<std::string> written = output.rewritten;
  for (const Site& site : output.plan.sites) written.insert(site.linear.module + ".weight");
  struct Copies {
    std::vector<std::string> names;
    uint64_t bytes = 0;
  };
  std::map<size_t, Copies> shards;
  for (const PlannedTensor& tensor : output.plan.tensors) {
    if (!checkpoint.contains(tensor.name) || written.contains(tensor.name)) continue;
    Copies& copies = shards[output.writer->shard_of(tensor.name)];
    copies.names.push_back(tensor.name);
    copies.bytes += tensor.bytes();
  }
  std::vector<Copies> sorted;
  for (auto& [shard, copies] : shards) sorted.push_back(std::move(copies));
  std::ranges::stable_sort(sorted, std::greater{}, &Copies::bytes);
  std::vector<std::vector<std::string>> names;
  for (Copies& copies : sorted) names.push_back(std::move(copies.names));
  return names;
}

// What a merged adapter changes besides the weights that are quantized.
std::set<std::string> merged_tensors(const Plan& plan, const Model& model) {
  std::set<std::string> names;
  const AdapterSpec* const merged = model.merged_adapter();
  for (int64_t layer = 0; merged != nullptr && layer < model.spec().decoder.layers; ++layer)
    for (const nn::LinearId& id : nn::linears(model.spec().decoder, layer)) {
      names.insert(model.adapter_tensor(layer, id, *merged, "lora_B"));
      if (plan.find(layer, id) == nullptr)
        names.insert(model.names().module(model.spec(), layer, id) + ".weight");
    }
  return names;
}

void copy_tensors(Output& output, const Checkpoint& checkpoint, const std::vector<std::string>& names) {
  for (const std::string& name : names) {
    check_interrupt();
    output.writer->copy(name, checkpoint);
  }
}

void copy_verbatim(Output& output, const Checkpoint& checkpoint) {
  const auto shards = verbatim_tensors(output, checkpoint);
  parallel_jobs(static_cast<int64_t>(shards.size()),
                [&](int64_t i) { copy_tensors(output, checkpoint, shards[static_cast<size_t>(i)]); });
}

void write_linears(Output& output, const std::vector<SolvedLinear>& linears) {
  for (const auto& [site, linear] : linears)
    for (const LayoutTensor& tensor : output.plan.layout->tensors(site->linear))
      output.writer->write(tensor.planned.name, tensor.value(linear).to(at::kCPU));
}

void write_layer(Output& output, const Model& model, int64_t layer, const SolvedLayer& solved) {
  write_linears(output, solved.linears);
  for (const auto& [name, value] : solved.rewritten) output.writer->write(name, value);
  if (solved.kv_scales) {
    const std::string keys =
        model.names().module(model.spec(), layer, nn::key_rows(model.spec().decoder).linear);
    const QuantizedKvCache cache =
        kv_cache_of(model, layer, output.plan.kv_cache, model.checkpoint().info(keys + ".weight").dtype);
    for (const KvLayoutTensor& tensor : output.plan.layout->kv_tensors(cache))
      output.writer->write(tensor.planned.name, tensor.value(*solved.kv_scales).to(at::kCPU));
  }
}

// Without calibration the layers do not depend on one another: they are packed side by side, and beside the
// copies.
void quantize_without_data(Output& output, const Model& model) {
  const auto shards = verbatim_tensors(output, model.checkpoint());
  const auto copies = static_cast<int64_t>(shards.size());
  std::vector<std::vector<GroupReport>> reports(static_cast<size_t>(model.spec().decoder.layers));
  parallel_jobs(copies + model.spec().decoder.layers, [&](int64_t i) {
    if (i < copies) return copy_tensors(output, model.checkpoint(), shards[static_cast<size_t>(i)]);
    check_interrupt();
    const int64_t layer = i - copies;
    SolvedLayer solved = LayerSolver(model, layer, nullptr).solve(output.plan);
    write_layer(output, model, layer, solved);
    reports[static_cast<size_t>(layer)] = std::move(solved.reports);
  });
  for (auto& layer : reports) std::ranges::move(layer, std::back_inserter(output.result.groups));
}

// The same for linears that were found by their names.
void quantize_by_name(Output& output, const Checkpoint& checkpoint, at::Device device) {
  const auto shards = verbatim_tensors(output, checkpoint);
  const auto copies = static_cast<int64_t>(shards.size());
  const Plan& plan = output.plan;
  parallel_jobs(copies + static_cast<int64_t>(plan.groups.size()), [&](int64_t i) {
    if (i < copies) return copy_tensors(output, checkpoint, shards[static_cast<size_t>(i)]);
    check_interrupt();
    std::vector<const Site*> sites;
    std::vector<at::Tensor> weights;
    for (const size_t site : plan.groups[static_cast<size_t>(i - copies)]) {
      sites.push_back(&plan.sites[site]);
      weights.push_back(checkpoint.tensor(sites.back()->linear.module + ".weight").to(device));
    }
    write_linears(output, pack_together(plan, checkpoint, sites, weights, sites.front()->linear.scheme));
  });
}

// Without images a cross layer does not run, so it has no statistics for a scheme or a cache that needs them.
void check_without_images(const Plan& plan, const Model& model, int64_t layer) {
  const bool scheme = std::ranges::any_of(plan.sites, [layer](const Site& site) {
    return site.layer == layer && site.linear.scheme.needs_calibration();
  });
  if (!scheme && !needs_calibration(plan.kv_cache)) return;
  const std::string attention = model.names().attention(model.spec(), layer);
  const std::string block = parent_of(attention);
  fail(
      "{} needs statistics of layer '{}', which runs only for samples with images, and the calibration data "
      "has "
      "none: add some, or say {}--kv-cache none",
      scheme ? "--format " + plan.recipe.name : "--kv-cache " + kv_cache_name(plan.kv_cache), block,
      scheme ? visq::format("--skip '{}.*' for it and all layers like it, and ", block) : "");
}

// One pass over the decoder layers: statistics of each serve all outputs.
/// @param statistics_of  called once for each layer, in their order
void quantize_with_data(std::vector<Output>& outputs, const Model& model,
                        const std::function<LayerStatistics(int64_t layer)>& statistics_of,
                        const std::optional<ModalitySensitivity>& sensitivity, QuantizeResult& result) {
  const int64_t layers = model.spec().decoder.layers;
  for (int64_t layer = 0; layer < layers && result.image_tokens == 0; ++layer)
    if (model.spec().decoder.is_cross(layer))
      for (const Output& output : outputs) check_without_images(output.plan, model, layer);
  Progress progress("quantizing", layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    check_interrupt();
    const auto layer_start = Clock::now();
    const LayerStatistics statistics = statistics_of(layer);
    result.calibration_seconds += seconds_since(layer_start);
    LayerSolver solver(model, layer, statistics.has_run() ? &statistics : nullptr,
                       sensitivity ? &*sensitivity : nullptr);
    for (Output& output : outputs) {
      const auto format_start = Clock::now();
      SolvedLayer solved = solver.solve(output.plan);
      write_layer(output, model, layer, solved);
      for (const auto& [name, value] : solved.rewritten) output.rewritten.insert(name);
      std::ranges::move(solved.reports, std::back_inserter(output.result.groups));
      output.result.seconds += seconds_since(format_start);
    }
    result.peak_anonymous = memory_use().peak_anonymous;
    progress.advance(layer + 1);
  }
}

constexpr const char* kAutoWeight = "--modality-weight auto";

bool asks_for_sensitivity(const Output& output) {
  return !output.plan.recipe.modality_weight && output.plan.detail() != Detail::magnitudes;
}

void calibrate_and_quantize(std::vector<Output>& outputs, const Model& model, const QuantizeOptions& options,
                            Detail detail, QuantizeResult& result) {
  const auto start = Clock::now();
  Calibration calibration(model, *options.calibration);
  result.calibration_seconds += seconds_since(start);
  result.samples = calibration.samples();
  result.samples_left_out = calibration.left_out();
  result.text_tokens = calibration.text_tokens();
  result.image_tokens = calibration.image_tokens();
  std::optional<ModalitySensitivity> sensitivity;
  if (std::ranges::any_of(outputs, asks_for_sensitivity) && result.image_tokens > 0) {
    const auto measuring = Clock::now();
    sensitivity = modality_sensitivity(model, *options.calibration);
    if (!sensitivity)
      fail(
          "{}: no sample of at most {} tokens has an image and an answer (a last turn of the assistant), "
          "which {} needs",
          options.calibration->data.string(), options.calibration->max_tokens, kAutoWeight);
    result.calibration_seconds += seconds_since(measuring);
  }
  const auto run = [&](int64_t layer) { return calibration.run_layer(model.load_layer(layer), detail); };
  quantize_with_data(outputs, model, run, sensitivity, result);
}

void quantize_from_statistics(std::vector<Output>& outputs, const Model& model,
                              const QuantizeOptions& options, Detail detail, QuantizeResult& result) {
  const StatisticsDirectory directory(options.statistics);
  directory.check_model(model);
  const StatisticsManifest& manifest = directory.manifest();
  const auto needing = std::ranges::find_if(
      outputs, [](const Output& output) { return output.plan.detail() == Detail::gram; });
  if (needing != outputs.end() && !manifest.gram)
    fail("{}: was made with --no-gram, but --format {} needs Gram matrices: calibrate without --no-gram",
         options.statistics.string(), needing->plan.recipe.name);
  result.statistics = options.statistics.string();
  result.samples = manifest.samples;
  result.samples_left_out = manifest.samples_left_out;
  result.text_tokens = manifest.text_tokens;
  result.image_tokens = manifest.image_tokens;
  std::optional<ModalitySensitivity> sensitivity;
  if (std::ranges::any_of(outputs, asks_for_sensitivity) && result.image_tokens > 0) {
    if (!manifest.sensitivity)
      fail("{}: no sample had an image and an answer, which {} needs", options.statistics.string(),
           kAutoWeight);
    sensitivity = manifest.sensitivity;
  }
  const auto read = [&](int64_t layer) { return directory.read_layer(layer, model.device(), detail); };
  quantize_with_data(outputs, model, read, sensitivity, result);
}

void write_side_files(Output& output, const Checkpoint& checkpoint) {
  const ExportSummary& summary = output.plan.summary;
  for (const auto& file : checkpoint.side_files())
    output.writer->copy_file(file, checkpoint.directory() / file);
  const CheckpointPart& part = checkpoint.text_model();
  const std::filesystem::path folder = part.folder;
  output.writer->write_file(
      folder / "config.json",
      add_quantization_config(part.config_text, output.plan.layout->quantization_config(summary),
                              (part.directory / "config.json").string()));
  for (const auto& [name, content] : output.plan.layout->extra_files(summary))
    output.writer->write_file(folder / name, json_text(content, 2) + "\n");
}

// Of an engine that loads the model, and takes some of its linears for what they are not.
void warn_of(const std::string& name, const std::vector<EngineFinding>& findings, const Plan& plan) {
  const auto of_linear = [](const EngineFinding& finding) { return !finding.linear.empty(); };
  const auto first = std::ranges::find_if(findings, of_linear);
  const bool refused = std::ranges::any_of(
      findings, [&](const EngineFinding& finding) { return !finding.warning && !of_linear(finding); });
  if (first == findings.end() || refused) return;  // what is not loaded is not loaded wrongly
  const auto more = std::ranges::count_if(findings, of_linear) - 1;
  log_warning(visq::format("{}: {} would load it wrongly: {}: {}{}", plan.recipe.name, name, first->what,
                           first->fix, more > 0 ? visq::format(" (and {} more)", more) : ""));
}

void warn_of_readers(const Plan& plan) {
  if (plan.layout->engines(plan.schemes).empty())
    log_warning(visq::format("no engine reads {} in the {} layout (--layout auto picks one that is read)",
                             plan.recipe.name, plan.layout->name()));
  else if (plan.layout->engines(plan.schemes, plan.kv_cache).empty())
    log_warning(visq::format("no engine reads {} with a KV cache of {} in the {} layout", plan.recipe.name,
                             kv_cache_name(plan.kv_cache), plan.layout->name()));
  else
    for (const auto& [engine, findings] : plan.findings) warn_of(engine, findings, plan);
}

// Outputs first: an existing directory or a full disk is found out before the long work.
std::vector<Output> open_outputs(const Checkpoint& checkpoint, const std::vector<Plan>& plans,
                                 const QuantizeOptions& options) {
  std::vector<Output> outputs;
  for (const Plan& plan : plans) {
    Output output{plan, nullptr, {}, {}};
    output.writer = std::make_unique<CheckpointWriter>(
        plan.directory, plan.tensors,
        CheckpointWriter::Options{options.max_shard_bytes, options.force, checkpoint.text_model().folder,
                                  plan.copied_bytes});
    output.result.format = plan.recipe.name;
    output.result.layout = plan.layout->name();
    output.result.directory = plan.directory;
    output.result.source_bytes = plan.source_bytes;
    output.result.output_bytes = plan.output_bytes;
    output.result.linears = plan.sites.size();
    if (!options.is_intermediate) warn_of_readers(plan);
    outputs.push_back(std::move(output));
  }
  return outputs;
}

QuantizeResult finish(std::vector<Output>& outputs, QuantizeResult result, Clock::time_point start,
                      const std::string& family) {
  result.peak_resident = memory_use().peak_resident;
  result.total_seconds = seconds_since(start);
  for (const Output& output : outputs) result.formats.push_back(output.result);
  for (size_t i = 0; i < outputs.size(); ++i)
    outputs[i].writer->write_file("visq_report.json",
                                  json_text(report_json(result, result.formats[i], family), 2) + "\n");
  for (Output& output : outputs) output.writer->finish();
  return result;
}

// FP8, unless there is nothing to calibrate it with and no recipe that asks for data anyway.
KvCacheFormat default_kv_cache(const QuantizeOptions& options) {
  if (options.has_data() || std::ranges::any_of(options.recipes, &Recipe::needs_calibration))
    return KvCacheFormat::fp8;
  log_info("KV cache: none, because its scales would need calibration data (--calib)");
  return KvCacheFormat::none;
}

// The recipe with what the run says besides.
Recipe chosen(Recipe recipe, const QuantizeOptions& options) {
  if (!options.has_data() && !recipe.without_data.empty()) {
    log_info(
        visq::format("{}: without calibration data (--calib) this is {}", recipe.name, recipe.without_data));
    recipe.rules = find_preset(recipe.without_data).recipe.rules;
    recipe.without_data.clear();
  }
  if (options.kv_cache) recipe.kv_cache = options.kv_cache;
  if (options.modality_weight) recipe.modality_weight = *options.modality_weight;
  if (!options.only.empty()) recipe.only = options.only;
  recipe.skip.insert(recipe.skip.end(), options.skip.begin(), options.skip.end());
  return recipe;
}

// Schemes that only smooth round without it (--calib none).
void check_without_data(const Plan& plan) {
  for (const Site& site : plan.sites) {
    const Scheme& scheme = site.linear.scheme;
    if (scheme.has_input_scale())
      fail("--format {}: its input scales need calibration data; give --calib FILE", plan.recipe.name);
    if (scheme.packs_by_gram())
      fail("--format {}: {} needs calibration data; give --calib FILE", plan.recipe.name, scheme.solvers());
  }
  if (needs_calibration(plan.kv_cache))
    fail("--kv-cache {}: its scales need calibration data; give --calib FILE, or say --kv-cache none",
         kv_cache_name(plan.kv_cache));
}

/// @param plan_of  (recipe, directory, default KV cache) → Plan
template <class PlanOf>
std::vector<Plan> plans_of(const QuantizeOptions& options, const PlanOf& plan_of) {
  std::vector<Plan> plans;
  std::set<std::string> seen;
  const bool said = options.kv_cache || std::ranges::all_of(options.recipes, [](const Recipe& recipe) {
                      return recipe.kv_cache.has_value();
                    });
  const KvCacheFormat kv_cache = said ? KvCacheFormat::none : default_kv_cache(options);
  for (const Recipe& recipe : options.recipes) {
    if (!seen.insert(recipe.name).second) fail("--format names {} twice", recipe.name);
    plans.push_back(plan_of(chosen(recipe, options),
                            options.recipes.size() == 1 ? options.out : options.out / recipe.name, kv_cache));
    if (!options.has_data() && !options.dry_run) check_without_data(plans.back());
  }
  return plans;
}

/// Refuses what needs the model to be run.
void check_without_model(const Checkpoint& checkpoint, const QuantizeOptions& options) {
  std::string without_data, reason;
  for (const Preset& preset : presets())
    if (!preset.recipe.needs_calibration()) without_data += (without_data.empty() ? "" : ", ") + preset.name;
  for (const Recipe& recipe : options.recipes) {
    const bool rotates = std::ranges::any_of(
        recipe.rules, [](const Rule& rule) { return rule.scheme && rule.scheme->rotated; });
    if (recipe.needs_calibration() || rotates) reason = "--format " + recipe.name;
    const auto kv_cache = options.kv_cache ? options.kv_cache : recipe.kv_cache;
    if (kv_cache.value_or(KvCacheFormat::none) != KvCacheFormat::none)
      reason = "--kv-cache " + kv_cache_name(*kv_cache);
  }
  if (options.calibration) reason = "--calib";
  if (!options.statistics.empty()) reason = "--stats";
  if (reason.empty()) return;
  const std::string origin = (checkpoint.directory() / "config.json").string();
  const auto names = get_or<std::vector<std::string>>(checkpoint.config(), "architectures", {}, origin);
  fail(
      "{}: architecture '{}' is not supported, and {} needs to know the model; formats that need no data "
      "work "
      "without: {}; supported are {}",
      origin, names.empty() ? "" : names.front(), reason, without_data, supported_architectures());
}

}  // namespace

std::vector<Plan> make_plans(const Model& model, const QuantizeOptions& options) {
  return plans_of(options,
                  [&](const Recipe& recipe, const std::filesystem::path& directory, KvCacheFormat kv_cache) {
                    return make_plan(model, recipe, options.layout, directory, kv_cache);
                  });
}

std::vector<Plan> make_plans(const Checkpoint& checkpoint, const QuantizeOptions& options) {
  check_without_model(checkpoint, options);
  auto plans = plans_of(
      options, [&](const Recipe& recipe, const std::filesystem::path& directory, KvCacheFormat kv_cache) {
        return make_named_plan(checkpoint, recipe, options.layout, directory, kv_cache);
      });
  log_warning(visq::format(
      "{}: visq does not know this architecture and found the linears by their names: {}",
      (checkpoint.directory() / "config.json").string(), describe_choice(plans.front(), checkpoint)));
  return plans;
}

QuantizeResult quantize(const Model& model, const std::vector<Plan>& plans, const QuantizeOptions& options) {
  const auto start = Clock::now();
  QuantizeResult result;
  result.mix = options.mix;
  const ParentFolder parent(options.out);
  std::vector<Output> outputs = open_outputs(model.checkpoint(), plans, options);
  for (Output& output : outputs) output.rewritten = merged_tensors(output.plan, model);
  result.merged_adapter = model.merged_adapter_name();
  if (!options.statistics.empty())
    quantize_from_statistics(outputs, model, options, detail_of(plans), result);
  else if (options.calibration)
    calibrate_and_quantize(outputs, model, options, detail_of(plans), result);
  for (Output& output : outputs) {
    const auto format_start = Clock::now();
    if (options.has_data())
      copy_verbatim(output, model.checkpoint());
    else
      quantize_without_data(output, model);
    write_side_files(output, model.checkpoint());
    output.result.seconds += seconds_since(format_start);
  }
  return finish(outputs, std::move(result), start, model.spec().family);
}

QuantizeResult quantize(const Checkpoint& checkpoint, const std::vector<Plan>& plans,
                        const QuantizeOptions& options) {
  const auto start = Clock::now();
  const ParentFolder parent(options.out);
  std::vector<Output> outputs = open_outputs(checkpoint, plans, options);
  for (Output& output : outputs) {
    const auto format_start = Clock::now();
    quantize_by_name(output, checkpoint, options.device);
    write_side_files(output, checkpoint);
    output.result.seconds += seconds_since(format_start);
  }
  return finish(outputs, {}, start, "unknown");
}

}  // namespace visq

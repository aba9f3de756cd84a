#include "visq/pipeline/statistics_directory.h"

#include <algorithm>
#include <chrono>
#include <set>
#include <utility>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/core/process.h"
#include "visq/io/output_file.h"
#include "visq/pipeline/fingerprint.h"
#include "visq/pipeline/modality.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "statistics.json";
constexpr int64_t kVersion = 2;  // of the files; another one when they change
constexpr size_t kMaxLayers = 10'000;

std::string layer_file(size_t layer) { return visq::format("layer-{:05}.safetensors", layer); }

bool looks_like_statistics(const fs::path& directory) {
  const fs::directory_iterator entries(directory);
  return std::all_of(begin(entries), end(entries), [](const auto& entry) {
    const std::string name = entry.path().filename().string();
    return name == kManifest || (name.starts_with("layer-") && name.ends_with(".safetensors"));
  });
}

Json manifest_json(const StatisticsManifest& manifest) {
  Json json = {{"statistics_version", kVersion},
               {"visq_version", VISQ_VERSION},
               {"family", manifest.family},
               {"model", manifest.model},
               {"fingerprint", manifest.fingerprint},
               {"merged_adapter", manifest.merged_adapter},
               {"image_profile", manifest.image_profile},
               {"compute_dtype", manifest.compute_dtype},
               {"gram", manifest.gram},
               {"samples", manifest.samples},
               {"samples_left_out", manifest.samples_left_out},
               {"text_tokens", manifest.text_tokens},
               {"image_tokens", manifest.image_tokens}};
  json["modality_sensitivity"] = nullptr;
  if (manifest.sensitivity)
    json["modality_sensitivity"] = {{"text", manifest.sensitivity->text},
                                    {"image", manifest.sensitivity->image}};
  Json layers = Json::array();
  for (const LayerShape& shape : manifest.layers) layers.push_back(layer_shape_json(shape));
  json["layers"] = std::move(layers);
  return json;
}

double read_sensitivity(const Json& json, const std::string& key, const std::string& origin) {
  const auto value = json.is_object() ? require<double>(json, key, origin) : -1;
  if (!(value >= 0 && value < 1e12)) fail("{}: 'modality_sensitivity' is {}", origin, json_excerpt(json));
  return value;
}

StatisticsManifest read_manifest(const fs::path& directory) {
  std::error_code code;
  if (!fs::is_directory(directory, code)) fail("{}: no such directory", directory.string());
  const fs::path path = directory / kManifest;
  const std::string origin = path.string();
  if (!fs::exists(path, code))
    fail("{}: has no {}, so it holds no statistics (visq calibrate writes them)", directory.string(),
         kManifest);
  const Json json = read_json(path);
  if (!json.is_object()) fail("{}: is no JSON object", origin);
  if (const auto version = require<int64_t>(json, "statistics_version", origin); version != kVersion)
    fail("{}: statistics of version {}, but this program reads version {}: calibrate again", origin, version,
         kVersion);
  const Json known = manifest_json({});
  for (const auto& [key, value] : json.items())
    if (!known.contains(key)) fail("{}: unknown key '{}'", origin, key);

  StatisticsManifest manifest;
  require<std::string>(json, "visq_version", origin);
  manifest.family = require<std::string>(json, "family", origin);
  manifest.model = require<std::string>(json, "model", origin);
  manifest.fingerprint = require<std::string>(json, "fingerprint", origin);
  manifest.merged_adapter = require<std::string>(json, "merged_adapter", origin);
  manifest.image_profile = require<std::string>(json, "image_profile", origin);
  manifest.compute_dtype = require<std::string>(json, "compute_dtype", origin);
  manifest.gram = require<bool>(json, "gram", origin);
  manifest.samples = require_count(json, "samples", origin);
  manifest.samples_left_out = require_count(json, "samples_left_out", origin);
  manifest.text_tokens = require_count(json, "text_tokens", origin);
  manifest.image_tokens = require_count(json, "image_tokens", origin);
  if (const Json& sensitivity = json.value("modality_sensitivity", Json()); !sensitivity.is_null())
    manifest.sensitivity = {read_sensitivity(sensitivity, "text", origin),
                            read_sensitivity(sensitivity, "image", origin)};
  const auto layers = require<std::vector<Json>>(json, "layers", origin);
  if (layers.empty() || layers.size() > kMaxLayers)
    fail("{}: 'layers' has {} entries", origin, layers.size());
  for (const Json& layer : layers) manifest.layers.push_back(parse_layer_shape(layer, origin));
  return manifest;
}

std::vector<LayerShape> layer_shapes(const nn::DecoderSpec& spec) {
  std::vector<LayerShape> shapes;
  for (int64_t layer = 0; layer < spec.layers; ++layer) shapes.push_back(layer_shape(spec, layer));
  return shapes;
}

/// For people: "Qwen2.5-VL-7B (qwen2_5_vl, 3f2a91c0)".
std::string describe(const std::string& model, const std::string& family, const std::string& fingerprint) {
  return visq::format("'{}' ({}, {})", model, family, fingerprint.substr(0, 8));
}
std::string describe(const StatisticsManifest& manifest) {
  return describe(manifest.model, manifest.family, manifest.fingerprint);
}

std::string describe_adapter(const std::string& name) {
  return name.empty() ? std::string("no adapter") : visq::format("the adapter '{}'", name);
}

std::string name_of(const fs::path& directory) {
  std::error_code code;
  const fs::path path = fs::weakly_canonical(directory, code);
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

/// Refuses a sum of unlike things.
void check_alike(const StatisticsDirectory& first, const StatisticsDirectory& other) {
  const StatisticsManifest &a = first.manifest(), &b = other.manifest();
  const auto differ = [&](const std::string& what, const std::string& of_a, const std::string& of_b) {
    fail("{} and {}: {} differ: {} and {}", first.directory().string(), other.directory().string(), what,
         of_a, of_b);
  };
  if (a.fingerprint != b.fingerprint) differ("their models", describe(a), describe(b));
  if (a.merged_adapter != b.merged_adapter)
    differ("the adapters in their weights", describe_adapter(a.merged_adapter),
           describe_adapter(b.merged_adapter));
  if (a.image_profile != b.image_profile) differ("their image profiles", a.image_profile, b.image_profile);
  if (a.compute_dtype != b.compute_dtype)
    differ("the types they were computed in", a.compute_dtype, b.compute_dtype);
  if (a.gram != b.gram) {
    const StatisticsDirectory& without = a.gram ? other : first;
    fail("{}: has no Gram matrices (--no-gram) and the other has: their sum would be of no use",
         without.directory().string());
  }
  if (a.layers != b.layers)
    fail("{} and {}: their 'layers' differ", first.directory().string(), other.directory().string());
}

/// Of the samples of both.
std::optional<ModalitySensitivity> mean_of(const StatisticsManifest& a, const StatisticsManifest& b) {
  if (!a.sensitivity || !b.sensitivity) return a.sensitivity ? a.sensitivity : b.sensitivity;
  const auto samples = static_cast<double>(a.samples), more = static_cast<double>(b.samples);
  const auto mean = [&](double x, double y) { return (samples * x + more * y) / (samples + more); };
  return ModalitySensitivity{mean(a.sensitivity->text, b.sensitivity->text),
                             mean(a.sensitivity->image, b.sensitivity->image)};
}

using Clock = std::chrono::steady_clock;

StatisticsResult finish(StatisticsWriter& writer, StatisticsManifest manifest, Clock::time_point start) {
  StatisticsResult result;
  result.bytes = writer.finish(manifest);
  result.manifest = std::move(manifest);
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  result.peak_resident = memory_use().peak_resident;
  return result;
}

}  // namespace

StatisticsDirectory::StatisticsDirectory(fs::path directory)
    : directory_(std::move(directory)), manifest_(read_manifest(directory_)) {
  for (size_t layer = 0; layer < manifest_.layers.size(); ++layer)
    read_layer_statistics(directory_ / layer_file(layer), manifest_.layers[layer],
                          {.has_gram = manifest_.gram, .detail = Detail::rows, .device = std::nullopt});
}

void StatisticsDirectory::check_model(const Model& model) const {
  if (const std::string own = fingerprint(model.checkpoint()); own != manifest_.fingerprint)
    fail("{}: statistics of another model: of {}, not of {}", directory_.string(), describe(manifest_),
         describe(name_of(model.checkpoint().directory()), model.spec().family, own));
  if (const std::string merged = model.merged_adapter_name(); merged != manifest_.merged_adapter)
    fail(
        "{}: made with {} in the weights, but this run has {}: say --merge-vision-adapter both times or "
        "never",
        directory_.string(), describe_adapter(manifest_.merged_adapter), describe_adapter(merged));
  if (const auto shapes = layer_shapes(model.spec().decoder); shapes != manifest_.layers)
    fail("{}: its {} 'layers' are not the {} of the model", (directory_ / kManifest).string(),
         manifest_.layers.size(), shapes.size());
}

LayerStatistics StatisticsDirectory::read_layer(int64_t layer, at::Device device, Detail detail) const {
  const auto index = static_cast<size_t>(layer);
  return read_layer_statistics(directory_ / layer_file(index), manifest_.layers.at(index),
                               {.has_gram = manifest_.gram, .detail = detail, .device = device});
}

StatisticsWriter::StatisticsWriter(const fs::path& directory, bool replace_existing)
    : output_(directory, {replace_existing, "statistics", looks_like_statistics}) {}

void StatisticsWriter::require_space(const StatisticsManifest& manifest) const {
  uint64_t bytes = 0;
  for (const LayerShape& shape : manifest.layers)
    bytes += least_bytes(shape, manifest.gram, manifest.image_tokens > 0);
  require_free_space(output_.partial(), bytes);
}

void StatisticsWriter::write_layer(int64_t layer, const LayerStatistics& statistics,
                                   const LayerShape& shape) {
  write_layer_statistics(output_.partial() / layer_file(static_cast<size_t>(layer)), statistics, shape);
}

uint64_t StatisticsWriter::finish(const StatisticsManifest& manifest) {
  OutputFile file(output_.partial() / kManifest);
  file.write_at(0, json_text(manifest_json(manifest), 2) + "\n");
  file.close();
  uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(output_.partial())) bytes += entry.file_size();
  output_.commit();
  return bytes;
}

StatisticsResult calibrate(const Model& model, const CalibrateOptions& options) {
  const auto start = Clock::now();
  StatisticsWriter writer(options.out, options.force);
  Calibration calibration(model, options.calibration);
  StatisticsManifest manifest;
  manifest.family = model.spec().family;
  manifest.model = name_of(model.checkpoint().directory());
  manifest.fingerprint = fingerprint(model.checkpoint());
  manifest.merged_adapter = model.merged_adapter_name();
  manifest.image_profile = options.image_profile;
  manifest.compute_dtype = safetensors_dtype(model.dtype());
  manifest.gram = options.with_gram;
  manifest.samples = calibration.samples();
  manifest.samples_left_out = calibration.left_out();
  manifest.text_tokens = calibration.text_tokens();
  manifest.image_tokens = calibration.image_tokens();
  if (manifest.image_tokens > 0) manifest.sensitivity = modality_sensitivity(model, options.calibration);
  manifest.layers = layer_shapes(model.spec().decoder);
  writer.require_space(manifest);
  const auto layers = static_cast<int64_t>(manifest.layers.size());
  Progress progress("calibrating", layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    check_interrupt();
    writer.write_layer(
        layer,
        calibration.run_layer(model.load_layer(layer), options.with_gram ? Detail::gram : Detail::rows),
        manifest.layers[static_cast<size_t>(layer)]);
    progress.advance(layer + 1);
  }
  return finish(writer, std::move(manifest), start);
}

StatisticsResult merge_statistics(const std::vector<fs::path>& directories, const fs::path& out, bool force) {
  const auto start = Clock::now();
  if (directories.size() < 2) fail("a sum is of two directories or more, but one was named");
  std::vector<StatisticsDirectory> parts;
  std::set<fs::path> seen;
  for (const fs::path& directory : directories) {
    parts.emplace_back(directory);
    if (!seen.insert(fs::canonical(directory)).second)
      fail("{}: is named twice, so its tokens would count twice", directory.string());
    check_alike(parts.front(), parts.back());
  }
  StatisticsManifest sum = parts.front().manifest();
  for (size_t i = 1; i < parts.size(); ++i) {
    const StatisticsManifest& part = parts[i].manifest();
    sum.sensitivity = mean_of(sum, part);
    sum.samples += part.samples;
    sum.samples_left_out += part.samples_left_out;
    sum.text_tokens += part.text_tokens;
    sum.image_tokens += part.image_tokens;
  }
  StatisticsWriter writer(out, force);
  writer.require_space(sum);
  const auto layers = static_cast<int64_t>(sum.layers.size());
  Progress progress("adding statistics", layers);
  for (int64_t layer = 0; layer < layers; ++layer) {
    check_interrupt();
    LayerStatistics total = parts.front().read_layer(layer, at::kCPU);
    for (size_t i = 1; i < parts.size(); ++i) total.merge(parts[i].read_layer(layer, at::kCPU));
    writer.write_layer(layer, total, sum.layers[static_cast<size_t>(layer)]);
    progress.advance(layer + 1);
  }
  return finish(writer, std::move(sum), start);
}

}  // namespace visq

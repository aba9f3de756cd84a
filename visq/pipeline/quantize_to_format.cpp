#include "visq/pipeline/quantize_to_format.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/format.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

bool modelopt_holds_all(const std::vector<Recipe>& recipes) {
  return std::ranges::all_of(recipes, [](const Recipe& recipe) {
    return std::ranges::all_of(
        recipe.rules, [](const Rule& rule) { return !rule.scheme || modelopt_layout().holds(*rule.scheme); });
  });
}

// Weakly canonical, so that "out/" has a name too.
fs::path named(const fs::path& path) {
  const fs::path absolute = fs::weakly_canonical(fs::absolute(path));
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

}  // namespace

QuantizeToFormat::QuantizeToFormat(const ModelFormat& format, const Sharding& sharding,
                                   QuantizeOptions& options)
    : format_(format), sharding_(sharding), out_(options.out), force_(options.force) {
  options.layout = format.stage() != nullptr             ? format.stage()->name()
                   : modelopt_holds_all(options.recipes) ? "modelopt"
                                                         : "auto";
  options.is_intermediate = true;
  if (options.dry_run) return;
  for (const Recipe& recipe : options.recipes)  // refused now rather than after an hour of calibration
    OutputDirectory(options.recipes.size() == 1 ? out_ : out_ / recipe.name,
                    model_format_output_options(force_));
  const fs::path out = named(out_);
  between_.emplace(out.parent_path(), out.filename().string() + ".quantized-");
  options.out = between_->path() / "checkpoint";
}

void QuantizeToFormat::check(const Model& model, const std::vector<Plan>& plans) const {
  for (const Plan& plan : plans)
    format_.check_plan(model, plan.schemes, plan.kv_cache, plan.left_out, sharding_);
}

void QuantizeToFormat::convert(QuantizeResult& result) const {
  const bool one = result.formats.size() == 1;
  for (FormatResult& output : result.formats) {
    ConvertOptions options;
    options.checkpoint = output.directory;
    options.to = format_.name();
    options.out = one ? out_ : out_ / output.format;
    options.sharding = sharding_;
    options.force = force_;
    output.output_bytes = visq::convert(options).bytes_after;
    output.layout = format_.name();
    output.directory = options.out;
  }
}

std::string QuantizeToFormat::describe() const {
  if (sharding_.tensor_parallel * sharding_.pipeline_parallel == 1)
    return visq::format("  then         {} in {}\n", format_.name(), out_.string());
  return visq::format("  then         {} for {} GPUs (tensor parallel {}, pipeline stages {}) in {}\n",
                      format_.name(), sharding_.tensor_parallel * sharding_.pipeline_parallel,
                      sharding_.tensor_parallel, sharding_.pipeline_parallel, out_.string());
}

}  // namespace visq

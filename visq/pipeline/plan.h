// What a run will write, worked out from names, shapes and the recipe alone, before any tensor is read.
#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "visq/export/engines.h"
#include "visq/export/layout.h"
#include "visq/families/model.h"
#include "visq/quant/recipe.h"

namespace visq {

/// A decoder linear: its place in the model and what happens to it.
struct Site {
  int64_t layer = 0;
  nn::LinearId id;  ///< of a linear found by its name (named_plan.h): means nothing
  QuantizedLinear linear;
};

/// One output directory.
struct Plan {
  Recipe recipe;
  KvCacheFormat kv_cache = KvCacheFormat::none;
  std::vector<Scheme> schemes;  ///< of the sites, none stored like another
  const Layout* layout = nullptr;
  std::filesystem::path directory;

  std::vector<Site> sites;            ///< quantized linears, layer by layer
  std::vector<std::string> left_out;  ///< decoder linears that the recipe excludes
  /// Of a model whose linears were found by their names (named_plan.h): sites that read the same input.
  std::vector<std::vector<size_t>> groups;
  int64_t layers = 0;  ///< decoder layers of the model
  ExportSummary summary;
  /// What stands in the way of engines, by their names; not there: nothing that is known.
  std::map<std::string, std::vector<EngineFinding>> findings;
  std::vector<std::string> readers() const;  ///< engines that would load the output
  /// Everything that is written, in source order; of a checkpoint of several parts: the text model's.
  std::vector<PlannedTensor> tensors;
  uint64_t source_bytes = 0, output_bytes = 0;  ///< of all tensors
  uint64_t copied_bytes = 0;                    ///< of those whose files are copied: of the other parts

  const Site* find(int64_t layer, const nn::LinearId& id) const;  ///< nullptr when left out
  /// Of the linears of a group, which share theirs; nullptr when they are left out.
  const Scheme* scheme_of(const nn::DecoderSpec& spec, int64_t layer, const nn::GroupId& id) const;
  Detail detail() const;  ///< that its schemes need of statistics

 private:
  friend Plan make_plan(const Model&, const Recipe&, const LayoutChoice&, std::filesystem::path,
                        KvCacheFormat);
  std::map<std::pair<int64_t, nn::LinearId>, size_t> site_index_;  // layer, linear → index into sites
};

Detail detail_of(const std::vector<Plan>& plans);  ///< that all of them need

/// @param default_kv_cache  where the recipe says nothing and the layout can store it
/// @throws Error when the recipe or one of its rules matches nothing, splits a fused group (q/k/v, gate/up)
/// or
///         the experts of a layer, or a width is not divisible by the format's block (names the tensor); when
///         no layout holds what comes of it
Plan make_plan(const Model& model, const Recipe& recipe, const LayoutChoice& layout,
               std::filesystem::path directory, KvCacheFormat default_kv_cache = KvCacheFormat::none);

/// Refuses rules that some file says (Rule::origin) and that match none of these modules.
void check_rules(const Recipe& recipe, const std::vector<std::string>& modules);
/// Fills in what follows from recipe and sites: schemes, layout, KV cache.
void choose_layout(Plan& plan, const Checkpoint& checkpoint, const LayoutChoice& layout,
                   KvCacheFormat default_kv_cache);

/// Runs the engine models on the plan. @param checkpoint  the original
/// @throws Error when one of the engines that are asked for would not load the output, or not as what it is
void judge_plan(Plan& plan, const Checkpoint& checkpoint, const std::vector<std::string>& engines);

/// Whether the smoothing scale of a group can be folded exactly into what produces its input.
/// q/k/v and gate/up: the norm before them, when all that reads it is quantized and smoothed alike; o: the
/// rows of v; down: the rows of up, when those are quantized too. The vision rows that cross layers read
/// serve all of these layers, so nothing can be folded into them.
bool can_fold(const Plan& plan, const nn::DecoderSpec& spec, int64_t layer, const nn::GroupId& id);

/// What a plan says of one linear. @throws Error naming the tensor when its type or shape does not suit the
/// scheme
QuantizedLinear describe_linear(const Checkpoint& checkpoint, const std::string& module, const Scheme& scheme,
                                bool standalone);

/// The cache of a layer. @param dtype  of the weights that make the keys
QuantizedKvCache kv_cache_of(const Model& model, int64_t layer, KvCacheFormat format, at::ScalarType dtype);

/// By the name of a tensor of the files: what is written behind it, or behind what takes its place.
using AddedTensors = std::unordered_map<std::string, std::vector<PlannedTensor>>;
/// What configurations have to say of a plan, with the names that both naming generations have.
ExportSummary summarize(const Plan& plan, const Model& model);
/// Lists all that is written, the sites' tensors in place of their weights, and how much that is.
/// @throws Error naming the tensor when the layout cannot hold a linear of its shape
void plan_tensors(Plan& plan, const Checkpoint& checkpoint, const AddedTensors& added = {});

/// "quantize '*', skip '*down_proj'": the rules of a recipe, for errors.
std::string describe_rules(const Recipe& recipe);

/// The plan as `--dry-run` prints it.
std::string describe_plan(const Plan& plan);

}  // namespace visq

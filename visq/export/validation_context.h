// What the rules of the validator share.
#pragma once
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "visq/core/format.h"
#include "visq/export/validate.h"
#include "visq/families/family.h"
#include "visq/families/names.h"

namespace visq {

/// What the files have of one module with a weight, whatever the layout.
struct StoredModule {
  std::map<std::string, TensorInfo> tensors;  ///< by what stands behind "MODULE.": "weight", "weight_scale"
  std::vector<std::string> scales;            ///< which of them are scales of the weight or the input

  bool has(const std::string& suffix) const { return tensors.contains(suffix); }
  /// Its codes or weight: "weight", "weight_packed" or "qweight"; nullptr: none.
  const TensorInfo* weight() const;
  /// Whether the weight is stored as codes, by its type or its name.
  bool is_packed() const;
};

/// A checkpoint under validation and what was read of it once.
struct ValidationContext {
  const Checkpoint& output;
  const Checkpoint* source;              ///< may be null
  const QuantizedCheckpoint* quantized;  ///< null: its configuration cannot be read (A8 says why)
  std::vector<const EngineModel*> engines = {};
  Json quantization = {};                 ///< quantization_config of the text model; null: there is none
  std::string exclude_key = {};           ///< of the exclude list
  std::string layout = {};                ///< its name, or that of the quant_method where it cannot be read
  std::vector<std::string> exclude = {};  ///< its entries, without those that visq cannot judge
  std::string model_type = {};
  std::optional<ModelSpec> spec = {};  ///< as config.json says; empty: no family of visq's
  std::optional<NameMap> names = {};   ///< where there is a spec
  std::map<std::string, std::vector<int64_t>> expected =
      {};                                           ///< shapes by canonical name, where there is a spec
  std::map<std::string, StoredModule> stored = {};  ///< those of which nothing is lost; likewise the next two
  std::vector<std::string> linears = {};            ///< modules with a 2-d weight, embeddings aside
  std::set<std::string> modules = {};               ///< the quantized ones among them, readable or not
  mutable std::map<std::string, std::string> unreadable = {};  ///< of those, and why; grows

  bool is_packed(const std::string& module) const;
  /// "BF16": of its weight.
  std::string dtype_of(const std::string& module) const;
  /// Empty where it cannot be read, which C1 reports.
  std::optional<PackedLinear> read(const std::string& module) const;
  /// Whether a tensor of this name, or of the module of this name, may be in a shard that could not be read,
  /// which A7 reports: no rule judges by its absence.
  bool may_be_lost(const std::string& name) const;
  /// Modules that read the same input, as far as they are quantized: q/k/v, gate/up; k/v of cross-attention.
  std::vector<std::vector<std::string>> fused_groups() const;
  /// The same with all members that the files have.
  std::vector<std::vector<std::string>> fusible_groups() const;
  bool is_for(const std::string& engine) const;
  /// Whether a module is of the vision tower or the projector (by its family, or its name).
  bool in_tower(const std::string& module) const;
  bool in_projector(const std::string& module) const;
  /// Whether it is in a layer of the text decoder.
  bool in_decoder(const std::string& module) const;
};

/// The name of a linear that stands beside adapters without the level that they add: "X.base_layer" is X.
std::string linear_name(const std::string& module);

/// Whether a tensor "X.lora_B.NAME.weight" of the source is zero in the output, because the adapter went into
/// the weights of X (--merge-vision-adapter).
bool is_merged(const ValidationContext& context, const std::string& name);
/// The source's weight of a module with the adapters in it that are merged; in its own type.
at::Tensor source_weight(const ValidationContext& context, const std::string& module);

/// Without what would break a line or do more than show on a terminal; names and words come from the files.
std::string one_line(const std::string& text);

/// Collects the findings of one rule.
class Findings {
 public:
  Findings(Validation& validation, std::string id, std::string description);
  /// Counts a check; with `holds` false, records what is wrong and how to mend it.
  template <typename... Args>
  void expect(bool holds, const char* fix, fmt::format_string<Args...> format, Args&&... args) {
    ++result_->checked;
    if (!holds) add("", visq::format(format, std::forward<Args>(args)...), fix);
  }
  void count() { ++result_->checked; }
  void add(const std::string& engine, const std::string& what, const std::string& fix) {
    result_->findings.push_back({result_->id, engine, one_line(what), one_line(fix), soft_});
  }
  void warn(const std::string& engine, const std::string& what, const std::string& fix) {
    result_->findings.push_back({result_->id, engine, one_line(what), one_line(fix), true});
  }
  /// What was found, and is found from here on, are warnings.
  void soften() {
    soft_ = true;
    for (Finding& finding : result_->findings) finding.warning = true;
  }
  void skip(std::string why) { result_->skipped = std::move(why); }
  bool empty() const { return result_->findings.empty(); }

 private:
  RuleResult* result_;
  bool soft_ = false;
};

// A: files and configuration.
void check_opening(const ValidationContext& context, const std::vector<std::string>& problems,
                   Validation& validation);
/// @param refusal  why the quantization_config is not one that visq reads; "": it is
void check_words(const ValidationContext& context, const std::string& refusal, Validation& validation);
void check_files(const ValidationContext& context, Validation& validation);
// B: names.
void check_names(const ValidationContext& context, Validation& validation);
void check_expected(const ValidationContext& context, Validation& validation);
void check_excludes(const ValidationContext& context, Validation& validation);
void check_parts(const ValidationContext& context, Validation& validation);
void check_kv_names(const ValidationContext& context, Validation& validation);
// C: dtypes and shapes.
void check_shapes(const ValidationContext& context, Validation& validation);
void check_sizes(const ValidationContext& context, Validation& validation);
// D: scales.
void check_stored_scales(const ValidationContext& context, Validation& validation);
void check_scales(const ValidationContext& context, Validation& validation);
// E: values.
void check_values(const ValidationContext& context, Validation& validation);

}  // namespace visq

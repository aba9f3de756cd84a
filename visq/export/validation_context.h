// What the rules of the validator share.
#pragma once
#include <set>
#include <string>
#include <vector>

#include "visq/core/format.h"
#include "visq/export/validate.h"

namespace visq {

/// A checkpoint under validation and what was read of it once.
struct ValidationContext {
  const Checkpoint& output;
  const Checkpoint* source;  ///< may be null
  const QuantizedCheckpoint& quantized;
  std::vector<Engine> engines;
  std::string model_type;
  std::vector<std::string> linears;  ///< modules with a 2-d weight, embeddings aside
  std::set<std::string> modules;     ///< the quantized ones among them
  std::vector<std::string> exclude;  ///< entries of the exclude list

  /// Modules that read the same input, as far as they are quantized: q/k/v, gate/up; k/v of cross-attention.
  std::vector<std::vector<std::string>> fused_groups() const;
};

/// The name of a linear that stands beside adapters without the level that they add: "X.base_layer" is X.
std::string linear_name(const std::string& module);

/// Whether a tensor "X.lora_B.NAME.weight" of the source is zero in the output, because the adapter went into
/// the weights of X (--merge-vision-adapter).
bool is_merged(const ValidationContext& context, const std::string& name);
/// The source's weight of a module with the adapters in it that are merged; in its own type.
at::Tensor source_weight(const ValidationContext& context, const std::string& module);

/// Collects the findings of one rule.
class Findings {
 public:
  Findings(Validation& validation, std::string id, std::string description);
  /// Counts a check; with `holds` false, records what is wrong.
  template <typename... Args>
  void expect(bool holds, fmt::format_string<Args...> format, Args&&... args) {
    ++result_->checked;
    if (!holds) result_->violations.push_back(visq::format(format, std::forward<Args>(args)...));
  }
  void skip(std::string why) { result_->skipped = std::move(why); }

 private:
  RuleResult* result_;
};

void check_files(const ValidationContext& context, Validation& validation);   // A
void check_names(const ValidationContext& context, Validation& validation);   // B
void check_shapes(const ValidationContext& context, Validation& validation);  // C
void check_scales(const ValidationContext& context, Validation& validation);  // D
void check_values(const ValidationContext& context, Validation& validation);  // E

}  // namespace visq

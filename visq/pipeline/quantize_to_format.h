// Quantizing straight into a model format: by way of a checkpoint that lies beside the output meanwhile.
#pragma once
#include "visq/pipeline/convert_model_format.h"
#include "visq/pipeline/quantize.h"

namespace visq {

class QuantizeToFormat {
 public:
  /// Changes `options` so that plans made with them are of the checkpoint in between.
  /// @throws Error when the output exists (without options.force) or cannot be created
  QuantizeToFormat(const ModelFormat& format, const Sharding& sharding, QuantizeOptions& options);
  /// @throws Error when the format has no place for what is planned
  void check(const Model& model, const std::vector<Plan>& plans) const;
  /// Writes the outputs; `result` then speaks of them.
  void convert(QuantizeResult& result) const;
  /// Of the plan, for people.
  std::string describe() const;

 private:
  const ModelFormat& format_;
  Sharding sharding_;
  std::filesystem::path out_;
  bool force_ = false;
  std::optional<TemporaryDirectory> between_;
};

}  // namespace visq

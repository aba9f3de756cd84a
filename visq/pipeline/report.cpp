#include "visq/pipeline/quantize.h"

namespace visq {

Json report_json(const QuantizeResult& result, const FormatResult& format, const std::string& family) {
  Json report;
  report["visq_version"] = VISQ_VERSION;
  report["family"] = family;
  report["format"] = format.format;
  report["layout"] = format.layout;
  report["linears_quantized"] = format.linears;
  if (!result.merged_adapter.empty()) report["merged_adapter"] = result.merged_adapter;
  report["source_bytes"] = format.source_bytes;
  report["output_bytes"] = format.output_bytes;
  report["calibration"] = {{"samples", result.samples},
                           {"samples_left_out", result.samples_left_out},
                           {"text_tokens", result.text_tokens},
                           {"image_tokens", result.image_tokens}};
  if (!result.statistics.empty()) report["calibration"]["statistics"] = result.statistics;
  if (!result.mix.is_null()) report["mixed_precision"] = result.mix;
  Json groups = Json::array();
  for (const GroupReport& group : format.groups) {
    Json entry = {{"layer", group.layer},
                  {"group", nn::group_name(group.group.group)},
                  {"solver", solver_name(group.solver)},
                  {"text_tokens", group.text_tokens},
                  {"image_tokens", group.image_tokens}};
    if (group.group.expert != nn::kNoExpert) entry["expert"] = group.group.expert;
    if (group.alpha) entry["alpha"] = *group.alpha;
    if (group.loss) entry["relative_output_error"] = *group.loss;
    if (group.plain_loss) entry["relative_output_error_without_smoothing"] = *group.plain_loss;
    if (group.image_weight != 1) entry["image_weight"] = group.image_weight;
    if (group.held_out_error)
      entry["held_out"] = {{"relative_output_error", *group.held_out_error},
                           {"without_solvers", *group.held_out_plain_error}};
    if (!group.undone.empty()) entry["undone"] = group.undone;
    if (!group.note.empty()) entry["note"] = group.note;
    groups.push_back(std::move(entry));
  }
  report["groups"] = std::move(groups);
  return report;
}

}  // namespace visq

// visq families, visq formats: the support matrix, from the code.
#include "visq/cli/commands.h"
#include "visq/core/format.h"
#include "visq/core/text.h"
#include "visq/export/layout.h"
#include "visq/families/family.h"

namespace visq {
namespace {

std::string joined(const std::vector<std::string>& parts) {
  return visq::format("{}", fmt::join(parts, ", "));
}

void list_families(bool json) {
  std::vector<std::string> formats;
  for (const Preset& preset : presets()) formats.push_back(preset.name);
  if (json) {
    Json list = Json::array();
    for (const Family& family : families())
      list.push_back({{"family", family.name},
                      {"architectures", family.architectures},
                      {"checkpoints", family.checkpoints},
                      {"formats", formats}});
    visq::print("{}\n", list.dump(2));
    return;
  }
  std::vector<std::vector<std::string>> rows = {
      {"family", "config.json architecture", "checkpoints", "formats"}};
  for (const Family& family : families())
    rows.push_back({family.name, joined(family.architectures), family.checkpoints, joined(formats)});
  visq::print("{}", format_table(rows));
}

void list_formats(bool json) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"format", "weights", "bits", "inputs", "solver", "layout", "read by", "when"}};
  for (const Preset& preset : presets()) {
    const std::string automatic = "auto";
    const Layout& layout = find_layout(automatic, preset);
    const std::vector<std::string> engines = layout.engines(preset.scheme);
    rows.push_back({preset.name, preset.weight, visq::format("{:.3g}", preset.scheme.bits_per_weight()),
                    preset.input, solver_name(preset.scheme.solver), layout.name(), joined(engines),
                    preset.serves});
    list.push_back({{"format", preset.name},
                    {"weights", preset.weight},
                    {"bits_per_weight", preset.scheme.bits_per_weight()},
                    {"inputs", preset.input},
                    {"solver", solver_name(preset.scheme.solver)},
                    {"layout", layout.name()},
                    {"engines", engines},
                    {"when", preset.serves}});
  }
  if (json)
    visq::print("{}\n", list.dump(2));
  else
    visq::print("{}", format_table(rows, {2}));
}

void add_listing(CLI::App& app, const char* name, const char* description, void (*list)(bool)) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand(name, description);
  command->add_flag("--json", *json, "as JSON");
  command->callback([json, list] { list(*json); });
}

}  // namespace

void add_families_command(CLI::App& app) {
  add_listing(app, "families", "lists the model families that visq knows", list_families);
}
void add_formats_command(CLI::App& app) {
  add_listing(app, "formats", "lists the formats, where they are stored and who reads them", list_formats);
}

}  // namespace visq

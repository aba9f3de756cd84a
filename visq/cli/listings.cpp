// visq families, visq formats, visq kv-caches: the support matrix, from the code.
#include <algorithm>

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

enum class Style { text, markdown, json };

std::string markdown_table(const std::vector<std::vector<std::string>>& rows) {
  std::string table;
  for (size_t i = 0; i < rows.size(); ++i) {
    table += visq::format("| {} |\n", fmt::join(rows[i], " | "));
    if (i > 0) continue;
    for (size_t column = 0; column < rows[i].size(); ++column) table += "|---";
    table += "|\n";
  }
  return table;
}

void print_table(const std::vector<std::vector<std::string>>& rows, Style style,
                 const std::vector<size_t>& right_aligned = {}) {
  visq::print("{}", style == Style::markdown ? markdown_table(rows) : format_table(rows, right_aligned));
}

void list_families(Style style) {
  std::vector<std::string> formats;
  for (const Preset& preset : presets()) formats.push_back(preset.name);
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"family", "checkpoints", "config.json architecture", "forward pass tested"}};
  for (const Family& family : families()) {
    rows.push_back(
        {family.name, family.checkpoints, joined(family.architectures), reference_text(family.reference)});
    list.push_back({{"family", family.name},
                    {"architectures", family.architectures},
                    {"checkpoints", family.checkpoints},
                    {"formats", formats},
                    {"tested", reference_text(family.reference)}});
  }
  if (style == Style::json) return visq::print("{}\n", json_text(list, 2));
  print_table(rows, style);
  visq::print("\nFormats of every family: {}.\n", joined(formats));
}

void list_kv_caches(Style style) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"KV cache", "keys and values", "bits", "data", "layouts", "read by", "when"}};
  for (const KvFormat& format : kv_formats()) {
    std::vector<std::string> names, engines;
    Json readers = Json::object();  // by layout
    for (const Layout* layout : layouts()) {
      if (!layout->holds(format.format)) continue;
      names.emplace_back(layout->name());
      readers[layout->name()] = layout->engines(format.format);
      for (const std::string& engine : layout->engines(format.format))
        if (std::ranges::find(engines, engine) == engines.end()) engines.push_back(engine);
    }
    rows.push_back({format.name, format.values, visq::format("{:.3g}", format.bits()),
                    format.calibrated ? "needed" : "none", joined(names), joined(engines), format.serves});
    list.push_back({{"kv_cache", format.name},
                    {"values", format.values},
                    {"bits", format.bits()},
                    {"needs_calibration", format.calibrated},
                    {"layouts", readers},
                    {"when", format.serves}});
  }
  if (style == Style::json) return visq::print("{}\n", json_text(list, 2));
  print_table(rows, style, {2});
}

void list_formats(Style style) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> rows = {
      {"format", "weights", "bits", "inputs", "solver", "data", "layout", "read by", "when"}};
  for (const Preset& preset : presets()) {
    const std::string automatic = "auto";
    const Layout& layout = find_layout(automatic, preset);
    const std::vector<std::string> engines = layout.engines(preset.scheme);
    rows.push_back({preset.name, preset.weight, visq::format("{:.3g}", preset.scheme.bits_per_weight()),
                    preset.input, preset.scheme.solvers(),
                    preset.recipe.needs_calibration()    ? "needed"
                    : preset.recipe.without_data.empty() ? "none"
                                                         : "useful",
                    layout.name(), joined(engines), preset.serves});
    list.push_back({{"format", preset.name},
                    {"weights", preset.weight},
                    {"bits_per_weight", preset.scheme.bits_per_weight()},
                    {"inputs", preset.input},
                    {"solver", preset.scheme.solvers()},
                    {"needs_calibration", preset.recipe.needs_calibration()},
                    {"layout", layout.name()},
                    {"engines", engines},
                    {"when", preset.serves}});
  }
  if (style == Style::json) return visq::print("{}\n", json_text(list, 2));
  print_table(rows, style, {2});
  visq::print("\nKV caches (`visq quantize --kv-cache`):\n\n");
  list_kv_caches(style);
}

Command add_listing(Command& program, const char* name, const char* description,
                    std::function<void(Style)> list) {
  auto json = std::make_shared<bool>(false), markdown = std::make_shared<bool>(false);
  Command command = program.add_command(name, description);
  CommandOption as_json = command.add_flag("--json", *json, "as JSON");
  command.add_flag("--markdown", *markdown, "as a table in Markdown").excludes(as_json);
  command.on_run([json, markdown, list] {
    list(*json ? Style::json : *markdown ? Style::markdown : Style::text);
  });
  return command;
}

}  // namespace

void add_families_command(Command& program) {
  add_listing(program, "families", "lists the model families that visq knows", list_families);
}
void add_formats_command(Command& program) {
  auto shown = std::make_shared<std::string>();
  Command command =
      add_listing(program, "formats", "lists the formats, where they are stored and who reads them",
                  [shown](Style style) {
                    if (shown->empty()) return list_formats(style);
                    visq::print("{}", find_preset(*shown).text);
                  });
  command.add_option("--show", *shown, "prints the recipe of this format instead");
  add_listing(program, "kv-caches", "lists the formats of the KV cache likewise", list_kv_caches);
}

}  // namespace visq

// visq families, formats, kv-caches, engines: the support matrix, from the code.
#include <algorithm>

#include "visq/cli/commands.h"
#include "visq/core/format.h"
#include "visq/core/text.h"
#include "visq/export/engines.h"
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
    const std::vector<std::string> engines = layout.engines({preset.scheme});
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

const char* generation(double gpu) {
  static const std::vector<std::pair<double, const char*>> names = {
      {7.5, "Turing"}, {8.0, "Ampere"}, {8.9, "Ada"}, {9.0, "Hopper"}, {10.0, "Blackwell"}};
  const auto found = std::ranges::find(names, gpu, &std::pair<double, const char*>::first);
  return found == names.end() ? "any GPU" : found->second;
}

// "Ampere; Ada multiplies in it".
std::string gpus_text(const ReadFormat& format) {
  std::string text = visq::format("{}{}", generation(format.gpu), format.exactly ? " alone" : "");
  if (format.native > format.gpu)
    text += visq::format("; in its own format from {}", generation(format.native));
  if (!format.needs.empty()) text += ", with " + format.needs;
  return text;
}

// How an engine has an architecture.
std::string has_text(const EngineModel& engine, const std::string& architecture) {
  if (std::ranges::find(engine.architectures, architecture) != engine.architectures.end()) return "yes";
  if (const auto dropped = engine.dropped.find(architecture); dropped != engine.dropped.end())
    return "until " + dropped->second;
  return judge_architecture(engine, architecture)->warning ? "perhaps" : "no";
}

// As config.json names what engines tell apart.
std::string model_type_of(const Family& family, const std::string& architecture) {
  static const std::map<std::string, std::string> others = {{"SmolVLMForConditionalGeneration", "smolvlm"},
                                                            {"LlavaLlamaForCausalLM", "llava_llama"},
                                                            {"LlavaMistralForCausalLM", "llava_mistral"},
                                                            {"LlavaQwenForCausalLM", "llava_qwen"}};
  const auto found = others.find(architecture);
  return found == others.end() ? family.name : found->second;
}

// "V s T": the initials of the engines that load the format of the architecture, small where only perhaps.
std::string initials_of_readers(const Family& family, const std::string& architecture, const Scheme& scheme) {
  std::string text;
  for (const EngineModel& engine : engine_models()) {
    const bool reads = std::ranges::any_of(engine.layouts, [&](const auto& layout) {
      const ServedModel model{architecture,
                              model_type_of(family, architecture),
                              layout.first,
                              {},
                              "",
                              {scheme},
                              KvCacheFormat::none,
                              {}};
      return std::ranges::all_of(judge(engine, model), &EngineFinding::warning);
    });
    if (!reads) continue;
    const char initial = engine.title.front();
    const bool perhaps = judge_architecture(engine, architecture).has_value();
    text += (text.empty() ? "" : " ") +
            std::string(1, static_cast<char>(perhaps ? std::tolower(initial) : initial));
  }
  return text.empty() ? "–" : text;
}

std::vector<std::vector<std::string>> grid() {
  std::vector<std::vector<std::string>> rows = {{"architecture"}};
  std::vector<const Preset*> read;
  std::vector<Scheme> seen;
  for (const Preset& preset : presets()) {
    const size_t known = seen.size();
    add_stored(seen, preset.scheme);
    const bool anywhere = std::ranges::any_of(layouts(), [&](const Layout* layout) {
      return layout->holds(preset.scheme) && !layout->engines({preset.scheme}).empty();
    });
    if (seen.size() == known || !anywhere) continue;
    read.push_back(&preset);
    rows.front().push_back(preset.name);
  }
  for (const Family& family : families())
    for (const std::string& architecture : family.architectures) {
      rows.push_back({architecture});
      for (const Preset* preset : read)
        rows.back().push_back(initials_of_readers(family, architecture, preset->scheme));
    }
  return rows;
}

void list_engines(Style style) {
  Json list = Json::array();
  std::vector<std::vector<std::string>> engines = {{"engine", "version", "serve"}},
                                        formats = {{"format", "layout"}}, models = {{"architecture"}};
  for (const EngineModel& engine : engine_models()) {
    engines.push_back({engine.title, engine.version, "`" + engine.serve + "`"});
    formats.front().push_back(engine.title);
    models.front().push_back(engine.title);
    Json read = Json::object();
    for (const auto& [layout, of_layout] : engine.layouts)
      for (const ReadFormat& format : of_layout.formats)
        read[layout].push_back({{"format", format.name}, {"gpu", format.gpu}, {"native", format.native}});
    list.push_back({{"engine", engine.name},
                    {"version", engine.version},
                    {"serve", engine.serve},
                    {"architectures", engine.architectures},
                    {"dropped", engine.dropped},
                    {"fallback", engine.fallback},
                    {"formats", read}});
  }
  for (const Layout* layout : layouts()) {
    std::vector<Scheme> seen;
    for (const Preset& preset : presets()) {
      const size_t known = seen.size();
      add_stored(seen, preset.scheme);
      if (seen.size() == known || layout->engines({preset.scheme}).empty()) continue;
      formats.push_back({preset.name, layout->name()});
      for (const EngineModel& engine : engine_models()) {
        const ReadFormat* const format = engine.format(layout->name(), preset.scheme);
        formats.back().push_back(format == nullptr ? "–" : gpus_text(*format));
      }
    }
  }
  for (const Family& family : families())
    for (const std::string& architecture : family.architectures) {
      models.push_back({architecture});
      for (const EngineModel& engine : engine_models())
        models.back().push_back(has_text(engine, architecture));
    }
  if (style == Style::json) return visq::print("{}\n", json_text(list, 2));
  print_table(engines, style);
  visq::print(
      "\nFormats, where they are stored, and the oldest GPU that runs them (formats with other solvers are "
      "stored "
      "alike):\n\n");
  print_table(formats, style);
  visq::print(
      "\nArchitectures (perhaps: without a model class of its own, through the engine's Transformers "
      "backend):\n\n");
  print_table(models, style);
  visq::print(
      "\nArchitecture × format: V vLLM, S SGLang, T TensorRT-LLM; small letters: perhaps. `--for ENGINE` "
      "finds the "
      "layout.\n\n");
  print_table(grid(), style);
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
void add_engines_command(Command& program) {
  add_listing(program, "engines", "lists the engines: versions, formats and architectures that they read",
              list_engines);
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

#include "visq/export/layout.h"

#include <algorithm>

#include "visq/core/format.h"
#include "visq/export/engine_model.h"
#include "visq/export/gguf_layout.h"

namespace visq {

const std::vector<const Layout*>& layouts() {
  static const std::vector<const Layout*> all = {
      &modelopt_layout(),     &hf_fp8_layout(),  &compressed_tensors_layout(),
      &bitsandbytes_layout(), &autoawq_layout(), &gptq_layout(),
      &gguf_layout()};
  return all;
}

std::string layouts_that(const std::function<bool(const Layout&)>& serve) {
  std::string names;
  for (const Layout* layout : layouts())
    if (serve(*layout)) names += (names.empty() ? "" : ", ") + std::string(layout->name());
  return names;
}

std::string describe_schemes(const std::vector<Scheme>& schemes) {
  std::string text;
  for (const Scheme& scheme : schemes)
    text += visq::format("{}weights {} with inputs {}", text.empty() ? "" : " beside ",
                         describe_weight(scheme), describe_input(scheme));
  return text;
}

namespace {

std::string layouts_with(KvCacheFormat kv_cache) {
  return layouts_that([&](const Layout& layout) { return layout.holds(kv_cache); });
}

bool holds_cache(const Layout& layout, KvCacheFormat kv_cache) {
  return kv_cache == KvCacheFormat::none || layout.holds(kv_cache);
}

/// What "auto" goes by, in order: whether engines read it and a KV cache could go along, and how many do.
std::pair<bool, size_t> rank(const Layout& layout, const std::vector<Scheme>& schemes) {
  const size_t engines = layout.engines(schemes).size();
  return {engines > 0 && layout.holds(KvCacheFormat::fp8), engines};
}

}  // namespace

double bits_per_weight(const QuantizedLinear& linear) {
  const auto rows = static_cast<double>(linear.rows), columns = static_cast<double>(linear.columns);
  const auto factor_bits =
      static_cast<double>(8 * at::elementSize(linear.source_dtype) * linear.scheme.low_rank);
  return linear.scheme.bits_per_weight() + factor_bits * (1 / rows + 1 / columns);
}

void add_stored(std::vector<Scheme>& schemes, const Scheme& scheme) {
  if (std::ranges::none_of(schemes, [&](const Scheme& known) { return known.stored_like(scheme); }))
    schemes.push_back(scheme);
}

const Scheme& StoredQuantization::scheme_of(const std::string& module) const {
  const auto found = linears.find(module);
  return found == linears.end() ? scheme : found->second;
}

std::vector<Scheme> StoredQuantization::schemes() const {
  if (linears.empty()) return {scheme};
  std::vector<Scheme> all;
  for (const auto& [module, of_module] : linears) add_stored(all, of_module);
  return all;
}

bool Layout::holds(const std::vector<Scheme>& schemes) const {
  return (schemes.size() == 1 || holds_mixes()) &&
         std::ranges::all_of(schemes, [this](const Scheme& scheme) { return holds(scheme); });
}

std::vector<std::string> Layout::engines(const std::vector<Scheme>& schemes) const {
  return engines_reading(name(), schemes);
}

std::vector<std::string> Layout::engines(KvCacheFormat format) const {
  return engines_reading(name(), format);
}

std::vector<std::string> Layout::engines(const std::vector<Scheme>& schemes, KvCacheFormat kv_cache) const {
  std::vector<std::string> names = engines(schemes);
  const std::vector<std::string> readers = engines(kv_cache);
  std::erase_if(names,
                [&](const std::string& name) { return std::ranges::find(readers, name) == readers.end(); });
  return names;
}

namespace {

bool serves(const Layout& layout, const LayoutChoice& choice, const std::vector<Scheme>& schemes,
            KvCacheFormat kv_cache) {
  const std::vector<std::string> readers = layout.engines(schemes, kv_cache);
  return std::ranges::all_of(choice.engines, [&](const std::string& engine) {
    return std::ranges::find(readers, engine) != readers.end();
  });
}

/// Why no layout will do: what each engine that is asked for reads.
[[noreturn]] void fail_for(const LayoutChoice& choice, const std::vector<Scheme>& schemes,
                           const std::string& format, KvCacheFormat kv_cache) {
  std::string read;
  for (const std::string& engine : choice.engines) {
    const std::string names = layouts_that([&](const Layout& layout) {
      const auto readers = layout.engines(schemes, kv_cache);
      return layout.holds(schemes) && std::ranges::find(readers, engine) != readers.end();
    });
    read += visq::format("{}{} reads it from {}", read.empty() ? "" : "; ", engine,
                         names.empty() ? "no layout" : names);
  }
  fail("--for {}: {}{}{}: {}; choose another format (visq formats), or an output for each engine",
       fmt::join(choice.engines, ","), format,
       kv_cache == KvCacheFormat::none ? "" : " with a KV cache of " + kv_cache_name(kv_cache),
       choice.layout == "auto" ? "" : " in the " + choice.layout + " layout", read);
}

const Layout& best_layout(const LayoutChoice& choice, const std::vector<Scheme>& schemes,
                          const std::string& format, KvCacheFormat kv_cache) {
  const Layout* best = nullptr;
  bool held = false, cached = false;
  for (const Layout* layout : layouts()) {
    if (!layout->holds(schemes)) continue;
    held = true;
    if (!holds_cache(*layout, kv_cache)) continue;
    cached = true;
    if (!serves(*layout, choice, schemes, kv_cache)) continue;
    if (best == nullptr || rank(*layout, schemes) > rank(*best, schemes)) best = layout;
  }
  if (!held) fail("{}: no layout has a place for {}", format, describe_schemes(schemes));
  if (!cached)
    fail("--kv-cache {}: stored in these layouts alone: {}; none of them holds {}", kv_cache_name(kv_cache),
         layouts_with(kv_cache), format);
  if (best == nullptr) fail_for(choice, schemes, format, kv_cache);
  return *best;
}

}  // namespace

const Layout& find_layout(const LayoutChoice& choice, const std::vector<Scheme>& schemes,
                          const std::string& format, KvCacheFormat kv_cache) {
  for (const std::string& engine : choice.engines) find_engine(engine);
  if (choice.layout == "auto") return best_layout(choice, schemes, format, kv_cache);
  for (const Layout* layout : layouts()) {
    if (layout->name() != choice.layout) continue;
    if (!layout->holds(schemes))
      fail("--layout {}: this layout does not hold {}; use --layout auto", choice.layout, format);
    if (!holds_cache(*layout, kv_cache))
      fail("--layout {}: it has no place for what --kv-cache {} needs; these have: {}", choice.layout,
           kv_cache_name(kv_cache), layouts_with(kv_cache));
    if (!serves(*layout, choice, schemes, kv_cache)) fail_for(choice, schemes, format, kv_cache);
    return *layout;
  }
  fail("--layout {}: choose auto or one of {}", choice.layout, layout_names());
}

namespace {

/// The end of the string, or of the list or object, that begins at `begin` of a text that is JSON.
size_t end_of(const std::string& text, size_t begin) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted && c == '\\') ++i;
    if (c == '"') quoted = !quoted;
    if (!quoted && (c == '{' || c == '[')) ++depth;
    if (!quoted && (c == '}' || c == ']')) --depth;
    if (!quoted && depth == 0) return i + 1;
  }
  return text.size();
}

}  // namespace

std::string remove_quantization_config(const std::string& config_text, Json config) {
  static const std::string kKey = "quantization_config";
  config.erase(kKey);
  const auto says_the_rest = [&](const std::string& text) {
    const Json found = Json::parse(text, nullptr, /*allow_exceptions=*/false);
    return !found.is_discarded() && found == config;
  };
  if (says_the_rest(config_text)) return config_text;
  for (size_t key = config_text.find('"' + kKey + '"'); key != std::string::npos;
       key = config_text.find('"' + kKey + '"', key + 1)) {
    const size_t value = config_text.find_first_of("{[\"", config_text.find(':', key));
    const size_t comma = config_text.find_last_not_of(" \t\r\n", key - 1);
    if (value == std::string::npos || comma == std::string::npos) continue;
    const std::string after = config_text.substr(end_of(config_text, value));
    if (config_text[comma] == ',')
      if (std::string text = config_text.substr(0, comma) + after; says_the_rest(text)) return text;
    const size_t next = after.find_first_not_of(" \t\r\n");  // it is the first key
    if (next != std::string::npos && after[next] == ',')
      if (std::string text = config_text.substr(0, key) + after.substr(next + 1); says_the_rest(text))
        return text;
    if (next != std::string::npos && after[next] == '}')  // it is the only one
      if (std::string text = config_text.substr(0, comma + 1) + after.substr(next); says_the_rest(text))
        return text;
  }
  return json_text(config, 2) + "\n";  // its value is neither
}

std::string add_quantization_config(const std::string& config_text, const Json& value,
                                    const std::string& origin) {
  const Json config = parse_json(config_text, origin);
  if (!config.is_object()) fail("{}: not a JSON object", origin);
  if (config.contains("quantization_config")) fail("{}: has a quantization_config already", origin);
  size_t end = config_text.rfind('}');
  const std::string tail = config_text.substr(end);
  while (end > 0 && std::isspace(static_cast<unsigned char>(config_text[end - 1]))) --end;

  std::string nested;  // two more spaces of indent than the dump gives
  for (const char c : json_text(value, 2)) {
    nested += c;
    if (c == '\n') nested += "  ";
  }
  const std::string text = config_text.substr(0, end) + (config.empty() ? "\n" : ",\n") +
                           "  \"quantization_config\": " + nested + "\n" + tail;
  if (parse_json(text, origin).at("quantization_config") != value) fail("{}: cannot be extended", origin);
  return text;
}

}  // namespace visq

#include "visq/export/layout.h"

#include <algorithm>

#include "visq/core/format.h"

namespace visq {

const std::vector<const Layout*>& layouts() {
  static const std::vector<const Layout*> all = {&modelopt_layout(), &compressed_tensors_layout(),
                                                 &hf_fp8_layout(), &bitsandbytes_layout()};
  return all;
}

namespace {

/// The layouts that store this KV cache, for errors.
std::string layouts_with(KvCacheFormat kv_cache) {
  std::string names;
  for (const Layout* layout : layouts())
    if (layout->holds(kv_cache)) names += (names.empty() ? "" : ", ") + std::string(layout->name());
  return names;
}

std::string describe(const std::vector<Scheme>& schemes) {
  std::string text;
  for (const Scheme& scheme : schemes)
    text += visq::format("{}weights {} with inputs {}", text.empty() ? "" : " beside ",
                         describe_weight(scheme), describe_input(scheme));
  return text;
}

bool holds_cache(const Layout& layout, KvCacheFormat kv_cache) {
  return kv_cache == KvCacheFormat::none || layout.holds(kv_cache);
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
  return schemes.size() == 1 ? engines(schemes.front()) : engines_of_mix(schemes);
}

const Layout& find_layout(const std::string& name, const std::vector<Scheme>& schemes,
                          const std::string& format, KvCacheFormat kv_cache) {
  if (name == "auto") {
    const Layout* best = nullptr;
    bool held = false;
    for (const Layout* layout : layouts()) {
      if (!layout->holds(schemes)) continue;
      held = true;
      if (!holds_cache(*layout, kv_cache)) continue;
      if (best == nullptr || layout->engines(schemes).size() > best->engines(schemes).size()) best = layout;
    }
    if (!held) fail("{}: no layout has a place for {}", format, describe(schemes));
    if (best == nullptr)
      fail("--kv-cache {}: stored in these layouts alone: {}; none of them holds {}", kv_cache_name(kv_cache),
           layouts_with(kv_cache), format);
    return *best;
  }
  std::string known;
  for (const Layout* layout : layouts()) {
    known += std::string(", ") + layout->name();
    if (layout->name() != name) continue;
    if (!layout->holds(schemes))
      fail("--layout {}: this layout does not hold {}; use --layout auto", name, format);
    if (!holds_cache(*layout, kv_cache))
      fail("--layout {}: it has no place for what --kv-cache {} needs; these have: {}", name,
           kv_cache_name(kv_cache), layouts_with(kv_cache));
    return *layout;
  }
  fail("--layout {}: choose auto{}", name, known);
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

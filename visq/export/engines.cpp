#include "visq/export/engines.h"

#include <fnmatch.h>

#include <algorithm>

#include "visq/core/error.h"

namespace visq {
namespace {

using Renames = std::vector<std::pair<std::string, std::string>>;

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

// First matching prefix wins; an entry without its trailing dot ("model.visual") is renamed like what is
// below it.
std::string rename(const std::string& name, const Renames& renames) {
  for (const auto& [from, to] : renames) {
    if (starts_with(name, from)) return to + name.substr(from.size());
    if (name + "." == from) return to.substr(0, to.size() - 1);
  }
  return name;
}

const Renames& renames_of(Engine engine, const std::string& model_type) {
  static const Renames none;
  static const Renames llava_vllm = {{"model.language_model.", "language_model.model."},
                                     {"model.vision_tower.", "vision_tower."},
                                     {"model.multi_modal_projector.", "multi_modal_projector."},
                                     {"lm_head.", "language_model.lm_head."}};
  static const Renames mllama_vllm = {{"model.language_model.", "language_model.model."},
                                      {"model.vision_model.", "vision_model."},
                                      {"model.multi_modal_projector.", "multi_modal_projector."},
                                      {"lm_head.", "language_model.lm_head."}};
  static const Renames qwen_vllm = {{"model.language_model.", "language_model.model."},
                                    {"model.visual.", "visual."},
                                    {"model.", "language_model.model."},
                                    {"lm_head.", "language_model.lm_head."}};
  static const Renames qwen_sglang = {{"model.language_model.", "model."}, {"model.visual.", "visual."}};
  const bool qwen = starts_with(model_type, "qwen");
  if (engine == Engine::vllm) return qwen ? qwen_vllm : model_type == "mllama" ? mllama_vllm : llava_vllm;
  if (engine == Engine::sglang) return qwen ? qwen_sglang : none;
  return none;
}

bool fnmatches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), FNM_NOESCAPE) == 0;
}

// "re:" entries, matched from the start of the name. Only literals, escaped dots, ".*" and a final "$": what
// exporters write; judged as a glob, so that a hostile expression costs nothing.
bool expression_matches(const std::string& expression, const std::string& name) {
  std::string glob;
  bool anchored = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (anchored) fail("exclude entry 're:{}': '$' before the end", expression);
    if (c == '.' && i + 1 < expression.size() && expression[i + 1] == '*') {
      glob += '*';
      ++i;
    } else if (c == '\\' && i + 1 < expression.size() && expression[i + 1] == '.') {
      glob += '.';
      ++i;
    } else if (c == '$') {
      anchored = true;
    } else if (std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-') {
      glob += c;
    } else {
      fail("exclude entry 're:{}': visq cannot judge this expression", expression);
    }
  }
  return fnmatches(anchored ? glob : glob + "*", name);
}

// Plain entries are substrings, others globs; a final "*" without a dot stands for "p" and "p.*", and each is
// renamed.
bool vllm_matches(const std::string& entry, const std::string& name, const Renames& renames) {
  const auto matches = [&](const std::string& written) {
    const std::string part = rename(written, renames);
    return part.find_first_of("*?[") == std::string::npos ? name.find(part) != std::string::npos
                                                          : fnmatches(part, name);
  };
  const bool split = entry.size() > 1 && entry.back() == '*' && entry[entry.size() - 2] != '.';
  if (!split) return matches(entry);
  const std::string stem = entry.substr(0, entry.size() - 1);
  return matches(stem) || matches(stem + ".*");
}

// Full match of the name, with and without "language_model.", or of any one component.
bool sglang_matches(const std::string& entry, const std::string& name) {
  static const std::string kPrefix = "language_model.";
  if (fnmatches(entry, name)) return true;
  if (starts_with(name, kPrefix) && fnmatches(entry, name.substr(kPrefix.size()))) return true;
  size_t begin = 0;
  while (begin <= name.size()) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    if (fnmatches(entry, name.substr(begin, dot - begin))) return true;
    begin = dot + 1;
  }
  return false;
}

// Globs on the module or any of its ancestors.
bool tensorrt_llm_matches(const std::string& entry, const std::string& name) {
  for (size_t end = name.size(); end != std::string::npos && end > 0; end = name.rfind('.', end - 1))
    if (fnmatches(entry, name.substr(0, end))) return true;
  return false;
}

// One of the name's parts, or the first ones of them together.
bool has_component(const std::string& entry, const std::string& name) {
  if (starts_with(name + ".", entry + ".")) return true;
  return entry.find('.') == std::string::npos &&
         ("." + name + ".").find("." + entry + ".") != std::string::npos;
}

}  // namespace

const char* engine_name(Engine engine) {
  switch (engine) {
    case Engine::vllm:
      return "vllm";
    case Engine::sglang:
      return "sglang";
    case Engine::tensorrt_llm:
      break;
  }
  return "tensorrt-llm";
}

Engine parse_engine(const std::string& name) {
  for (const Engine engine : {Engine::vllm, Engine::sglang, Engine::tensorrt_llm})
    if (name == engine_name(engine)) return engine;
  fail("--for {}: choose vllm, sglang or tensorrt-llm", name);
}

bool engine_excludes(Engine engine, const std::vector<std::string>& entries, const std::string& module,
                     const std::string& model_type, ExcludeRule rule) {
  if (rule == ExcludeRule::whole_names) return std::ranges::find(entries, module) != entries.end();
  const Renames& renames = renames_of(engine, model_type);
  const std::string name = rename(module, renames);
  if (rule == ExcludeRule::components)
    return std::ranges::any_of(entries, [&](const std::string& entry) { return has_component(entry, name); });
  for (const std::string& entry : entries) {
    if (starts_with(entry, "re:")) {
      if (expression_matches(entry.substr(3), name)) return true;
      continue;
    }
    const bool matches = engine == Engine::vllm     ? vllm_matches(entry, name, renames)
                         : engine == Engine::sglang ? sglang_matches(rename(entry, renames), name)
                                                    : tensorrt_llm_matches(entry, name);
    if (matches) return true;
  }
  return false;
}

}  // namespace visq

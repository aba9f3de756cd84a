#include "visq/inputs/normalizer.h"

#include "visq/core/error.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

std::string run(const Normalizer::Prepend& step, std::string text) {
  return text.empty() ? text : step.text + text;
}

std::string run(const Normalizer::Replace& step, const std::string& text) {
  std::string out;
  size_t last = 0;
  for (const Span& span : step.pattern.find(text)) {
    out.append(text, last, span.begin - last).append(step.content);
    last = span.end;
  }
  return out.append(text, last);
}

std::string run(const Normalizer::Nfc&, const std::string& text) { return to_nfc(text); }

std::string run(const Normalizer::Lowercase&, const std::string& text) { return to_lower(text); }

std::string run(const Normalizer::Strip& step, const std::string& text) {
  const size_t begin = step.left ? skip_space(text, 0) : 0;
  const size_t end = step.right ? skip_space_back(text, text.size()) : text.size();
  return begin < end ? text.substr(begin, end - begin) : std::string();
}

void collect(const Json& component, const std::string& origin, std::vector<Normalizer::Step>& steps) {
  if (component.is_null()) return;
  const auto type = require<std::string>(component, "type", origin);
  if (type == "Sequence") {
    for (const Json& part : require<Json>(component, "normalizers", origin)) collect(part, origin, steps);
  } else if (type == "Prepend") {
    steps.push_back(Normalizer::Prepend{require<std::string>(component, "prepend", origin)});
  } else if (type == "Replace") {
    steps.push_back(
        Normalizer::Replace{SplitPattern::parse(require<Json>(component, "pattern", origin), origin),
                            require<std::string>(component, "content", origin)});
  } else if (type == "NFC") {
    steps.push_back(Normalizer::Nfc{});
  } else if (type == "Lowercase") {
    steps.push_back(Normalizer::Lowercase{});
  } else if (type == "Strip") {
    steps.push_back(Normalizer::Strip{get_or(component, "strip_left", true, origin),
                                      get_or(component, "strip_right", true, origin)});
  } else {
    fail("{}: '{}' is not supported", origin, type);
  }
}

}  // namespace

Normalizer Normalizer::parse(const Json& component, const std::string& origin) {
  std::vector<Step> steps;
  collect(component, origin + ": normalizer", steps);
  return Normalizer(std::move(steps));
}

std::string Normalizer::apply(std::string text) const {
  for (const Step& step : steps_)
    text = std::visit([&](const auto& s) { return run(s, std::move(text)); }, step);
  return text;
}

}  // namespace visq

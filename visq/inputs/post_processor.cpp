#include "visq/inputs/post_processor.h"

#include "visq/core/error.h"

namespace visq {
namespace {

std::vector<int64_t> ids_of(const Json& specials, const std::string& name, const std::string& origin) {
  if (!specials.contains(name)) fail("{}: the template uses '{}', which special_tokens lacks", origin, name);
  return require<std::vector<int64_t>>(specials.at(name), "ids", origin);
}

/// [<s>] A [</s>] → ids before and behind A.
void wrap_in_template(const Json& component, const std::string& origin, PostProcessor& out) {
  const Json specials = get_or(component, "special_tokens", Json::object(), origin);
  std::vector<int64_t> before, behind;
  bool seen = false;
  for (const Json& item : require<Json>(component, "single", origin)) {
    if (item.contains("Sequence")) {
      if (seen) fail("{}: the template repeats the text, which is not supported", origin);
      seen = true;
      continue;
    }
    const auto name = require<std::string>(require<Json>(item, "SpecialToken", origin), "id", origin);
    const auto ids = ids_of(specials, name, origin);
    auto& side = seen ? behind : before;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!seen) fail("{}: the template lacks the text", origin);
  out.prefix.insert(out.prefix.begin(), before.begin(), before.end());
  out.suffix.insert(out.suffix.end(), behind.begin(), behind.end());
}

void collect(const Json& component, const std::string& origin, PostProcessor& out) {
  if (component.is_null()) return;
  const auto type = require<std::string>(component, "type", origin);
  if (type == "Sequence") {
    for (const Json& part : require<Json>(component, "processors", origin)) collect(part, origin, out);
  } else if (type == "TemplateProcessing") {
    wrap_in_template(component, origin, out);
  } else if (type != "ByteLevel") {
    fail("{}: '{}' is not supported", origin, type);
  }
}

}  // namespace

PostProcessor PostProcessor::parse(const Json& component, const std::string& origin) {
  PostProcessor out;
  collect(component, origin + ": post_processor", out);
  return out;
}

}  // namespace visq

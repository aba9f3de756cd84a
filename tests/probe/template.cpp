// What visq's chat templates render, for tests/parity/test_templates.py.
//   probe_template CASES.json OUT.json     [{template, messages, variables, add_generation_prompt}] →
//                                          [{"text"} | {"error"}]
//   probe_template --load DIR CASES.json OUT.json     the same with the template of a checkpoint:
//   [{messages}]
#include "visq/inputs/template.h"

#include <cstdio>
#include <exception>
#include <fstream>

namespace {

visq::Json render(const visq::ChatTemplate* loaded, const visq::Json& item) try {
  const auto chat = loaded ? *loaded
                           : visq::ChatTemplate::parse(item.at("template").get<std::string>(), "template",
                                                       item.value("variables", visq::Json::object()));
  return {{"text", chat.render(item.at("messages"), item.value("add_generation_prompt", true))}};
} catch (const visq::Error& e) {
  return {{"error", e.what()}};
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  const bool loads = arguments.size() == 4 && arguments[0] == "--load";
  if (arguments.size() != 2 && !loads) {
    std::fprintf(stderr,
                 "usage: probe_template [--load DIR] CASES.json OUT.json, see tests/probe/template.cpp\n");
    return 2;
  }
  std::optional<visq::ChatTemplate> loaded;
  if (loads) loaded = visq::ChatTemplate::load(arguments[1]);
  visq::Json out = visq::Json::array();
  for (const visq::Json& item : visq::read_json(arguments[arguments.size() - 2], visq::kMaxTokenizerBytes))
    out.push_back(render(loaded ? &*loaded : nullptr, item));
  std::ofstream(arguments.back()) << out;
  return 0;
} catch (const std::exception& e) {
  std::fprintf(stderr, "error: %s\n", e.what());
  return 2;
}

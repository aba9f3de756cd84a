#include "visq/inputs/template.h"

#include "visq/inputs/template_interpreter.h"
#include "visq/inputs/template_parser.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

namespace fs = std::filesystem;

Json read_object(const fs::path& path) {
  if (!fs::exists(path)) return Json::object();
  Json json = read_json(path);
  if (!json.is_object()) fail("{}: not a JSON object", path.string());
  return json;
}

/// A special token is a text or the description of an added token; nothing for other settings.
std::optional<std::string> token_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("content") && value.at("content").is_string())
    return value.at("content").get<std::string>();
  return {};
}

bool is_token_name(const std::string& name) { return name.ends_with("_token") && !name.starts_with("add_"); }

/// bos_token, eos_token, image_token, …: where both files name one, tokenizer_config.json counts.
Json special_tokens(const fs::path& directory) {
  Json tokens = Json::object();
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    const Json settings = read_object(directory / file);
    for (const auto& [name, value] : settings.items())
      if (const auto text = is_token_name(name) ? token_text(value) : std::nullopt) tokens[name] = *text;
  }
  return tokens;
}

struct Source {
  std::string text, origin;
};

/// A text, or the one named "default" of a list of {name, template}.
std::optional<Source> find_source(const Json& file, const std::string& origin) {
  const auto it = file.find("chat_template");
  if (it == file.end() || it->is_null()) return {};
  const std::string name = origin + ": chat_template";
  if (it->is_string()) return Source{it->get<std::string>(), name};
  if (!it->is_array()) fail("{} is neither a text nor a list", name);
  for (const Json& entry : *it)
    if (require<std::string>(entry, "name", name) == "default")
      return Source{require<std::string>(entry, "template", name), name};
  fail("{} has no template named 'default'", name);
}

std::optional<Source> find_source(const fs::path& directory) {
  const fs::path jinja = directory / "chat_template.jinja";
  if (fs::exists(jinja)) return Source{read_text(jinja, kMaxConfigBytes), jinja.string()};
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    const fs::path path = directory / name;
    if (auto source = find_source(read_object(path), path.string())) return source;
  }
  return {};
}

/// Templates of reasoning models read a message's reasoning under one of three names.
void alias_reasoning(Json& message) {
  for (const char* name : {"reasoning_content", "thinking", "reasoning"}) {
    if (!message.contains(name) || message.at(name).is_null()) continue;
    const Json reasoning = message.at(name);
    if (!message.contains("thinking")) message["thinking"] = reasoning;
    message["reasoning_content"] = reasoning;
    return;
  }
}

/// What the reference passes to a template (spec/inputs.md §4.2).
Json normalize(const Json& messages) {
  if (!messages.is_array()) fail("chat messages are not a list");
  Json result = Json::array();
  for (const Json& message : messages) {
    if (!message.is_object()) fail("a chat message is not an object");
    Json kept = Json::object();
    for (const auto& [key, value] : message.items())
      if (!value.is_null()) kept[key] = value;
    alias_reasoning(kept);
    result.push_back(std::move(kept));
  }
  return result;
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Block block;
  std::string origin;
  Json variables;
};

std::optional<ChatTemplate> ChatTemplate::load(const fs::path& directory) {
  auto source = find_source(directory);
  if (!source) return {};
  return parse(source->text, source->origin, special_tokens(directory));
}

std::optional<std::string> ChatTemplate::source(const fs::path& directory) {
  auto source = find_source(directory);
  if (!source) return {};
  return std::move(source->text);
}

ChatTemplate ChatTemplate::parse(std::string_view source, std::string origin, Json variables) {
  if (to_valid_utf8(source) != source) fail("{}: the chat template is not UTF-8", origin);
  jinja::Block block = jinja::parse_template(source, origin);
  return ChatTemplate(
      std::make_shared<const Impl>(Impl{std::move(block), std::move(origin), std::move(variables)}));
}

std::string ChatTemplate::render(const Json& messages, bool add_generation_prompt) const {
  Json variables = {{"messages", normalize(messages)},
                    {"tools", nullptr},
                    {"documents", nullptr},
                    {"add_generation_prompt", add_generation_prompt}};
  for (const auto& [name, value] : impl_->variables.items()) variables[name] = value;
  return jinja::interpret(impl_->block, impl_->origin, variables);
}

}  // namespace visq

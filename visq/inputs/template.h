// The checkpoint's own chat template: messages → the text that its language model was trained to see.
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "visq/core/json.h"

namespace visq {

/// Immutable after load; render() is thread-safe. The language is Jinja as the reference sets it up:
/// sandboxed, with trim_blocks, lstrip_blocks, loop controls and `generation` (spec/inputs.md §4).
///
/// A template is untrusted: it reaches no file and no network, and what one rendering may compute is bounded
/// (text 16 MiB, 10^7 steps, 200 nested calls or values), so every template ends.
///
/// Left out, and refused by name: {% block %}, {% include %} and their kin, {% autoescape %}, the filters and
/// methods that make HTML or need a clock, integers beyond 64 bits. Different from the reference: text marked
/// `safe` stays plain text; a constant expression fails when it is reached, not when the template is read;
/// and a name of the caller's that an inner scope reads before the template sets it anew has the caller's
/// value, not none.
class ChatTemplate {
 public:
  /// Reads chat_template.jinja, else chat_template.json, else the chat_template of tokenizer_config.json (a
  /// text, or a list of {name, template} of which "default" counts). Nothing when the checkpoint has none.
  /// The special tokens of tokenizer_config.json and special_tokens_map.json become the template's variables.
  /// @throws Error naming the file, and the line of the template, when one is malformed
  static std::optional<ChatTemplate> load(const std::filesystem::path& directory);
  /// The text that load() reads.
  static std::optional<std::string> source(const std::filesystem::path& directory);

  /// @param origin     the file, for errors
  /// @param variables  an object: what else the template's names mean, e.g. {"bos_token": "<s>"}
  /// @throws Error naming the line: malformed, a tag that is not supported, nested too deep
  static ChatTemplate parse(std::string_view source, std::string origin, Json variables);

  /// @param messages  array of {"role", "content": text | [{"type": "text", "text"} | {"type": "image"}]}
  /// @throws Error naming file and line: the template's raise_exception(…) and its text; an unknown filter,
  /// test
  ///         or function; a limit exceeded; whatever would be an exception in Python
  std::string render(const Json& messages, bool add_generation_prompt = true) const;

 private:
  struct Impl;
  explicit ChatTemplate(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace visq

#include "visq/families/prompter.h"

#include "visq/core/error.h"
#include "visq/families/image_layout.h"
#include "visq/families/prompt.h"

namespace visq {
namespace {

/// As the reference hands messages to a template: content as a list of parts, or as one text with the
/// placeholders in it, where the family's templates know no lists.
Json template_messages(const ModelSpec& spec, const std::vector<Message>& messages) {
  Json list = Json::array();
  int64_t images = 0;
  for (const Message& message : messages) {
    std::string text;
    Json parts = Json::array();
    for (const ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::image) {
        parts.push_back({{"type", "image"}});
        text += image_placeholder(spec, ++images) + spec.behind_placeholder;
      } else if (part.kind == ContentPart::Kind::video) {
        parts.push_back({{"type", "video"}});
        text += spec.video.token;
      } else {
        parts.push_back({{"type", "text"}, {"text", part.text}});
        text += part.text;
      }
    }
    list.push_back({{"role", message.role}, {"content", spec.template_reads_text ? Json(text) : parts}});
  }
  return list;
}

bool is_special(const Tokenizer& tokenizer, int64_t id) {
  const std::span one(&id, 1);
  return tokenizer.decode(one).empty() && !tokenizer.decode(one, /*skip_special=*/false).empty();
}

std::optional<int64_t> first_eos(const ModelSpec& spec) {
  if (spec.eos_ids.empty()) return std::nullopt;
  return spec.eos_ids.front();
}

}  // namespace

Prompter::Prompter(const ModelSpec& spec, const Tokenizer& tokenizer,
                   std::optional<ChatTemplate> chat_template)
    : spec_(spec), tokenizer_(tokenizer), template_(std::move(chat_template)) {
  if (spec_.prompt == PromptStyle::chatml_images_first && !tokenizer.id_of("<|im_start|>"))
    spec_.prompt = PromptStyle::vicuna;
  if (spec_.prompt == PromptStyle::vicuna_v1 || spec_.prompt == PromptStyle::llava_v1) {
    if (tokenizer.id_of("<|start_header_id|>"))
      spec_.prompt = PromptStyle::llama_3;
    else if (tokenizer.id_of("<|im_start|>"))
      spec_.prompt = PromptStyle::hermes_2;
  }
}

std::string Prompter::prompt(const std::vector<Message>& messages) const {
  return template_ ? template_->render(template_messages(spec_, messages)) : render_prompt(spec_, messages);
}

Prompter::Answer Prompter::answer(const std::vector<Message>& messages, const std::string& prompt,
                                  const std::string& answer) const {
  if (template_) return templated_answer(template_messages(spec_, messages), prompt, answer);
  if (const auto end = tokenizer_.id_of(answer_end(spec_))) return {render_answer(spec_, answer), end};
  return {render_answer(spec_, answer), first_eos(spec_)};
}

// The template shows how it sets an answer: what it puts between prompt and answer, and, when a special token
// follows the answer, what ends it. A template that sets answered turns in another way than the open one says
// neither.
Prompter::Answer Prompter::templated_answer(Json messages, const std::string& prompt,
                                            const std::string& answer) const {
  const Json content =
      spec_.template_reads_text ? Json(answer) : Json::array({{{"type", "text"}, {"text", answer}}});
  messages.push_back({{"role", "assistant"}, {"content", content}});
  const std::string whole = template_->render(messages, /*add_generation_prompt=*/false);
  const size_t found = whole.starts_with(prompt) ? whole.find(answer, prompt.size()) : std::string::npos;
  if (found == std::string::npos) return {answer, first_eos(spec_)};
  Answer result{whole.substr(prompt.size(), found + answer.size() - prompt.size()), first_eos(spec_)};
  const std::string rest = whole.substr(found + answer.size());
  const std::vector<int64_t> ids = tokenizer_.encode(rest, /*add_special_tokens=*/false);
  if (!ids.empty() && is_special(tokenizer_, ids.front())) result.end = ids.front();
  return result;
}

}  // namespace visq

#include "visq/families/prompt.h"

#include "visq/families/image_layout.h"

namespace visq {
namespace {

std::string upper(std::string text) {
  for (char& c : text)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return text;
}

std::string repeat_images(const Message& message, const std::string& placeholder) {
  std::string text;
  for (const ContentPart& part : message.content)
    if (part.kind == ContentPart::Kind::image) text += placeholder;
  return text;
}

/// "USER: <image>\nWhat is this? ASSISTANT:"
std::string vicuna(const std::string& image_token, const std::vector<Message>& messages) {
  std::string text;
  for (const Message& message : messages) {
    if (message.role != "system") text += upper(message.role) + ": ";
    text += repeat_images(message, image_token + "\n");
    for (const ContentPart& part : message.content)
      if (part.kind == ContentPart::Kind::text) text += part.text + " ";
  }
  return text + "ASSISTANT:";
}

/// "<|im_start|>user <image>\nWhat is this?<|im_end|><|im_start|>assistant\n"
std::string chatml_images_first(const std::string& image_token, const std::vector<Message>& messages) {
  std::string text;
  for (const Message& message : messages) {
    text += "<|im_start|>" + message.role + " " + repeat_images(message, image_token);
    for (const ContentPart& part : message.content)
      if (part.kind == ContentPart::Kind::text) text += "\n" + part.text;
    text += "<|im_end|>";
  }
  return text + "<|im_start|>assistant\n";
}

std::string chatml(const ModelSpec& spec, const std::vector<Message>& messages) {
  const auto content = [&](const ContentPart& part) {
    if (part.kind == ContentPart::Kind::text) return part.text;
    const std::string& token = part.kind == ContentPart::Kind::video ? spec.video.token : spec.image_token;
    return "<|vision_start|>" + token + "<|vision_end|>";
  };
  std::string text;
  if (!messages.empty() && messages.front().role != "system")
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  for (const Message& message : messages) {
    text += "<|im_start|>" + message.role + "\n";
    for (const ContentPart& part : message.content) text += content(part);
    text += "<|im_end|>\n";
  }
  return text + "<|im_start|>assistant\n";
}

/// A style in which every turn is an opening, a text and a closing.
struct Conversation {
  const char* system;  ///< what the system says where the messages do not; "": nothing
  const char *system_open, *system_close, *user_open, *user_close;
  const char *answer_open, *answer_gap, *answer_close;  ///< the prompt ends behind answer_open
  bool images_first = true;                             ///< before the text; else where they stand
  bool system_in_turn = false;                          ///< inside the first turn of the user
};

constexpr const char* kHelpful =
    "You are a helpful language and vision assistant. You are able to understand the visual content that the "
    "user provides, and assist the user with a variety of tasks using natural language.";

// Source: spec/models-llava-vila-qwen.md §4–6.
// clang-format off
constexpr Conversation kVicunaV1{
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions.",
    "", " ", "USER: ", " ", "ASSISTANT:", " ", "</s>"};
constexpr Conversation kLlavaV1{
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions.",
    "", " ", "USER: ", " ", "ASSISTANT:", " ", "</s>"};
constexpr Conversation kLlama3{
    kHelpful,
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>",
    "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n", "", "<|eot_id|>"};
constexpr Conversation kHermes2{
    "Answer the questions.",
    "<|im_start|>system\n", "<|im_end|>", "<|im_start|>user\n", "<|im_end|>",
    "<|im_start|>assistant\n", "", "<|im_end|>"};
constexpr Conversation kNvila{
    "You are a helpful assistant",
    "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n",
    "<|im_start|>assistant\n", "", "<|im_end|>\n", false};
constexpr Conversation kQwen15{
    "You are a helpful assistant.",
    "<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n", "<|im_end|>\n",
    "<|im_start|>assistant\n", "", "<|im_end|>\n"};
constexpr Conversation kMistral{
    "", "<<SYS>>\n", "\n<</SYS>>\n\n", "[INST] ", " [/INST]", "", " ", " </s>", true, true};
// clang-format on

/// nullptr for the styles that have a function of their own.
const Conversation* conversation_of(PromptStyle style) {
  switch (style) {
    case PromptStyle::vicuna_v1:
      return &kVicunaV1;
    case PromptStyle::llama_3:
      return &kLlama3;
    case PromptStyle::hermes_2:
      return &kHermes2;
    case PromptStyle::nvila:
      return &kNvila;
    case PromptStyle::llava_v1:
      return &kLlavaV1;
    case PromptStyle::mistral:
      return &kMistral;
    case PromptStyle::qwen_1_5:
      return &kQwen15;
    case PromptStyle::vicuna:
    case PromptStyle::chatml:
    case PromptStyle::chatml_images_first:
    case PromptStyle::paligemma:
    case PromptStyle::llama_3_2:
    case PromptStyle::llama_4:
    case PromptStyle::template_only:
      break;
  }
  return nullptr;
}

std::string converse(const Conversation& style, const std::string& placeholder,
                     const std::vector<Message>& messages) {
  const auto turn = [](const char* open, const std::string& content, const char* close) {
    return open + content + close;
  };
  std::string text, system;  // system: still to be said
  if (!messages.empty() && messages.front().role != "system" && *style.system != 0)
    system = turn(style.system_open, style.system, style.system_close);
  for (const Message& message : messages) {
    std::string content = style.images_first ? repeat_images(message, placeholder) : "";
    for (const ContentPart& part : message.content) {
      const bool is_text = part.kind == ContentPart::Kind::text;
      if (is_text || !style.images_first) content += is_text ? part.text : placeholder;
    }
    if (message.role == "system") {
      system = turn(style.system_open, content, style.system_close);
      continue;
    }
    if (!style.system_in_turn) text += system;
    if (message.role == "assistant")
      text += turn(style.answer_open, style.answer_gap + content, style.answer_close);
    else
      text += turn(style.user_open, (style.system_in_turn ? system : "") + content, style.user_close);
    system.clear();
  }
  return text + style.answer_open;
}

/// "<image><bos>What is this?\n"
std::string paligemma(const std::string& image_token, const std::vector<Message>& messages) {
  std::string images, text;
  for (const Message& message : messages) {
    images += repeat_images(message, image_token);
    for (const ContentPart& part : message.content)
      if (part.kind == ContentPart::Kind::text) text += part.text;
  }
  return images + "<bos>" + text + "\n";
}

/// The tokens of a style that gives each turn a header.
struct Headers {
  const char *open, *close, *turn_end;
};
constexpr Headers kLlama32{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
constexpr Headers kLlama4{"<|header_start|>", "<|header_end|>", "<|eot|>"};

/// "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>What is this?<|eot_id|>…"
std::string with_headers(const Headers& style, const std::string& image,
                         const std::vector<Message>& messages) {
  const auto header = [&style](const std::string& role) { return style.open + role + style.close + "\n\n"; };
  std::string text = "<|begin_of_text|>";
  for (const Message& message : messages) {
    text += header(message.role);
    for (const ContentPart& part : message.content)
      text += part.kind == ContentPart::Kind::image ? image : part.text;
    text += style.turn_end;
  }
  return text + header("assistant");
}

}  // namespace

std::string render_prompt(const ModelSpec& spec, const std::vector<Message>& messages) {
  if (const Conversation* style = conversation_of(spec.prompt))
    return converse(*style, image_placeholder(spec, 1), messages);
  switch (spec.prompt) {
    case PromptStyle::vicuna:
      return vicuna(spec.image_token, messages);
    case PromptStyle::chatml:
      return chatml(spec, messages);
    case PromptStyle::paligemma:
      return paligemma(spec.image_token, messages);
    case PromptStyle::llama_3_2:
      return with_headers(kLlama32, spec.image_token, messages);
    case PromptStyle::llama_4:
      return with_headers(kLlama4, image_placeholder(spec, 1), messages);
    case PromptStyle::chatml_images_first:
      return chatml_images_first(spec.image_token, messages);
    case PromptStyle::template_only:
      fail(
          "the checkpoint has no chat template (chat_template.jinja, or 'chat_template' in "
          "tokenizer_config.json), and no other prompt is known for the family '{}'",
          spec.family);
    default:
      break;
  }
  fail("prompt style {} does not exist", static_cast<int>(spec.prompt));
}

std::string answer_end(const ModelSpec& spec) {
  switch (spec.prompt) {
    case PromptStyle::chatml:
    case PromptStyle::chatml_images_first:
    case PromptStyle::hermes_2:
    case PromptStyle::nvila:
    case PromptStyle::qwen_1_5:
      return "<|im_end|>";
    case PromptStyle::llama_3:
    case PromptStyle::llama_3_2:
      return kLlama32.turn_end;
    case PromptStyle::llama_4:
      return kLlama4.turn_end;
    case PromptStyle::vicuna:
    case PromptStyle::vicuna_v1:
    case PromptStyle::llava_v1:
    case PromptStyle::mistral:
    case PromptStyle::paligemma:
    case PromptStyle::template_only:
      break;
  }
  return "";
}

std::string render_answer(const ModelSpec& spec, const std::string& answer) {
  if (const Conversation* style = conversation_of(spec.prompt)) return style->answer_gap + answer;
  return spec.prompt == PromptStyle::vicuna ? " " + answer : answer;
}

}  // namespace visq

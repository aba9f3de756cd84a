#include "visq/families/prompt.h"

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

std::string chatml(const std::string& image_token, const std::vector<Message>& messages) {
  std::string text;
  if (!messages.empty() && messages.front().role != "system")
    text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";
  for (const Message& message : messages) {
    text += "<|im_start|>" + message.role + "\n";
    for (const ContentPart& part : message.content)
      text += part.kind == ContentPart::Kind::image ? "<|vision_start|>" + image_token + "<|vision_end|>"
                                                    : part.text;
    text += "<|im_end|>\n";
  }
  return text + "<|im_start|>assistant\n";
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

/// "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n<|image|>What is this?<|eot_id|>…"
std::string llama3(const std::string& image_token, const std::vector<Message>& messages) {
  const auto header = [](const std::string& role) {
    return "<|start_header_id|>" + role + "<|end_header_id|>\n\n";
  };
  std::string text = "<|begin_of_text|>";
  for (const Message& message : messages) {
    text += header(message.role);
    for (const ContentPart& part : message.content)
      text += part.kind == ContentPart::Kind::image ? image_token : part.text;
    text += "<|eot_id|>";
  }
  return text + header("assistant");
}

}  // namespace

std::string render_prompt(const ModelSpec& spec, const std::vector<Message>& messages) {
  switch (spec.prompt) {
    case PromptStyle::vicuna:
      return vicuna(spec.image_token, messages);
    case PromptStyle::chatml:
      return chatml(spec.image_token, messages);
    case PromptStyle::paligemma:
      return paligemma(spec.image_token, messages);
    case PromptStyle::llama3:
      return llama3(spec.image_token, messages);
    case PromptStyle::chatml_images_first:
      return chatml_images_first(spec.image_token, messages);
  }
  fail("prompt style {} does not exist", static_cast<int>(spec.prompt));
}

std::string render_answer(const ModelSpec& spec, const std::string& answer) {
  return spec.prompt == PromptStyle::vicuna ? " " + answer : answer;
}

}  // namespace visq

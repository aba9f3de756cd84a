#include "visq/families/prompt.h"

#include <gtest/gtest.h>

namespace visq {
namespace {

ContentPart text(const std::string& value) { return {ContentPart::Kind::text, value, {}}; }
ContentPart image() { return {ContentPart::Kind::image, "", "picture.png"}; }

ModelSpec spec(PromptStyle style) {
  ModelSpec result;
  result.prompt = style;
  result.image_token = style == PromptStyle::chatml ? "<|image_pad|>" : "<image>";
  return result;
}

TEST(Vicuna, PutsImagesFirstAndASpaceAfterEachText) {
  EXPECT_EQ(render_prompt(spec(PromptStyle::vicuna), {{"user", {text("What is this?"), image()}}}),
            "USER: <image>\nWhat is this? ASSISTANT:");
  EXPECT_EQ(
      render_prompt(spec(PromptStyle::vicuna), {{"system", {text("Be brief.")}},
                                                {"user", {image(), image(), text("Same?"), text("Or not?")}},
                                                {"assistant", {text("Yes.")}},
                                                {"user", {text("Why?")}}}),
      "Be brief. USER: <image>\n<image>\nSame? Or not? ASSISTANT: Yes. USER: Why? ASSISTANT:");
  EXPECT_EQ(render_answer(spec(PromptStyle::vicuna), "A cat."), " A cat.");
}

TEST(TemplateOnly, HasNoPromptOfItsOwn) {
  ModelSpec only = spec(PromptStyle::template_only);
  only.family = "some_family";
  try {
    render_prompt(only, {{"user", {text("What is this?")}}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the checkpoint has no chat template"), std::string::npos);
  }
}

TEST(Llama3, HasAHeaderForEachTurn) {
  EXPECT_EQ(render_prompt(spec(PromptStyle::llama_3_2),
                          {{"system", {text("Be brief.")}}, {"user", {text("See"), image(), text("Same?")}}}),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nSee<image>Same?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(Llama4, HasAHeaderForEachTurnAndAPlaceholderForEachImage) {
  ModelSpec llama4 = spec(PromptStyle::llama_4);
  llama4.image_token = "<|patch|>", llama4.image_placeholder = "<|image|>";
  EXPECT_EQ(render_prompt(llama4,
                          {{"system", {text("Be brief.")}}, {"user", {text("See"), image(), text("Same?")}}}),
            "<|begin_of_text|><|header_start|>system<|header_end|>\n\nBe brief.<|eot|>"
            "<|header_start|>user<|header_end|>\n\nSee<|image|>Same?<|eot|>"
            "<|header_start|>assistant<|header_end|>\n\n");
}

TEST(Chatml, AddsTheSystemTurnAndKeepsTheOrderOfTheParts) {
  EXPECT_EQ(render_prompt(spec(PromptStyle::chatml), {{"user", {image(), text("What is this?")}}}),
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What is this?<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(render_prompt(spec(PromptStyle::chatml), {{"system", {text("Be brief.")}},
                                                      {"user", {text("Left: "), image(), text(" right?")}},
                                                      {"assistant", {text("Yes.")}},
                                                      {"user", {text("Why?")}}}),
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nLeft: <|vision_start|><|image_pad|><|vision_end|> right?<|im_end|>\n"
            "<|im_start|>assistant\nYes.<|im_end|>\n"
            "<|im_start|>user\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(render_answer(spec(PromptStyle::chatml), "A cat."), "A cat.");
}

TEST(Chatml, HasAPlaceholderOfItsOwnForAVideo) {
  ModelSpec chatml = spec(PromptStyle::chatml);
  chatml.video.token = "<|video_pad|>";
  const ContentPart video{.kind = ContentPart::Kind::video};
  EXPECT_EQ(
      render_prompt(chatml, {{"system", {text("Be brief.")}}, {"user", {video, image(), text("Same?")}}}),
      "<|im_start|>system\nBe brief.<|im_end|>\n"
      "<|im_start|>user\n<|vision_start|><|video_pad|><|vision_end|><|vision_start|><|image_pad|>"
      "<|vision_end|>Same?<|im_end|>\n<|im_start|>assistant\n");
}

TEST(ChatmlImagesFirst, HasNoSystemTurnAndNoLineBetweenTurns) {
  EXPECT_EQ(
      render_prompt(spec(PromptStyle::chatml_images_first), {{"user", {text("What is this?"), image()}}}),
      "<|im_start|>user <image>\nWhat is this?<|im_end|><|im_start|>assistant\n");
  EXPECT_EQ(render_answer(spec(PromptStyle::chatml_images_first), "A cat."), "A cat.");
}

/// Where the prompt holds the line break behind an image.
ModelSpec line_spec(PromptStyle style) {
  ModelSpec result = spec(style);
  result.image_placeholder = "<image>\n";
  return result;
}

const std::vector<Message> kTurns = {
    {"user", {text("What is this?"), image()}}, {"assistant", {text("A cat.")}}, {"user", {text("Why?")}}};

TEST(VilaPrompts, SetAnsweredTurnsAsTheyWereTrained) {
  EXPECT_EQ(
      render_prompt(line_spec(PromptStyle::vicuna_v1), kTurns),
      "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
      "detailed, and polite answers to the user's questions. USER: <image>\nWhat is this? ASSISTANT: A "
      "cat.</s>USER: Why? ASSISTANT:");
  EXPECT_EQ(render_answer(spec(PromptStyle::vicuna_v1), "A cat."), " A cat.");
  EXPECT_EQ(
      render_prompt(line_spec(PromptStyle::hermes_2), kTurns),
      "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat is this?<|im_end|>"
      "<|im_start|>assistant\nA cat.<|im_end|><|im_start|>user\nWhy?<|im_end|><|im_start|>assistant\n");
  EXPECT_EQ(
      render_prompt(spec(PromptStyle::nvila), kTurns),
      "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nWhat is this?<image>"
      "<|im_end|>\n<|im_start|>assistant\nA cat.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
      "<|im_start|>assistant\n");
  EXPECT_EQ(render_answer(spec(PromptStyle::nvila), "A cat."), "A cat.");
}

TEST(VilaPrompts, TakeTheSystemTextOfTheMessages) {
  const std::vector<Message> messages = {{"system", {text("Be brief.")}}, {"user", {image(), text("Why?")}}};
  EXPECT_EQ(render_prompt(line_spec(PromptStyle::vicuna_v1), messages),
            "Be brief. USER: <image>\nWhy? ASSISTANT:");
  EXPECT_EQ(render_prompt(line_spec(PromptStyle::llama_3), messages),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

TEST(LlavaPrompts, AreThoseOfTheAuthors) {
  const std::vector<Message> question = {{"user", {image(), text("Why?")}}};
  EXPECT_EQ(render_prompt(line_spec(PromptStyle::llava_v1), question),
            "A chat between a curious human and an artificial intelligence assistant. The assistant gives "
            "helpful, detailed, and polite answers to the human's questions. USER: <image>\nWhy? ASSISTANT:");
  EXPECT_EQ(
      render_prompt(line_spec(PromptStyle::qwen_1_5), question),
      "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhy?<|im_end|>"
      "\n<|im_start|>assistant\n");
  EXPECT_EQ(render_prompt(line_spec(PromptStyle::mistral), kTurns),
            "[INST] <image>\nWhat is this? [/INST] A cat. </s>[INST] Why? [/INST]");
  EXPECT_EQ(render_answer(line_spec(PromptStyle::mistral), "A cat."), " A cat.");
  EXPECT_EQ(render_prompt(line_spec(PromptStyle::mistral),
                          {{"system", {text("Be brief.")}}, {"user", {text("Why?")}}}),
            "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]");
}

TEST(AnswerEnd, IsTheTokenThatClosesATurn) {
  EXPECT_EQ(answer_end(spec(PromptStyle::llama_3)), "<|eot_id|>");
  EXPECT_EQ(answer_end(spec(PromptStyle::llama_4)), "<|eot|>");
  EXPECT_EQ(answer_end(spec(PromptStyle::nvila)), "<|im_end|>");
  EXPECT_EQ(answer_end(spec(PromptStyle::vicuna_v1)), "");
}

}  // namespace
}  // namespace visq

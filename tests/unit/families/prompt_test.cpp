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

TEST(Llama3, HasAHeaderForEachTurn) {
  EXPECT_EQ(render_prompt(spec(PromptStyle::llama3),
                          {{"system", {text("Be brief.")}}, {"user", {text("See"), image(), text("Same?")}}}),
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nSee<image>Same?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n");
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

TEST(ChatmlImagesFirst, HasNoSystemTurnAndNoLineBetweenTurns) {
  EXPECT_EQ(
      render_prompt(spec(PromptStyle::chatml_images_first), {{"user", {text("What is this?"), image()}}}),
      "<|im_start|>user <image>\nWhat is this?<|im_end|><|im_start|>assistant\n");
  EXPECT_EQ(render_answer(spec(PromptStyle::chatml_images_first), "A cat."), "A cat.");
}

}  // namespace
}  // namespace visq

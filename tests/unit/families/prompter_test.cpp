#include "visq/families/prompter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/unit/families/tiny_checkpoint.h"

namespace visq {
namespace {

using Special = std::vector<std::pair<std::string, int64_t>>;

struct Asked {
  std::string prompt;
  std::optional<int64_t> end;
};

/// What a model of `style` with these special tokens is asked, and what ends its answer.
Asked ask(PromptStyle style, const Special& special) {
  const test::TemporaryDirectory directory;
  test::write_tokenizer(directory.path(), special);
  const Tokenizer tokenizer = Tokenizer::load(directory.path());
  ModelSpec spec;
  spec.prompt = style;
  spec.image_token = "<image>";
  spec.eos_ids = {2, 3};
  const Prompter prompter(spec, tokenizer, std::nullopt);
  const std::vector<Message> messages = {{"user", {{ContentPart::Kind::text, "Why?", {}}}}};
  const std::string prompt = prompter.prompt(messages);
  return {prompt, prompter.answer(messages, prompt, "So.").end};
}

TEST(Prompter, FindsTheConversationOfVila15ByTheTokens) {
  for (const PromptStyle style : {PromptStyle::vicuna_v1, PromptStyle::llava_v1}) {
    const Asked vicuna = ask(style, {});
    EXPECT_TRUE(vicuna.prompt.ends_with(" USER: Why? ASSISTANT:")) << vicuna.prompt;
    EXPECT_EQ(vicuna.end, 2);
    const Asked llama = ask(style, {{"<|start_header_id|>", 201}, {"<|eot_id|>", 202}});
    EXPECT_TRUE(llama.prompt.starts_with("<|begin_of_text|><|start_header_id|>system")) << llama.prompt;
    EXPECT_EQ(llama.end, 202);
    const Asked hermes = ask(style, {{"<|im_start|>", 201}, {"<|im_end|>", 203}});
    EXPECT_TRUE(
        hermes.prompt.starts_with("<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n"))
        << hermes.prompt;
    EXPECT_EQ(hermes.end, 203);
  }
}

TEST(Prompter, FallsBackToVicunaWithoutTheTokensOfChatml) {
  EXPECT_EQ(ask(PromptStyle::chatml_images_first, {}).prompt, "USER: Why? ASSISTANT:");
  EXPECT_EQ(ask(PromptStyle::chatml_images_first, {{"<|im_start|>", 201}}).prompt,
            "<|im_start|>user \nWhy?<|im_end|><|im_start|>assistant\n");
}

}  // namespace
}  // namespace visq

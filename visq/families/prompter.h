// Messages → the text that the model was trained to see: by the checkpoint's own chat template, or by the
// family's built-in prompt where it has none.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "visq/families/family.h"
#include "visq/inputs/template.h"
#include "visq/inputs/tokenizer.h"

namespace visq {

class Prompter {
 public:
  /// @param tokenizer  outlives the prompter
  Prompter(const ModelSpec& spec, const Tokenizer& tokenizer, std::optional<ChatTemplate> chat_template);

  /// The conversation, ending where the model's answer begins; one placeholder an image or a video.
  std::string prompt(const std::vector<Message>& messages) const;

  struct Answer {
    std::string text;            ///< what follows the prompt
    std::optional<int64_t> end;  ///< the token that ends it
  };
  /// @param prompt  of the same messages
  Answer answer(const std::vector<Message>& messages, const std::string& prompt,
                const std::string& answer) const;

 private:
  Answer templated_answer(Json messages, const std::string& prompt, const std::string& answer) const;
  ModelSpec spec_;
  const Tokenizer& tokenizer_;
  std::optional<ChatTemplate> template_;
};

}  // namespace visq

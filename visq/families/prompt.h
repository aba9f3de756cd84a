// The built-in prompts of the families.
#pragma once
#include <string>
#include <vector>

#include "visq/families/family.h"

namespace visq {

/// The conversation as text, ending where the model's answer begins; one placeholder per image or
/// video.
/// Source: spec/models-llava-vila-qwen.md §3 (vicuna), §6 (VILA), §7 (chatml).
std::string render_prompt(const ModelSpec& spec, const std::vector<Message>& messages);
/// What follows the prompt when the model answers `answer`, end token left out.
std::string render_answer(const ModelSpec& spec, const std::string& answer);
/// The token that ends an answer; "": the model's end token does.
std::string answer_end(const ModelSpec& spec);

}  // namespace visq

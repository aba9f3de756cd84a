// Internal to visq/inputs: what happens to text before and behind BPE.
#pragma once
#include <functional>

#include "visq/inputs/bpe.h"
#include "visq/inputs/normalizer.h"
#include "visq/inputs/post_processor.h"
#include "visq/inputs/pretokenizer.h"
#include "visq/inputs/token_decoder.h"
#include "visq/inputs/tokenizer_files.h"

namespace visq {

struct Pipeline {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  Bpe::Options bpe;
};

/// What tokenizer.json says, or what the class fixes instead, in the terms of that file; a warning tells
/// where these differ. Source: spec/inputs.md §2 steps 5 and 10, §3.1.
Json pipeline_rules(const TokenizerFiles& files, TokenizerClass chosen);

/// @param rules  of pipeline_rules()
Bpe::Options bpe_options(const Json& rules, const std::string& origin);

/// tokenizer.json has its own; the flags of tokenizer_config.json count only beside the other sources.
PostProcessor make_post_processor(const TokenizerFiles& files, const AddedTokenPlan& plan,
                                  const std::function<std::optional<int64_t>(const std::string&)>& id_of);

/// The rules as steps.
/// @throws Error naming the file and a component that is not supported
Pipeline make_pipeline(const TokenizerFiles& files, TokenizerClass chosen);

}  // namespace visq

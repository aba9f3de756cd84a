// Internal to visq/inputs: what happens to text before and behind BPE.
#pragma once
#include "visq/inputs/bpe.h"
#include "visq/inputs/normalizer.h"
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

/// What tokenizer.json says, or what the class fixes instead; a warning tells where these differ.
/// Source: spec/inputs.md §2 steps 5 and 10, §3.1.
/// @throws Error naming the file and a component that is not supported
Pipeline make_pipeline(const TokenizerFiles& files, TokenizerClass chosen);

}  // namespace visq

#include "visq/inputs/tokenizer.h"

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/inputs/added_tokens.h"
#include "visq/inputs/bpe.h"
#include "visq/inputs/normalizer.h"
#include "visq/inputs/post_processor.h"
#include "visq/inputs/pretokenizer.h"
#include "visq/inputs/token_decoder.h"
#include "visq/inputs/tokenizer_files.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr std::string_view kQwen2Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// What happens to text before and behind BPE.
struct Pipeline {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  Bpe::Options bpe;
};

Json component(const TokenizerFiles& files, const char* name) { return files.file.value(name, Json()); }

Pipeline pipeline_of_file(const TokenizerFiles& files) {
  const Json& model = files.file.at("model");
  const std::string origin = files.origin + ": model";
  if (!model.value("dropout", Json()).is_null() && get_or(model, "dropout", 0.0, origin) != 0)
    fail("{}: 'dropout' is not supported", origin);
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!get_or<std::string>(model, affix, "", origin).empty())
      fail("{}: '{}' is not supported", origin, affix);
  Pipeline pipeline{Normalizer::parse(component(files, "normalizer"), files.origin),
                    PreTokenizer::parse(component(files, "pre_tokenizer"), files.origin),
                    TokenDecoder::parse(component(files, "decoder"), files.origin),
                    {}};
  if (const auto unk = get_or<std::string>(model, "unk_token", "", origin); !unk.empty())
    pipeline.bpe.unk_token = unk;
  pipeline.bpe.fuse_unk = get_or(model, "fuse_unk", false, origin);
  pipeline.bpe.byte_fallback = get_or(model, "byte_fallback", false, origin);
  pipeline.bpe.ignore_merges = get_or(model, "ignore_merges", false, origin);
  return pipeline;
}

/// The rules that the reference's Qwen2 class fixes, whatever tokenizer.json says.
Pipeline pipeline_of_qwen2(const TokenizerFiles& files) {
  const bool prefix_space = get_or(files.config, "add_prefix_space", false, "tokenizer_config.json");
  return {Normalizer({Normalizer::Nfc{}}),
          PreTokenizer({PreTokenizer::Split{SplitPattern::regex(kQwen2Pattern, "Qwen2Tokenizer")},
                        PreTokenizer::ByteLevel{prefix_space, /*use_regex=*/false}}),
          TokenDecoder({TokenDecoder::ByteLevel{}}),
          {}};
}

void warn_about_shifted_ids(const TokenizerFiles& files, const AddedTokens& added) {
  for (const DeclaredToken& declared : files.declared_tokens) {
    const auto id = added.id_of(declared.token.content);
    if (!id || *id == declared.id) continue;
    log_warning(
        visq::format("{}: added token '{}' declares the id {} but gets {}, as in the reference library",
                     files.origin, declared.token.content, declared.id, *id));
    return;
  }
}

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerFiles files, TokenizerClass chosen, Pipeline pipeline)
      : normalizer(std::move(pipeline.normalizer)),
        pre_tokenizer(std::move(pipeline.pre_tokenizer)),
        decoder(std::move(pipeline.decoder)),
        model(std::move(files.vocabulary), files.merges, std::move(pipeline.bpe), files.origin),
        post_processor(PostProcessor::parse(component(files, "post_processor"), files.origin)) {
    for (const auto& tokens : list_added_tokens(files, chosen)) added.add(tokens, model);
    added.build(normalizer, get_or(files.config, "split_special_tokens", false, "tokenizer_config.json"),
                files.origin);
    warn_about_shifted_ids(files, added);
  }

  /// A stretch between two added tokens that are sought in raw text.
  void encode_raw(std::string_view raw, bool at_start, std::vector<int64_t>& ids) const {
    const std::string text = normalizer.apply(std::string(raw));
    for (const Stretch& stretch : added.split_normalized(text)) {
      if (stretch.id) {
        ids.push_back(*stretch.id);
        continue;
      }
      const auto [begin, end] = stretch.span;
      for (const Piece& piece :
           pre_tokenizer.split({text.substr(begin, end - begin), at_start && begin == 0}))
        model.encode(piece.text, ids);
    }
  }

  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  TokenDecoder decoder;
  Bpe model;
  AddedTokens added;
  PostProcessor post_processor;
};

Tokenizer Tokenizer::load(const std::filesystem::path& directory) {
  TokenizerFiles files = read_tokenizer_files(directory);
  const TokenizerClass chosen = choose_class(files);
  Pipeline pipeline = chosen == TokenizerClass::qwen2 ? pipeline_of_qwen2(files) : pipeline_of_file(files);
  return Tokenizer(std::make_shared<const Impl>(std::move(files), chosen, std::move(pipeline)));
}

std::vector<int64_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  const std::string valid = to_valid_utf8(text);
  std::vector<int64_t> ids;
  if (add_special_tokens) ids = impl_->post_processor.prefix;
  for (const Stretch& stretch : impl_->added.split_raw(valid)) {
    const auto [begin, end] = stretch.span;
    if (stretch.id) {
      ids.push_back(*stretch.id);
    } else {
      impl_->encode_raw(std::string_view(valid).substr(begin, end - begin), begin == 0, ids);
    }
  }
  if (add_special_tokens)
    ids.insert(ids.end(), impl_->post_processor.suffix.begin(), impl_->post_processor.suffix.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int64_t> ids, bool skip_special) const {
  std::vector<std::string> tokens;
  for (const int64_t id : ids) {
    const std::string* token =
        impl_->added.find(id) ? &impl_->added.decoding_text(id) : impl_->model.token_of(id);
    if (token != nullptr && !(skip_special && impl_->added.is_special(*token))) tokens.push_back(*token);
  }
  return impl_->decoder.decode(std::move(tokens));
}

std::optional<int64_t> Tokenizer::id_of(std::string_view token) const {
  const auto added = impl_->added.id_of(token);
  return added ? added : impl_->model.id_of(token);
}

int64_t Tokenizer::size() const { return std::max(impl_->added.largest_id(), impl_->model.largest_id()) + 1; }

}  // namespace visq

#include "visq/inputs/tokenizer.h"

#include <algorithm>

#include "visq/core/error.h"
#include "visq/core/log.h"
#include "visq/inputs/added_tokens.h"
#include "visq/inputs/tokenizer_files.h"
#include "visq/inputs/tokenizer_pipeline.h"
#include "visq/inputs/unicode.h"

namespace visq {
namespace {

constexpr const char* kConfigName = "tokenizer_config.json";

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
        model(std::move(files.vocabulary), files.merges, std::move(pipeline.bpe), files.origin) {
    const AddedTokenPlan plan = plan_added_tokens(files, chosen);
    for (const auto& tokens : plan.lists) added.add(tokens, model);
    added.build(normalizer, get_or(files.config, "split_special_tokens", false, kConfigName), files.origin);
    warn_about_shifted_ids(files, added);
    post_processor =
        make_post_processor(files, plan, [this](const std::string& token) { return id_of(token); });
  }

  std::optional<int64_t> id_of(std::string_view token) const {
    const auto id = added.id_of(token);
    return id ? id : model.id_of(token);
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
  Pipeline pipeline = make_pipeline(files, chosen);
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

std::optional<int64_t> Tokenizer::id_of(std::string_view token) const { return impl_->id_of(token); }

int64_t Tokenizer::size() const { return std::max(impl_->added.largest_id(), impl_->model.largest_id()) + 1; }

}  // namespace visq

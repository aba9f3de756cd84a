#include "visq/inputs/vocabulary.h"

#include <algorithm>

#include "visq/inputs/added_tokens.h"
#include "visq/inputs/merges.h"
#include "visq/inputs/tokenizer_files.h"
#include "visq/inputs/tokenizer_pipeline.h"

namespace visq {
namespace {

using Type = Vocabulary::Type;

bool is_byte_token(const std::string& text) {
  return text.size() == 6 && text.starts_with("<0x") && text.ends_with('>') &&
         text.find_first_not_of("0123456789ABCDEF", 3) == 5;
}

bool mentions_byte_level(const Json& pre_tokenizer) {
  if (!pre_tokenizer.is_object()) return false;
  if (pre_tokenizer.value("type", Json()) == "ByteLevel") return true;
  const Json steps = pre_tokenizer.value("pretokenizers", Json::array());
  return std::ranges::any_of(steps, mentions_byte_level);
}

}  // namespace

Vocabulary read_vocabulary(const std::filesystem::path& directory) {
  TokenizerFiles files = read_tokenizer_files(directory);
  const TokenizerClass chosen = choose_class(files);
  const AddedTokenPlan plan = plan_added_tokens(files, chosen);
  const Json rules = pipeline_rules(files, chosen);
  const Bpe::Options options = bpe_options(rules, files.origin);
  const Bpe model(files.vocabulary, files.merges, options, files.origin);
  AddedTokens added;
  for (const auto& tokens : plan.lists) added.add(tokens, model);

  Vocabulary vocabulary;
  vocabulary.origin = files.origin;
  vocabulary.normalizer = rules.value("normalizer", Json());
  vocabulary.pre_tokenizer = rules.value("pre_tokenizer", Json());
  vocabulary.byte_level = mentions_byte_level(vocabulary.pre_tokenizer);
  const auto id_of = [&](const std::string& token) {
    const auto id = added.id_of(token);
    return id ? id : model.id_of(token);
  };
  const auto named = [&](const std::optional<std::string>& token) {
    return token ? id_of(*token) : std::nullopt;
  };
  vocabulary.bos = named(plan.bos);
  vocabulary.eos = named(plan.eos);
  vocabulary.unk = named(options.unk_token ? options.unk_token : plan.unk);
  vocabulary.pad = named(plan.pad);
  const PostProcessor around = make_post_processor(files, plan, id_of);
  vocabulary.add_bos = vocabulary.bos && !around.prefix.empty() && around.prefix.front() == *vocabulary.bos;
  vocabulary.add_eos = vocabulary.eos && !around.suffix.empty() && around.suffix.back() == *vocabulary.eos;

  vocabulary.tokens.resize(static_cast<size_t>(std::max(added.largest_id(), model.largest_id()) + 1));
  int bytes = 0;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Vocabulary::Token& token = vocabulary.tokens[id];
    if (const AddedToken* const own = added.find(static_cast<int64_t>(id))) {
      token = {own->content, own->special ? Type::control : Type::user_defined};
    } else if (const std::string* const text = model.token_of(static_cast<int64_t>(id))) {
      const bool byte = options.byte_fallback && is_byte_token(*text);
      token = {*text, byte ? Type::byte : Type::normal};
      bytes += byte ? 1 : 0;
    }
    if (!vocabulary.byte_level && vocabulary.unk == static_cast<int64_t>(id)) token.type = Type::unknown;
  }
  vocabulary.has_byte_tokens = bytes == 256;
  vocabulary.merges = std::move(files.merges);
  return vocabulary;
}

MergeRanks merge_ranks(const Vocabulary& vocabulary) {
  struct Made {
    size_t first, last, count;
  };
  StringMap<Made> made;
  for (size_t rank = 0; rank < vocabulary.merges.size(); ++rank) {
    const auto& [left, right] = vocabulary.merges[rank];
    Made& token = made.try_emplace(left + right, Made{rank, rank, 0}).first->second;
    token.last = rank;
    ++token.count;
  }
  StringMap<int64_t> ids;
  const auto is_text = [](const Vocabulary::Token& token) {
    return token.type == Type::normal || token.type == Type::user_defined;
  };
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id)
    if (is_text(vocabulary.tokens[id])) ids.emplace(vocabulary.tokens[id].text, static_cast<int64_t>(id));
  MergeRanks ranks;
  for (const Vocabulary::Token& token : vocabulary.tokens) {
    const auto own = made.find(token.text);
    ranks.first.push_back(own == made.end() ? std::nullopt : std::optional(own->second.first));
    if (!is_text(token)) continue;
    const size_t ways =
        token.text.size() > kMaxTokenBytes ? 0 : cuts_of(token.text, ids, CutAt::characters).size();
    const size_t listed = own == made.end() ? 0 : own->second.count;
    if (listed != ways || (ways > 0 && own->second.last - own->second.first + 1 != ways))
      ranks.complete = false;
  }
  return ranks;
}

}  // namespace visq
